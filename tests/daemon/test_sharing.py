"""Reactors that share a listening socket: nobody is left in its backlog."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from etltd import reactor
from tests.daemon.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeRig = Callable[..., Rig]

SHARING = ["reuseport", "exclusive", "shared"]


@pytest.mark.parametrize("listener", SHARING)
def test_a_burst_that_is_longer_than_a_turn_is_accepted_to_its_end(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, listener: str
) -> None:
    """An edge is reported once: whoever is left in the backlog would wait for the next caller."""
    monkeypatch.setattr(reactor, "ACCEPT_BURST", 2)
    rig = make_rig(listener=listener)
    for _ in range(7):
        rig.connect()

    rig.tick_until(lambda: rig.stats.connections_accepted == 7, max_ticks=20)

    assert rig.stats.epoll_ctl["mod"] == 0


@pytest.mark.parametrize("listener", SHARING)
def test_after_a_lack_of_descriptors_a_shared_backlog_is_taken_up_again(
    make_rig: MakeRig, listener: str
) -> None:
    rig = make_rig(listener=listener)
    rig.reactor._pause(rig.listener)
    rig.connect()
    rig.tick(0)
    assert not rig.stats.connections_accepted

    rig.reactor.do_chores(rig.reactor.ticked_ns + 2 * reactor.ACCEPT_PAUSE_NS)

    rig.tick_until(lambda: rig.stats.connections_accepted == 1, max_ticks=20)


@pytest.mark.parametrize("call", ["_register", "_unregister"])
@pytest.mark.parametrize("listener", SHARING)
def test_a_burst_is_accepted_to_its_end_though_epoll_was_short_of_memory(
    monkeypatch: pytest.MonkeyPatch, listener: str, call: str
) -> None:
    """Whichever of the two calls failed, the listener comes back, and once."""
    monkeypatch.setattr(reactor, "ACCEPT_BURST", 2)
    rig = Rig("et", listener=listener)
    for _ in range(5):
        rig.connect()
    do = getattr(rig.reactor, call)

    def refuse(fd: int, *mask: int) -> None:
        if fd == rig.listener.fd:
            raise OSError(errno.ENOMEM, "injected")
        do(fd, *mask)

    with monkeypatch.context() as short:
        short.setattr(rig.reactor, call, refuse)
        rig.tick_until(lambda: not rig.reactor.is_accepting, max_ticks=20)
    assert rig.stats.connections_accepted == 2

    rig.reactor.do_chores(rig.reactor.ticked_ns + 2 * reactor.ACCEPT_PAUSE_NS)

    assert rig.reactor.is_accepting
    rig.tick_until(lambda: rig.stats.connections_accepted == 5, max_ticks=20)
    rig.close()


@pytest.mark.parametrize("listener", ["exclusive", "shared"])
def test_a_connection_that_the_other_took_is_no_error(make_rig: MakeRig, listener: str) -> None:
    """Both were woken for it; one comes too late."""
    first, second = make_rig(listener=listener), make_rig(listener=listener)
    second.reactor.listen(first.listener)
    first.connect()

    first.tick_until(lambda: first.stats.connections_accepted == 1)
    second.tick(0)

    assert second.stats.connections_accepted == 0
    second.reactor._unregister(first.listener.fd)
    del second.reactor._listeners[first.listener.fd]
