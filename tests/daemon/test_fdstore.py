"""Which of what the manager passes is taken. tests/handover has whole restarts."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from etltd import fdstore, handover, succession
from etltd.handover import State, UnfitError

if TYPE_CHECKING:
    from pathlib import Path

OLD = State({}, [], [], next_id=5, counters={}, began_ns=100)
NEW = replace(OLD, next_id=9, began_ns=200)


def memory(state: State) -> int:
    with succession.written(state) as fd:
        return os.dup(fd)


@pytest.mark.parametrize("states", [(OLD, NEW), (NEW, OLD)])
def test_an_older_state_that_is_still_there_is_not_taken(states: tuple[State, ...]) -> None:
    """Its ids would be given twice. systemd passes the newest first, unless it was re-executed."""
    fds = [memory(state) for state in states]

    assert fdstore.stored({fdstore.STATE: fds}) == NEW
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_state_that_nobody_can_read_may_be_the_newest() -> None:
    strange = os.memfd_create("strange")
    os.write(strange, b"etltd hand-over 999\n")

    with pytest.raises(UnfitError, match="in format 999"):
        fdstore.stored({fdstore.STATE: [memory(OLD), strange]})


def test_sockets_without_a_state_are_nobody_s() -> None:
    with pytest.raises(UnfitError, match="has not kept the state"):
        fdstore.stored({fdstore.SOCKETS: [0]})


def test_a_manager_that_does_not_read_is_waited_for_no_longer_than_a_stop_may_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would kill us, and nobody would have said goodbye."""
    monkeypatch.setattr(fdstore, "PATIENCE_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))

        problem = fdstore.put(str(tmp_path / "notify"), OLD)

    assert str(problem) == "the manager does not read"


def test_a_state_for_which_there_is_no_memory_is_not_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python's MemoryError is no OSError: it ended the daemon, which then told nobody."""

    def encode(_: State) -> list[bytes]:
        raise MemoryError

    monkeypatch.setattr(handover, "encode", encode)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))

        assert isinstance(fdstore.put(str(tmp_path / "notify"), OLD), MemoryError)
