"""Who is looked at, and when. tests/fire/test_vanished.py shows that the vanished are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etltd import liveness
from etltd.liveness import Sweep
from etltd.stats import CloseReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from etltd.connection import Connection
    from tests.daemon.rig import Rig


def second(number: int) -> int:
    """Return when that is, in ns."""
    return number * 1_000_000_000


def everybody_gone(sweep: Sweep, connections: Mapping[int, Connection]) -> list[Connection]:
    """Return who is gone of all those that had *sweep*'s timeout to answer."""
    return [conn for n in range(2) for conn in sweep.gone(connections, second(n))]


def test_a_live_peer_is_not_gone_however_long_it_is_silent(rig: Rig) -> None:
    """Silence is what most peers of a chat keep: only unanswered questions count."""
    anna = rig.dial()

    assert not liveness.is_gone(anna.conn.sock, timeout_ms=0)


def test_everybody_is_looked_at_within_an_eighth_of_the_timeout(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all at once: 10,000 looks are a pause of the chat."""
    monkeypatch.setattr(liveness, "is_gone", lambda _sock, _timeout_ms: True)
    peers = rig.dial_many(7)
    sweep = Sweep(timeout_seconds=24)

    assert not list(sweep.gone(rig.reactor.connections, 0)), "it has only begun to look"
    rounds = [list(sweep.gone(rig.reactor.connections, second(24 + n))) for n in range(3)]

    assert [len(found) for found in rounds] == [3, 3, 1]
    assert {conn.id for found in rounds for conn in found} == {peer.conn.id for peer in peers}


def test_who_is_gone_already_or_has_no_network_is_not_looked_at(
    make_rig: Callable[..., Rig],
) -> None:
    """A closed socket has no descriptor to ask with, a Unix socket no acknowledgements."""
    rig = make_rig()
    closed, local = rig.dial_many(2)
    closed.conn.close_reason = CloseReason.EOF
    local.conn.ip = ""

    assert not everybody_gone(Sweep(timeout_seconds=1), rig.reactor.connections)
    closed.conn.close_reason = None


def test_nobody_connected_is_nobody_gone() -> None:
    assert not everybody_gone(Sweep(timeout_seconds=1), {})
