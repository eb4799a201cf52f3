"""Peers whose sockets fail while something is handed to them; the rest is in test_reactor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from etltd import wire
from etltd.broadcast import Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.rig import Rig

    MakeRig = Callable[..., Rig]


@pytest.mark.parametrize("both_talk", [False, True], ids=["listener", "talker"])
def test_a_peer_that_is_found_gone_in_mid_fan_out_is_counted_and_hurts_nobody(
    make_rig: MakeRig, *, both_talk: bool
) -> None:
    """Its reset is still to be reported when the others' words are handed to it."""
    rig = make_rig(max_events=1)  # the talker's event first, the reset in the next tick
    anna, bert, carl = rig.dial_many(3)
    rig.tick_until(lambda: not rig.tick(0))
    if both_talk:
        bert.say(b"me too\n")
    anna.say(b"hello\n")
    bert.reset()
    rig.peers.remove(bert)

    rig.tick_until(lambda: carl.hear().endswith(b"hello\n"))
    rig.tick_until(lambda: rig.stats.connections_closed["reset"] == 1)

    assert rig.stats.messages_dropped["closed"] >= (0 if both_talk else 1)
    assert len(rig.reactor.connections) == 2


def test_a_peer_found_gone_by_a_notice_is_closed(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)
    bert.reset()

    rig.reactor.announce(wire.STOPPING)

    assert rig.stats.connections_closed["reset"] == 1
    assert list(rig.reactor.connections.values()) == [anna.conn]


def test_a_peer_that_had_finished_and_is_found_gone_left_in_peace(rig: Rig) -> None:
    """A client that said its last words and closed is no failure to alert on."""
    anna, bert = rig.dial_many(2)
    bert.finish()
    rig.tick_until(lambda: bert.conn.ended)
    bert.reset()

    rig.reactor.announce(wire.STOPPING)

    assert rig.stats.connections_closed["eof"] == 1
    assert list(rig.reactor.connections.values()) == [anna.conn]


def test_a_stop_does_not_wait_for_a_peer_that_left_first(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)
    bert.reset()

    rig.reactor.delivery.finish_output()

    rig.tick_until(lambda: not rig.reactor.delivery.unacknowledged_bytes())
    rig.tick_until(lambda: anna.hear() == b"" and anna.at_end)


def test_nothing_is_said_to_the_condemned(make_rig: MakeRig) -> None:
    """Their outbox is settled in the reap: what is added after it would never be counted."""
    rig = make_rig(max_line_bytes=8)
    anna, _ = rig.dial_many(2)
    rig.reactor.roster.condemn_for(anna.conn, ConnectionResetError())

    rig.reactor.delivery.notify(anna.conn, wire.LINE_TOO_LONG)

    assert anna.conn.outbox is None
    rig.reactor.roster.reap()


def test_a_notice_waits_its_turn_behind_what_is_owed(make_rig: MakeRig) -> None:
    """In mid-line it would tear a message."""
    rig = make_rig(sndbuf=4096, max_line_bytes=2048)
    talker, slow = rig.dial(), rig.dial(rcvbuf=4096)
    rig.fill(slow, talker)

    slow.say(b"y" * 3000 + b"\n")
    rig.tick_until(lambda: rig.stats.messages_discarded["too_long"])
    rig.tick_until(lambda: slow.hear().endswith(wire.LINE_TOO_LONG))

    lines = slow.inbox.splitlines(keepends=True)
    assert set(lines[:-1]) == {b"[USER1] " + b"x" * 1023 + b"\n"}


def test_refusals_that_cannot_be_told_now_are_told_when_the_sender_reads(make_rig: MakeRig) -> None:
    """A sender beyond its high water would never learn that it was limited."""
    rig = make_rig(sndbuf=4096, high_water_bytes=1, rate_limit=1000)
    slow = rig.dial(rcvbuf=4096)
    rig.reactor.delivery._owe(slow.conn, [Piece(b"more than the kernels take\n" * 100_000, 0)])
    slow.say(b"s\n" * 1500)
    rig.tick_until(lambda: rig.stats.received_bytes == slow.said)
    refused = rig.stats.messages_discarded["rate_limited"]

    rig.reactor.do_chores(rig.reactor.ticked_ns)
    rig.tick_until(lambda: slow.hear() and slow.conn.outbox is None)
    assert b"rate limited" not in slow.hear(), "it was beyond its high water"
    rig.reactor.do_chores(rig.reactor.ticked_ns)

    assert refused > 0
    rig.tick_until(lambda: slow.hear().endswith(wire.rate_limited(refused)))


def test_at_a_stop_a_sender_learns_what_was_refused_before_the_goodbye(make_rig: MakeRig) -> None:
    """The notice comes once a second; a stop within that second would take it along."""
    rig = make_rig(rate_limit=1)
    anna, _ = rig.dial_many(2)
    anna.say(b"x\n" * 100)
    rig.tick_until(lambda: rig.stats.messages_discarded["rate_limited"])

    rig.reactor.stop_reading()
    rig.reactor.announce(wire.STOPPING)
    rig.reactor.do_chores(rig.reactor.ticked_ns)

    rig.tick_until(lambda: anna.hear().endswith(wire.STOPPING))
    assert anna.inbox == wire.rate_limited(99) + wire.STOPPING
