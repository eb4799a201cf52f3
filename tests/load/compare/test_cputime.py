"""The kernel's clock of another process: exact, and silent where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadclient.compare.cputime import Processors, used

SPIN = """
import time
while time.process_time() < 0.2: pass
print(time.process_time(), flush=True)
input()
"""


def measured(*pids: int) -> float | None:
    observer = Processors(*pids)
    for phase in ("connect", "measure", "drain", "settle"):
        observer.enter(phase, None)
    return observer.seconds


def test_the_clock_of_another_process_is_the_one_it_has_itself() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        said = float(other.stdout.readline())
        assert used(other.pid) == pytest.approx(said, abs=0.02)
        other.communicate("\n")


def test_a_process_that_is_gone_or_not_ours_has_no_figure() -> None:
    """Nought would read as a daemon that costs nothing."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert measured(gone.pid) is None
    assert measured(0) is None
    assert measured(os.getpid(), 0) is None
    assert measured() == 0


def test_only_what_lies_between_the_two_readings_counts() -> None:
    observer = Processors(os.getpid())
    observer.enter("settle", None)
    assert observer.seconds is None
    observer.enter("measure", None)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    observer.enter("settle", None)

    assert observer.seconds == pytest.approx(0.05, abs=0.02)
