"""Which of what the manager passes is taken. tests/handover has whole restarts."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from etltd import fdstore, succession
from etltd.handover import State, UnfitError

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
