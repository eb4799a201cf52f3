"""Who is admitted and how they leave, where test_reactor does not come by."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from tests.daemon.rig import RESET_ON_CLOSE

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
