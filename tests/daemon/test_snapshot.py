"""A reactor's peers in another reactor: nothing is stranded, torn, doubled or forgotten."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from etltd import liveness, snapshot
from etltd.handover import Port, UnfitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from etltd.broadcast import Piece
    from tests.daemon.rig import Peer, Rig

SO_ATTACH_FILTER = 26  # asm-generic/socket.h


def test_who_is_connected_stays_who_it_is(rig: Rig) -> None:
    first, second = rig.dial_many(2)
    rig.hand_over()
    third = rig.dial()

    first.say(b"one\n")
    second.say(b"two\n")
    rig.settle()

    assert third.hear() == first.user + b"one\n" + second.user + b"two\n"
    assert third.user == b"[USER3] "
    assert rig.stats.connections_accepted == rig.stats.connections == 3


def test_what_came_before_is_read(rig: Rig) -> None:
    """Under ET its one edge went to the predecessor."""
    talker, hearer = rig.dial_many(2)
    talker.say(b"said before\n")
    rig.hand_over()

    rig.settle()

    assert hearer.hear() == talker.user + b"said before\n"


def test_a_bounded_turn_is_gone_on_with(make_rig: Callable[..., Rig]) -> None:
    """The revisit list is not handed over; what is left is reported anew."""
    rig = make_rig(reads_per_event=1, recv_bytes=16)
    talker, hearer = rig.dial_many(2)
    talker.say(b"a line that takes several reads of sixteen bytes\n")
    rig.tick_until(lambda: rig.stats.received_bytes)
    assert rig.stats.received_bytes < talker.said
    rig.hand_over()

    rig.settle()

    assert hearer.hear() == talker.user + b"a line that takes several reads of sixteen bytes\n"


def test_an_unfinished_line_is_finished(rig: Rig) -> None:
    talker, hearer = rig.dial_many(2)
    talker.say(b"half ")
    rig.settle()
    rig.hand_over()
    talker.say(b"a line\n")
    rig.settle()

    assert hearer.hear() == talker.user + b"half a line\n"


def test_the_rest_of_a_too_long_line_is_still_discarded(make_rig: Callable[..., Rig]) -> None:
    """Its end would pass for a message of its own."""
    rig = make_rig(max_line_bytes=16)
    talker, hearer = rig.dial_many(2)
    talker.say(b"x" * 20)
    rig.settle()
    rig.hand_over()
    talker.say(b"tail\nnext\n")
    rig.settle()

    assert hearer.hear() == talker.user + b"next\n"
    assert talker.hear() == b"[etltd] line too long, discarded\n"


def test_what_is_owed_is_delivered_and_what_is_withheld_announced(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(sndbuf=4096, high_water_bytes=100_000)
    slow, talker = rig.dial(rcvbuf=4096), rig.dial()
    line = b"x" * 1023 + b"\n"
    lines = rig.fill(slow, talker, line)
    while not slow.conn.withheld:
        talker.say(line)
        lines += 1
        rig.tick_until(lambda: rig.stats.messages_received >= lines)
    withheld = slow.conn.withheld
    rig.hand_over()
    rig.assert_ledger()

    rig.tick_until(lambda: b"messages dropped" in slow.hear() and not rig.stats.outbox_bytes)

    heard = (talker.user + line) * (lines - withheld)
    assert slow.hear() == heard + b"[etltd] %d messages dropped\n" % withheld
    assert rig.stats.messages_delivered == lines - withheld


def test_what_many_are_owed_stays_one_copy(make_rig: Callable[..., Rig]) -> None:
    """Short writes cut it to less than half of its batch: a copy for each took 60 MB for 0.5."""
    rig = make_rig(sndbuf=4096)
    slow = [rig.dial(rcvbuf=4096) for _ in range(3)]
    talker = rig.dial()
    talker.say((b"x" * 999 + b"\n") * 30)
    rig.tick_until(lambda: rig.stats.received_bytes == talker.said)
    for peer in slow:
        while len(owed(peer).data) > 10_000:
            peer.hear()
            rig.tick()
    before = [owed(peer) for peer in slow]
    rig.hand_over()

    assert [owed(peer) for peer in slow] == before
    assert len({id(memoryview(owed(peer).data).obj) for peer in slow}) == 1
    rig.settle()


def owed(peer: Peer) -> Piece:
    """Return the first of what *peer* is owed."""
    assert peer.conn.outbox is not None
    return peer.conn.outbox.pieces()[0]


def test_a_peer_that_stopped_talking_still_hears(rig: Rig) -> None:
    quiet, talker = rig.dial_many(2)
    quiet.finish()
    rig.tick_until(lambda: quiet.conn.ended)
    rig.hand_over()
    talker.say(b"still there?\n")
    rig.settle()

    assert quiet.hear() == talker.user + b"still there?\n"
    assert rig.stats.connections == 2


def test_a_peer_that_left_meanwhile_is_noticed(rig: Rig) -> None:
    leaver, stayer = rig.dial_many(2)
    leaver.say(b"bye\nunfinished")
    leaver.reset()
    rig.hand_over()

    rig.tick_until(lambda: rig.stats.connections == 1)

    assert stayer.hear() in (b"", leaver.user + b"bye\n")  # a reset may overtake what was said


def test_a_rate_limit_is_no_fresh_one(make_rig: Callable[..., Rig]) -> None:
    """A hand-over a second would be a second's worth of messages a second."""
    rig = make_rig(rate_limit=5)
    talker, hearer = rig.dial_many(2)
    talker.say(b"1\n2\n3\n4\n5\n6\n7\n")
    rig.tick_until(lambda: rig.stats.received_bytes == talker.said)
    refused = talker.conn.bucket.refused if talker.conn.bucket else 0
    rig.hand_over()

    assert talker.conn.bucket is not None
    assert talker.conn.bucket.refused == refused == 2
    assert talker.conn.bucket.saved()[0] < 5
    assert len(hearer.hear().splitlines()) == 5


def test_a_rate_limit_may_come_and_go(make_rig: Callable[..., Rig]) -> None:
    """What was refused under the old limit is told, though there is none any more."""
    rig = make_rig(rate_limit=5)
    talker = rig.dial()
    talker.say(b"x\n" * 7)
    rig.tick_until(lambda: rig.stats.received_bytes == talker.said)
    rig.hand_over(rate_limit=0)
    (without,) = rig.reactor.connections.values()
    assert without.bucket is None
    rig.settle()
    assert talker.hear() == b"[etltd] rate limited, 2 messages dropped\n"

    rig.hand_over(rate_limit=7)
    (limited,) = rig.reactor.connections.values()
    assert limited.bucket is not None


@pytest.mark.parametrize(("before", "after"), [(0, 90), (90, 3), (3, 0)])
def test_who_came_before_is_asked_as_the_successor_is_told_to(
    make_rig: Callable[..., Rig], before: float, after: float
) -> None:
    """A peer vanishes without a word after the hand-over: and nobody finds out."""
    rig = make_rig(peer_timeout=before)
    rig.dial()
    rig.hand_over(peer_timeout=after)
    (came_before,) = rig.reactor.connections.values()
    rig.listener.ask_after(after)
    rig.dial()
    came_after = max(rig.reactor.connections.values(), key=lambda conn: conn.id)

    assert keepalive(came_before.sock) == keepalive(came_after.sock)
    assert bool(keepalive(came_before.sock)) == bool(after)


def keepalive(sock: socket.socket) -> list[int]:
    """Return how the peer is asked, [] if it is not."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return []
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]


def test_a_silence_for_which_nobody_asked_is_not_held_against_a_peer(
    make_rig: Callable[..., Rig],
) -> None:
    """It only listened, for hours; a moment's loss after the hand-over would cut it off."""
    rig = make_rig(peer_timeout=0)
    quiet, talker = rig.dial_many(2)
    make_deaf(quiet.sock)
    talker.say(b"anybody?\n")
    rig.tick_until(lambda: liveness.is_gone(quiet.conn.sock, timeout_ms=100))
    rig.hand_over(peer_timeout=0.1)

    rig.reactor.do_chores(second := 1_000_000_000)
    assert rig.stats.connections == 2

    rig.reactor.do_chores(2 * second)
    assert rig.stats.connections == rig.stats.connections_closed["timeout"] == 1


def make_deaf(sock: socket.socket) -> None:
    """Have the kernel drop all that comes for *sock*, and so acknowledge nothing."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET of 0 bytes
    program = struct.pack("HP", 1, ctypes.addressof(nothing))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def test_the_limit_per_address_counts_who_came_before(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections_per_ip=2)
    rig.dial_many(2)
    rig.hand_over()

    rig.connect()
    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections_per_ip"])

    assert rig.stats.connections == 2


def test_ten_hand_overs_lose_nothing(rig: Rig) -> None:
    talker, hearer = rig.dial_many(2)
    for number in range(10):
        talker.say(b"%d\nunfin" % number)
        rig.tick()
        rig.hand_over()
        talker.say(b"ished\n")
    rig.settle()

    words = b"".join(talker.user + b"%d\n" % n + talker.user + b"unfinished\n" for n in range(10))
    assert hearer.hear() == words


def test_a_descriptor_that_is_another_socket_is_refused() -> None:
    """Bytes of one peer must not go to another, whatever went wrong."""
    one, other = socket.socketpair()
    with one, other:
        port = Port("chat", one.fileno(), snapshot.inode(other.fileno()))
        with pytest.raises(UnfitError, match="is not the socket"):
            snapshot.taken(port)


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    fd = os.eventfd(0)
    os.close(fd)

    with pytest.raises(UnfitError, match="was not handed over"):
        snapshot.taken(Port("chat", fd, 1))
