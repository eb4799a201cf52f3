"""Connections that come and go through the load: counted from both sides, to the last copy."""

from __future__ import annotations

import select
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadclient.churn import LIFE_NS, Churn, Visitor
from loadclient.ledger import (
    Account,
    Churned,
    ServerSide,
    Traffic,
    churn_reasons,
    join_reasons,
    owed_to_churned,
    settle_deliveries,
)
from loadclient.payload import SEQUENCE_MASK, Payload
from loadclient.protocol import Plan
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.daemon import Daemon

VOICES = Voices.alike(2, 20, 64)
ACCOUNTS = [
    Account(sender=number, due=10, sent_bytes=640, received_bytes=10 * 73) for number in (0, 1)
]
# 20 messages to 2 connections that stay make 20 copies; 30 more were for those who came and went.
SERVER = ServerSide(
    received=20, refused=0, enqueued=50, dropped=5, dropped_and_told=0, accepted=3, closed=3
)
CHURNED = Churned(dialled=4, connected=3, failed=1, received=28, lived_ns=750_000_000)
TRAFFIC = Traffic(messages=20, rate=20, senders=2, slack_seconds=0.2)


@pytest.mark.system
@pytest.mark.parametrize("procs", [1, 2])
def test_who_came_and_went_is_accounted_for_to_the_last_copy(
    daemon: Daemon, load: Callable[..., object], procs: int
) -> None:
    outcome = load(
        daemon.address[1], "--server-metrics", daemon.metrics, "--conns", 10, "--rate", 10,
        "--churn", 40, "--duration", 2, "--warmup", 0.5, "--procs", procs,
    )  # fmt: skip
    churn, counters = outcome.result.churn, outcome.result.server["counters"]

    assert outcome.code == 0, outcome.reasons
    assert 40 <= churn["connected"] <= 120
    assert churn["received"] > churn["connected"]  # a quarter of a second is worth many messages
    assert counters["connections_accepted_total"] == churn["connected"]
    stayed = outcome.result.messages_received
    assert counters["messages_enqueued_total"] == stayed + churn["received"] + churn["left_behind"]
    assert 0 <= churn["left_behind"] < 0.5 * churn["owed"]
    assert churn["owed"] <= churn["owed_at_most"]
    assert churn["lived_ns"] >= churn["connected"] * LIFE_NS * 0.5  # the last ones are cut short
    assert f"{churn['connected']:,} connections received" in outcome.out


@pytest.mark.system
def test_what_came_and_went_is_gone_before_the_next_run(
    daemon: Daemon, load: Callable[..., object]
) -> None:
    """Otherwise its connections would be in the next run's books."""
    joined = (daemon.address[1], "--server-metrics", daemon.metrics)
    load(*joined, "--churn", 20, "--rate", 10)
    outcome = load(*joined, "--rate", 10)

    assert outcome.code == 0, outcome.reasons
    assert outcome.result.churn is None
    assert outcome.result.server["counters"]["connections_accepted_total"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--churn", 5), "--churn 5: needs --server-metrics"),
        (
            ("--churn", 5, "--never-readers", 1, "--server-metrics", "http://127.0.0.1:1/metrics"),
            "--churn 5: all others must read",
        ),
        (("--churn", -1), "--churn"),
    ],
)
def test_what_could_not_be_accounted_for_is_refused(
    load: Callable[..., object], arguments: tuple[object, ...], words: str
) -> None:
    outcome = load(1, *arguments)

    assert outcome.code == 2
    assert words in outcome.err


def reasons(server: ServerSide = SERVER, churned: Churned = CHURNED) -> str:
    deliveries = settle_deliveries(ACCOUNTS, {0: 9, 1: 9}, VOICES)
    assert deliveries.reasons == ()
    return " | ".join(join_reasons(server, ACCOUNTS, deliveries, VOICES, (churned, TRAFFIC)))


def test_what_the_server_owed_to_the_others_is_what_remains() -> None:
    assert owed_to_churned(SERVER, ACCOUNTS, VOICES) == 30
    assert reasons() == ""


@pytest.mark.parametrize(
    ("server", "churned", "words"),
    [
        ({"accepted": 4}, {}, "3 connections came and went, but the server accepted 4"),
        ({"closed": 2}, {}, "and closed 2"),
        ({}, {"connected": 2}, "2 connections came and went"),
        (
            {"enqueued": 47},
            {},
            "received 28 copies and were told of 0 dropped, but the server owed",
        ),
        ({}, {"announced": 3}, "were told of 3 dropped, but the server owed them 30"),
        ({"enqueued": 66}, {}, "at most 45 copies can have been owed to them, but the server says"),
        ({}, {"ended_by_server": 1}, "the server ended 1 connections that were to come and go"),
        ({}, {"out_of_order": 1}, "1 times one did not follow the one before it"),
        ({}, {"damaged": 2}, "2 times one was damaged"),
        ({"received": 19}, {}, "the clients sent 20 messages, but the server processed 19"),
    ],
)
def test_each_contradiction_is_named(
    server: dict[str, int], churned: dict[str, int], words: str
) -> None:
    assert words in reasons(replace(SERVER, **server), replace(CHURNED, **churned))


def test_sums_of_the_workers_are_sums_of_each_count() -> None:
    twice = Churned(dialled=8, connected=6, failed=2, received=56, lived_ns=1_500_000_000)

    assert twice == CHURNED + CHURNED
    assert list(churn_reasons(SERVER, 28, CHURNED, TRAFFIC)) == []


@pytest.mark.parametrize(
    ("traffic", "most"),
    [
        (TRAFFIC, 45),  # 20/s for 0.75 s and three times 0.4 s, and two at either end's moment
        (replace(TRAFFIC, slack_seconds=0.0), 21),
        (replace(TRAFFIC, slack_seconds=60.0), 60),  # everything, to each of the three
        (replace(TRAFFIC, slack_seconds=None), 60),  # too short to carry a time
    ],
)
def test_nobody_is_owed_more_than_was_sent_while_he_was_there(traffic: Traffic, most: int) -> None:
    """What a server counts beyond that, it would never have to deliver: they left it behind."""
    assert traffic.most_owed(CHURNED) == most


@pytest.mark.parametrize(
    ("numbers", "out_of_order"),
    [([5, 6, 7], 0), ([5, 7], 1), ([5, 5], 1), ([6, 5], 1), ([SEQUENCE_MASK, 0], 0)],
)
def test_a_visitor_notices_what_is_lost_repeated_or_reordered(
    numbers: list[int], out_of_order: int
) -> None:
    """The server's counters alone would take a lost copy for one that was left behind."""
    plan = Plan(("127.0.0.1", 1), (), Voices.alike(1, 20, 64), 0, False, 0.0, 1, 0, 0, churn=1.0)
    with select.epoll() as epoll:
        churn, visitor = Churn(plan, epoll), Visitor(None)
        for number in numbers:
            churn._hear(visitor, b"[USER1] " + Payload(64).plain(0, number)[:-1])
        churn._hear(visitor, b"[USER1] what nobody sent")

    assert churn.account == Churned(received=len(numbers) + 1, out_of_order=out_of_order, damaged=1)
