"""Reactors that share a listening socket: nobody is left in its backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from etltd import reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.rig import Rig

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
