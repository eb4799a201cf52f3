from select import EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from types import SimpleNamespace

import pytest

from etltd import trigger


def test_level_triggered_wants_out_only_while_bytes_are_owed() -> None:
    """OUT on an idle socket is always true: the loop would spin."""
    lt = trigger.named("lt")

    assert lt.mask(wants_read=True, wants_write=False) == EPOLLIN | EPOLLRDHUP
    assert lt.mask(wants_read=True, wants_write=True) == EPOLLIN | EPOLLRDHUP | EPOLLOUT
    assert lt.mask(wants_read=False, wants_write=False) == 0


@pytest.mark.parametrize("wants_read", [True, False])
@pytest.mark.parametrize("wants_write", [True, False])
def test_edge_triggered_never_changes_its_mind(wants_read: bool, wants_write: bool) -> None:  # noqa: FBT001
    mask = trigger.named("et").mask(wants_read=wants_read, wants_write=wants_write)

    assert mask == EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET & 0xFFFFFFFF


def test_only_edge_triggered_remembers_an_unfinished_turn() -> None:
    peer = SimpleNamespace(fd=7)
    revisit: dict[int, SimpleNamespace] = {}

    trigger.named("lt").unfinished(peer, revisit)  # type: ignore[arg-type]
    assert not revisit
    trigger.named("et").unfinished(peer, revisit)  # type: ignore[arg-type]
    assert revisit == {7: peer}


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_a_listener_of_ones_own_is_level_triggered_in_both_modes(mode: str) -> None:
    """Accepting is no part of the experiment, unless it is shared."""
    assert trigger.accept_mask(trigger.named(mode), "own") == EPOLLIN


@pytest.mark.parametrize("listener", ["reuseport", "exclusive", "shared"])
def test_a_shared_port_is_accepted_from_as_the_mode_says(listener: str) -> None:
    lt = trigger.accept_mask(trigger.named("lt"), listener)
    et = trigger.accept_mask(trigger.named("et"), listener)

    assert lt == EPOLLIN | (EPOLLEXCLUSIVE if listener == "exclusive" else 0)
    assert et == lt | EPOLLET
    assert trigger.forgets(et)
    assert not trigger.forgets(lt)
