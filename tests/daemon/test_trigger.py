from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP
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
