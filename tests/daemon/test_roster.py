"""Who is admitted and how they leave, where test_reactor does not come by."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from etltd import wire
from tests.daemon.rig import RESET_ON_CLOSE, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.rig import Rig

    MakeRig = Callable[..., Rig]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "timeout"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "timeout"),
        (OSError(errno.ENOBUFS, "No buffer space available"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_failed_socket_is_counted_by_what_failed(rig: Rig, error: OSError, reason: str) -> None:
    """A peer that nobody can reach is no peer that hung up, and a lack here is neither."""
    anna = rig.dial()

    rig.reactor.roster.condemn_for(anna.conn, error)
    rig.reactor.roster.reap()

    assert rig.stats.connections_closed[reason] == 1


def test_the_first_reason_stands(rig: Rig) -> None:
    """A peer condemned twice would be closed twice: its number may be another's by then."""
    anna = rig.dial()

    rig.reactor.roster.condemn_for(anna.conn, ConnectionResetError())
    rig.reactor.roster.condemn_for(anna.conn, OSError(errno.EHOSTUNREACH, "No route to host"))
    rig.reactor.roster.reap()

    assert sum(rig.stats.connections_closed.values()) == 1
    assert rig.stats.connections_closed["reset"] == 1


def test_one_too_many_that_is_gone_already_hurts_nobody(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections=1)
    anna = rig.dial()
    too_many = rig.connect()
    too_many.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    too_many.close()

    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections"] == 1)

    assert list(rig.reactor.connections.values()) == [anna.conn]


def test_a_burst_of_peers_turned_away_does_not_use_up_the_descriptors(make_rig: MakeRig) -> None:
    """Kept open until the tick is over, they would make the daemon stop accepting for a second."""
    rig = make_rig(max_connections=1)
    rig.dial()
    for _ in range(100):
        rig.connect()
    before = rig.reactor.connections.copy()
    highest = 0
    real = rig.reactor.roster._say_goodbye

    def say_goodbye(sock: socket.socket) -> None:
        nonlocal highest
        highest = max(highest, sock.fileno())
        real(sock)

    rig.reactor.roster._say_goodbye = say_goodbye  # type: ignore[method-assign]
    lowest = socket.socket()
    ceiling = lowest.fileno() + 2
    lowest.close()
    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections"] == 100)

    assert highest <= ceiling
    assert rig.reactor.connections == before


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%lo", "fe80::1", True),
        ("fe80::1%lo", "fe80::2", False),
        ("64:ff9b::c000:201", "192.0.2.1", True),
        ("64:ff9b::c000:201", "64:ff9b::c000:202", False),
    ],
)
def test_who_has_a_whole_network_has_the_places_of_one_address(
    make_rig: MakeRig, one: str, other: str, *, are_one: bool
) -> None:
    """A /64 is what one subscriber gets; each of its addresses had as many places as another's."""
    rig = make_rig(max_connections_per_ip=1)
    ends = [socket.socketpair() for _ in range(3)]
    for sock, _ in ends:
        sock.setblocking(False)
    roster = rig.reactor.roster

    first = roster.admit(ends[0][0], one, now_ns=0)
    assert first is not None
    assert (roster.admit(ends[1][0], other, now_ns=0) is None) == are_one

    roster.condemn_for(first, ConnectionResetError())
    roster.reap()
    assert roster.admit(ends[2][0], one, now_ns=0)
    for _, theirs in ends:
        theirs.close()


def test_a_peer_of_a_unix_socket_takes_nobodys_place(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections_per_ip=1)
    for _ in range(2):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()

        assert rig.reactor.roster.admit(ours, "", now_ns=0)


SECOND = 1_000_000_000


def come(rig: Rig, ip: str, now_ns: int) -> Peer:
    """Take in a peer from *ip*."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    conn = rig.reactor.roster.admit(ours, ip, now_ns)
    assert conn is not None
    rig.reactor.watch(conn)
    return Peer(theirs, conn)


def use_up(rig: Rig, peer: Peer) -> int:
    """Let *peer* say all it may, and leave; return when it did."""
    before = rig.stats.received_bytes
    peer.say(b"\n" * 20)
    rig.tick_until(lambda: rig.stats.received_bytes == before + 20)
    now_ns = rig.reactor.ticked_ns
    leave(rig, peer)
    return now_ns


def leave(rig: Rig, peer: Peer) -> None:
    rig.reactor.roster.condemn_for(peer.conn, ConnectionResetError())
    rig.reactor.roster.reap()
    peer.close()


def allowed(peer: Peer, now_ns: int) -> int:
    """Return how many messages *peer* may say now."""
    assert peer.conn.bucket is not None
    return peer.conn.bucket.take(100, now_ns)


@pytest.mark.parametrize(
    ("ip", "other", "elsewhere"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2", ""),
        ("", "", "192.0.2.1"),
    ],
)
def test_who_comes_again_goes_on_with_what_was_left(
    make_rig: MakeRig, ip: str, other: str, elsewhere: str
) -> None:
    rig = make_rig(rate_limit=10)
    now_ns = use_up(rig, come(rig, ip, rig.reactor.ticked_ns))
    again, soon, later = (come(rig, other, now_ns + n * SECOND // 2) for n in range(3))
    stranger = come(rig, elsewhere, now_ns)

    assert allowed(again, now_ns) == 0
    assert allowed(again, now_ns + SECOND) == 10, "its rate is the same"
    assert allowed(soon, now_ns + SECOND // 2) == 5
    assert allowed(later, now_ns + SECOND) == 10
    assert allowed(stranger, now_ns) == 10
    for peer in (again, soon, later, stranger):
        peer.close()


def test_who_comes_again_and_is_refused_is_told(make_rig: MakeRig) -> None:
    rig = make_rig(rate_limit=10)
    now_ns = use_up(rig, come(rig, "192.0.2.1", rig.reactor.ticked_ns))
    again = come(rig, "192.0.2.1", now_ns)

    assert allowed(again, now_ns) == 0
    rig.reactor.do_chores(rig.reactor.ticked_ns)
    rig.tick_until(lambda: again.hear() == wire.rate_limited(100))
    again.close()


def test_what_was_left_is_forgotten_by_and_by(make_rig: MakeRig) -> None:
    rig = make_rig(rate_limit=10)
    now_ns = use_up(rig, come(rig, "192.0.2.1", rig.reactor.ticked_ns))
    left = rig.reactor.roster._left
    rig.reactor.do_chores(now_ns + SECOND // 2)
    assert len(left) == 1
    rig.reactor.do_chores(now_ns + SECOND)
    assert not len(left)


def test_without_a_rate_limit_nothing_is_left(rig: Rig) -> None:
    use_up(rig, come(rig, "192.0.2.1", rig.reactor.ticked_ns))

    assert not len(rig.reactor.roster._left)
