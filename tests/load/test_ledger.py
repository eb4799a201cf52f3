from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.ledger import (
    Account,
    Closed,
    Deliveries,
    Profile,
    ServerSide,
    join_reasons,
    settle_deliveries,
)
from loadclient.voices import Voices

SIZE = 64
VOICES = Voices.alike(3, 20, SIZE)
PREFIX = {0: 8, 1: 8, 2: 9}  # "[USER8] ", "[USER9] ", "[USER10] "


def fair_accounts(messages: list[int]) -> list[Account]:
    """Return three connections that all got everything of the others."""
    frames = [count * (SIZE + PREFIX[n]) for n, count in enumerate(messages)]
    return [
        Account(
            sender=n,
            due=messages[n],
            sent_bytes=messages[n] * SIZE,
            received_bytes=sum(frames) - frames[n],
        )
        for n in range(3)
    ]


def settle(accounts: list[Account]) -> Deliveries:
    return settle_deliveries(accounts, PREFIX, VOICES)


counts = st.lists(st.integers(0, 10_000), min_size=3, max_size=3)


@given(counts)
def test_full_delivery_balances(messages: list[int]) -> None:
    deliveries = settle(fair_accounts(messages))

    assert deliveries.reasons == ()
    assert deliveries.received == deliveries.expected == 2 * sum(messages)
    assert sum(deliveries.lost.values()) == 0


@given(counts.filter(lambda messages: messages[0] > 50), st.integers(1, 50))
def test_announced_drops_balance_to_the_message(messages: list[int], dropped: int) -> None:
    """Drops of any sender, within the lengths that frames have."""
    accounts = fair_accounts(messages)
    notice = b"[etltd] %d messages dropped\n" % dropped
    accounts[2] = replace(
        accounts[2],
        received_bytes=accounts[2].received_bytes - dropped * (SIZE + 8) + len(notice),
        notice_bytes=len(notice),
        announced=dropped,
    )
    deliveries = settle(accounts)

    assert deliveries.reasons == ()
    assert deliveries.lost == {"announced": dropped, "closed": 0, "unexplained": 0}
    assert deliveries.received == deliveries.expected - dropped


@given(counts.filter(lambda messages: messages[0] > 50), st.integers(1, 50))
def test_silent_loss_is_counted_and_named(messages: list[int], dropped: int) -> None:
    accounts = fair_accounts(messages)
    accounts[1] = replace(
        accounts[1], received_bytes=accounts[1].received_bytes - dropped * (SIZE + 8)
    )
    deliveries = settle(accounts)

    assert deliveries.lost["unexplained"] == dropped
    assert deliveries.received == deliveries.expected - dropped
    assert "lost without a notice" in deliveries.reasons[0]
    assert "connection 1" in deliveries.reasons[0]


@pytest.mark.parametrize("surplus", [1, 72, 7200])
def test_a_single_byte_too_many_is_not_rounded_away(surplus: int) -> None:
    accounts = fair_accounts([10, 10, 10])
    accounts[0] = replace(accounts[0], received_bytes=accounts[0].received_bytes + surplus)
    deliveries = settle(accounts)

    assert deliveries.surplus_bytes == surplus
    assert "more than they were owed" in deliveries.reasons[0]


def test_what_is_only_late_is_not_called_lost_for_certain() -> None:
    """Without a witness, time is all that tells the one from the other."""
    accounts = fair_accounts([10, 10, 10])
    accounts[0] = replace(accounts[0], received_bytes=accounts[0].received_bytes - 72)
    late = settle_deliveries(accounts, PREFIX, VOICES, waited_seconds=3)

    assert "or had not come 3 s after the last one was due" in late.reasons[0]
    assert "or had not come" not in settle(accounts).reasons[0]


@pytest.mark.parametrize(
    ("said", "refusal"),
    [("line too long", {"too_long": 4}), ("rate limited", {"rate_limited": 4})],
)
def test_refused_messages_are_owed_to_nobody_and_quoted(said: str, refusal: dict[str, int]) -> None:
    """They never became messages, and their sender was told."""
    accounts = fair_accounts([6, 10, 10])
    accounts[0] = replace(accounts[0], sent_bytes=10 * SIZE, **refusal)
    deliveries = settle(accounts)

    assert deliveries.reasons == (f"the server refused 4 of 30 messages: {said}",)
    assert deliveries.expected == deliveries.received == 52
    assert joined(replace(SERVER, received=26, refused=4, enqueued=52), accounts) == ""
    assert "but told the clients of 4" in joined(replace(SERVER, refused=3), accounts)


def test_a_single_byte_too_few_is_not_rounded_away() -> None:
    accounts = fair_accounts([10, 10, 10])
    accounts[0] = replace(accounts[0], received_bytes=accounts[0].received_bytes - 1)

    assert settle(accounts).lost["unexplained"] == 1


def test_drops_announced_but_delivered_are_a_contradiction() -> None:
    """The server says that it dropped what did arrive."""
    accounts = fair_accounts([10, 10, 10])
    accounts[0] = replace(accounts[0], announced=3)

    assert settle(accounts).surplus_bytes == 3 * (SIZE + 8)


def test_copies_for_never_readers_are_owed_and_not_expected() -> None:
    accounts = fair_accounts([10, 10, 10])
    accounts[2] = replace(accounts[2], profile=Profile.NEVER, received_bytes=0)
    deliveries = settle(accounts)

    assert deliveries.reasons == ()
    assert deliveries.expected == deliveries.received == 40
    assert deliveries.owed_to_never_readers == 20


def test_what_a_closed_connection_missed_is_explained_by_that() -> None:
    """Its own messages may or may not have been read, so others may lack them too."""
    accounts = fair_accounts([10, 10, 10])
    accounts[2] = replace(accounts[2], closed=Closed.RESET, received_bytes=5 * (SIZE + 8))
    accounts[0] = replace(accounts[0], received_bytes=accounts[0].received_bytes - 2 * (SIZE + 9))
    deliveries = settle(accounts)

    assert deliveries.reasons == ()
    assert deliveries.lost == {"announced": 0, "closed": 17, "unexplained": 0}
    assert deliveries.received == deliveries.expected - 17


def test_without_hellos_frames_count_as_bare_messages() -> None:
    """Receiving off: no prefix is known, and none is needed."""
    accounts = [
        Account(profile=Profile.NEVER, sender=0, sent_bytes=5 * SIZE),
        Account(profile=Profile.NEVER),
    ]
    deliveries = settle_deliveries(accounts, {}, VOICES)

    assert (deliveries.expected, deliveries.owed_to_never_readers) == (0, 5)


SERVER = ServerSide(received=30, refused=0, enqueued=60, dropped=0, dropped_and_told=0)


def joined(server: ServerSide, accounts: list[Account] | None = None) -> str:
    accounts = accounts or fair_accounts([10, 10, 10])
    return " | ".join(join_reasons(server, accounts, settle(accounts), VOICES))


def test_counters_that_agree_raise_no_doubt() -> None:
    assert joined(SERVER) == ""


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (replace(SERVER, received=29), "processed 29 and an unknown number wait unread"),
        (replace(SERVER, received=29, unread_bytes=SIZE), "left 1 of 30 messages unread"),
        (replace(SERVER, received=28, unread_bytes=SIZE), "processed 28 and 1 wait unread"),
        (replace(SERVER, received=28, refused=2), "refused 2 of 30 messages"),
        (replace(SERVER, enqueued=90), "was somebody else connected?"),
        (replace(SERVER, dropped=2), "-2 are in nobody's hands"),
        (replace(SERVER, dropped_and_told=2), "dropped 2 copies of which it tells"),
    ],
)
def test_each_contradiction_is_a_sentence_with_both_numbers(
    server: ServerSide, reason: str
) -> None:
    assert reason in joined(server)


def test_copies_in_flight_to_never_readers_are_no_contradiction() -> None:
    accounts = fair_accounts([10, 10, 10])
    accounts[2] = replace(accounts[2], profile=Profile.NEVER, received_bytes=0)

    assert joined(replace(SERVER, dropped=5, dropped_and_told=5), accounts) == ""


@pytest.mark.parametrize(
    ("enqueued", "doubt"), [(40, ""), (55, ""), (60, ""), (29, "somebody else"), (61, "somebody")]
)
def test_copies_that_an_evicted_connection_was_not_owed_are_explained(
    enqueued: int, doubt: str
) -> None:
    """When it was put out we cannot see; it owes the rest of the story to no stranger."""
    accounts = fair_accounts([10, 10, 10])
    accounts[2] = replace(accounts[2], profile=Profile.NEVER, received_bytes=0)
    said = joined(replace(SERVER, enqueued=enqueued, evicted=1), accounts)

    assert doubt in said
    assert bool(said) is bool(doubt)


def test_lost_connections_are_not_joined() -> None:
    """What the server read of them is its secret; the run is invalid for other reasons."""
    accounts = fair_accounts([10, 10, 10])
    accounts[0] = replace(accounts[0], closed=Closed.EOF)

    assert joined(replace(SERVER, received=1), accounts) == ""
