"""Senders that differ in how often and how long: when each is due, and that nobody is left out."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.ledger import Account, ServerSide, join_reasons, settle_deliveries
from loadclient.pacing import SECOND_NS, Schedule
from loadclient.payload import Payloads
from loadclient.totals import Frames
from loadclient.voices import Group, Voices

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.daemon import Daemon

MIX = Voices.parse("2x50x32,3x10x1000")
groups = st.lists(
    st.builds(Group, st.integers(1, 5), st.sampled_from([Fraction(60, n) for n in (1, 2, 3, 5)]),
              st.integers(32, 200)),
    min_size=1, max_size=3,
).map(tuple)  # fmt: skip
mixes = groups.map(Voices).filter(
    lambda v: all((v.rate / group.rate).denominator == 1 for group in v.groups)
)


def test_a_mix_is_read_and_spelt() -> None:
    assert str(MIX) == "2x50x32,3x10x1000"
    assert str(Voices.parse(" 2x50x32, 3x10.0x1000")) == str(MIX)
    assert (MIX.senders, MIX.rate, MIX.slowest, MIX.sizes) == (5, 50, 10, (32, 1000))
    assert MIX.messages_per_second == 130
    assert MIX.mean_bytes == pytest.approx((100 * 32 + 30 * 1000) / 130)
    assert [MIX.size(number) for number in range(5)] == [32, 32, 1000, 1000, 1000]
    assert [MIX.every(number) for number in range(5)] == [1, 1, 5, 5, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not understood; it must be such as 5x100x32"),
        ("5x100", "is not understood"),
        ("0x1x32", "nobody sends"),
        ("1x0x32", "the rate must be from"),
        ("1x1x1", "the length must be from"),
        ("1x50x32,1x20x32", "20/s is not the fastest rate (50/s) divided by a whole number"),
    ],
)
def test_what_is_no_mix_is_half_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Voices.parse(text)

    assert words in str(refused.value)


@given(voices=mixes, rounds=st.integers(0, 40), burst=st.booleans())
def test_each_sender_says_what_its_rate_asks_for(
    voices: Voices, rounds: int, *, burst: bool
) -> None:
    """At even distances, from the first round to the last, and none too many."""
    plan = Schedule(start_ns=7, rounds=rounds, burst=burst, voices=voices)
    said = 0
    for number in range(voices.senders):
        count = voices.messages(number, rounds)
        times = [plan.message_due_ns(n, number) for n in range(count)]
        apart = SECOND_NS / voices.rate_of(number)
        said += count

        assert abs(count - rounds * voices.rate_of(number) / voices.rate) < 1
        assert all(abs(b - a - apart) <= 1 for a, b in pairwise(times))
        assert all(plan.start_ns <= due < plan.end_ns for due in times)
        assert voices.round_of(count, number) >= rounds
    assert plan.messages == said


def test_slow_ones_do_not_all_speak_at_once() -> None:
    """A load that is steady over the rounds, and not one that comes in waves."""
    voices = Voices.parse("1x50x32,10x10x32")
    by_round = [0] * 50
    for number in range(voices.senders):
        for message in range(voices.messages(number, 50)):
            by_round[voices.round_of(message, number)] += 1

    assert set(by_round) == {3}


def test_a_line_is_as_long_as_its_sender_makes_it() -> None:
    payloads = Payloads(MIX)
    for sender, size in ((1, 32), (4, 1000)):
        plain, marked = (
            payloads.of(sender).plain(sender, 7),
            payloads.of(sender).marked(sender, 7, 5, 9),
        )

        assert (len(plain), len(marked)) == (size, size)
        assert payloads.read_plain(plain) == (sender, 7)
        assert payloads.read_marked(marked)[:2] == (sender, 7)
        assert payloads.marked_bytes(b"[x] " + marked, 4, 4 + size) == size
    assert payloads.read_plain(payloads.of(1).plain(4, 7)) is None  # the length of somebody else
    assert payloads.read_plain(b"FFFFF" + plain[5:]) is None
    assert payloads.read_marked(b"e-----" + marked[6:]) is None
    assert payloads.marked_bytes(marked, 0, 5) > 5  # cut before it says whose it is
    assert payloads.marked_bytes(b"e" + b"F" * 40, 0, 41) == 32
    assert (payloads.has_samples, payloads.has_sequence, payloads.longest) == (True, True, 1000)


def test_bytes_prove_counts_where_senders_differ() -> None:
    """One copy that is missing is named, whatever its length."""
    prefix = dict.fromkeys(range(5), 8)
    sent = [50, 50, 10, 10, 10]
    frames = [count * (8 + MIX.size(n)) for n, count in enumerate(sent)]
    accounts = [
        Account(sender=n, due=count, sent_bytes=count * MIX.size(n),
                received_bytes=sum(frames) - frames[n])
        for n, count in enumerate(sent)
    ]  # fmt: skip
    deliveries = settle_deliveries(accounts, prefix, MIX)
    server = ServerSide(received=130, refused=0, enqueued=520, dropped=0, dropped_and_told=0)

    assert (deliveries.expected, deliveries.received, deliveries.reasons) == (520, 520, ())
    assert join_reasons(server, accounts, deliveries, MIX) == []
    for size in (40, 1008):
        short = [Account(sender=0, sent_bytes=1600, received_bytes=sum(frames[1:]) - size)]
        found = settle_deliveries([*short, *accounts[1:]], prefix, MIX)
        assert found.lost["unexplained"] >= 1
    unread = ServerSide(
        received=128, refused=0, enqueued=512, dropped=0, dropped_and_told=0, unread_bytes=1032
    )
    (left,) = join_reasons(unread, accounts, deliveries, MIX)[:1]
    assert left == "the server left 2 of 130 messages unread in its sockets"
    unread = ServerSide(
        received=90, refused=0, enqueued=512, dropped=0, dropped_and_told=0, unread_bytes=1032
    )
    (left,) = join_reasons(unread, accounts, deliveries, MIX)[:1]
    assert "and 1 to 32 wait unread in its sockets" in left


def test_the_loud_ones_count_for_more_in_the_mean() -> None:
    frames = Frames.of({0: 8, 1: 8, 2: 8, 3: 9, 4: 9}, MIX)

    assert (frames.shortest, frames.longest) == (40, 1009)
    assert frames.mean == pytest.approx((100 * 40 + 10 * 1008 + 20 * 1009) / 130)
    assert Frames.of({}, MIX).mean == MIX.mean_bytes


@pytest.mark.system
@pytest.mark.parametrize("more", [("--procs", 2), ("--verify", "full", "--no-burst")])
def test_a_mix_is_accounted_for_to_the_last_copy(
    daemon: Daemon, load: Callable[..., object], more: tuple[object, ...]
) -> None:
    outcome = load(
        daemon.address[1], "--server-metrics", daemon.metrics, "--conns", 8,
        "--mix", "2x40x32,3x10x900", "--rate", 20, "--duration", 1, "--warmup", 0.3, *more,
    )  # fmt: skip
    result = outcome.result

    assert outcome.code == 0, outcome.reasons
    assert result.messages_offered == result.messages_sent == 2 * 40 + 3 * 10
    assert result.bytes_sent == 80 * 32 + 30 * 900
    assert result.messages_received == result.messages_expected == 110 * 7
    assert result.server["counters"]["messages_received_total"] == 110
    assert result.latency_samples == result.messages_received
    assert result.config["mix"] == "2x40x32,3x10x900"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mix", "2x40x32", "--senders", 3), "--senders 3: the --mix says it"),
        (("--mix", "2x40x32", "--msg-bytes", 128), "--msg-bytes 128: the --mix says it"),
        (("--mix", "2x40x32", "--rate", 7), "--rate 7: the --mix says it"),
        (("--mix", "9x40x32"), "9 senders, but there are only 4 connections"),
        (("--mix", "2x40"), '"2x40" is not understood'),
        (("--mix", "1x100x32,1x0.1x32"), "at --rate 0.1 a sender's messages are 10 s apart"),
        (("--mix", "2x40x8", "--verify", "full"), "--msg-bytes 8: --verify full needs"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(
    load: Callable[..., object], arguments: tuple[object, ...], words: str
) -> None:
    more = () if "--rate" in arguments else ("--rate", 20)
    outcome = load(1, *arguments, *more)

    assert outcome.code == 2
    assert words in outcome.err
