"""A rehearsal in this process: it ends when it is told to. tests/handover has the rest."""

from __future__ import annotations

import threading

import pytest

from etltd import succession
from etltd.handover import State
from etltd.succession import Rehearsal

NOTHING = State({}, [], [], 1, {}, 0)
PATIENCE_SECONDS = 20


def test_a_stop_while_the_rehearsal_is_being_started_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM would wait for 30 s, and the manager kill what is not gone by then."""
    closing = threading.Event()

    class Thread(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            closing.set()
            super().join(timeout)

    def command() -> list[str]:
        assert closing.wait(PATIENCE_SECONDS)
        return ["sleep", "60"]

    monkeypatch.setattr(succession, "REHEARSAL_SECONDS", 3.0)  # or a failure takes ten times that
    monkeypatch.setattr(threading, "Thread", Thread)
    monkeypatch.setattr(succession, "_command", command)
    rehearsal = Rehearsal(NOTHING, {"PATH": "/usr/bin:/bin"})
    rehearsal.close()

    assert rehearsal.problem == "exit status -9"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_rehearsal_that_breaks_off_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be an exec whose success nobody has shown."""

    def command() -> list[str]:
        raise MemoryError

    monkeypatch.setattr(succession, "_command", command)
    rehearsal = Rehearsal(NOTHING, {})
    rehearsal.close()

    assert rehearsal.is_over
    assert rehearsal.problem == "the rehearsal broke off"
