"""Ctrl-C in every phase ends the run truthfully; the last one has nothing left to cut short."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from loadclient.crew import Crew
from loadclient.interrupts import SIGNALS, InterruptedRunError, Interrupts
from loadclient.options import Options
from loadclient.protocol import Connect, Connected, Failed, Look, Plan
from loadclient.runner import Run
from loadclient.verdict import Verdict
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FaultyServer

    from loadclient.protocol import Snapshot
    from loadclient.result import RunResult
    from loadclient.totals import Frames

pytestmark = pytest.mark.system
ANSWER_SECONDS = 0.4  # the parent looks at the signals each 0.1 s that it waits for an answer


class CtrlC:
    """An observer that interrupts when a phase begins, while all workers are slow to answer."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def begin(self, run_id: str) -> None:
        pass

    def look(self, total: Snapshot, frames: Frames) -> None:
        pass

    def enter(self, phase: str, _seconds: float | None) -> None:
        if phase != self.phase:
            return
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.ZombieProcess):  # another test's, not reaped yet
                if "loadclient.worker" in child.cmdline():
                    child.suspend()
                    threading.Timer(ANSWER_SECONDS, child.resume).start()
        os.kill(os.getpid(), signal.SIGINT)


def interrupted(port: int, phase: str) -> RunResult:
    options = Options(conns=4, rate=50, duration=1, warmup=0.5, quiet=True)
    run = Run(options, ("127.0.0.1", port), [CtrlC(phase)])
    return Verdict(options, run.execute()).result()


@pytest.mark.parametrize("phase", ["connect", "hello", "warmup", "measure", "drain"])
def test_a_run_cut_short_in_any_phase_says_in_which(
    faulty: Callable[[str], FaultyServer], phase: str
) -> None:
    result = interrupted(faulty("none").port, phase)

    assert result.interrupted
    assert result.invalid_reasons[0] == f"interrupted during {phase}"
    assert not any("lost" in reason or "owed" in reason for reason in result.invalid_reasons)
    assert result.messages_received == result.messages_expected


def test_ctrl_c_while_settling_does_not_cost_the_result(
    faulty: Callable[[str], FaultyServer],
) -> None:
    """Everything is measured by then; there was a traceback and nothing else."""
    result = interrupted(faulty("none").port, "settle")

    assert not result.interrupted
    assert not [reason for reason in result.invalid_reasons if "bottleneck" not in reason]
    assert result.messages_received == result.messages_expected == 600


def test_a_signal_that_a_run_did_not_heed_any_more_is_the_commands() -> None:
    """It came while a slice was settling, and the study went on for half an hour."""
    with Interrupts() as study:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(InterruptedRunError):
            study.check()


def test_a_signal_between_two_runs_is_the_next_ones() -> None:
    with Interrupts() as study:
        signal.raise_signal(signal.SIGTERM)
        with Interrupts() as run, pytest.raises(InterruptedRunError):
            run.check()

        study.check()


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    """A job in the background of a script ignored it while it started, and then no more."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            interrupts.check()

            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_worker_is_deaf_to_ctrl_c_from_its_first_instruction() -> None:
    """One that was still importing died of it, and the run with it: exit 1, and a traceback."""
    with Crew(1) as crew:
        process = crew._workers[0][0]
        status = Path(f"/proc/{process.pid}/status").read_text()
        masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
        unheard = int(masks["SigBlk"], 16) | int(masks["SigIgn"], 16)

        assert [number.name for number in SIGNALS if not unheard >> (number - 1) & 1] == []
    assert process.returncode == 0


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next() -> None:
    """After Ctrl-C between the two, each answer would belong to the question before."""

    def interrupt() -> None:
        raise InterruptedRunError

    plan = Plan(("127.0.0.1", 1), (), Voices.alike(1, 20, 64), 1, False, 0.0, 0, 0, 0)
    with Crew(1) as crew:
        worker = crew._workers[0][0]
        worker.send_signal(signal.SIGSTOP)
        crew._between = interrupt
        with pytest.raises(InterruptedRunError):
            crew.ask(Look(), Failed)
        crew._between = lambda: None
        worker.send_signal(signal.SIGCONT)

        assert crew.ask(Connect(plan, 1.0), Connected)[0].connections == 0
