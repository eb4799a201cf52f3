"""What a daemon does wrong while the kernel is asked about it is not forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import pytest

from loadclient.compare import probing
from loadclient.compare.analysis import analyse, judged_again
from loadclient.compare.bench import GivenDaemons
from loadclient.compare.command import assemble
from loadclient.compare.design import compared
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.simulation import World, simulated_slices
from loadclient.compare.slices import NOTHING_ELSE
from loadclient.compare.store import Header, Raw
from loadclient.compare.study import Design, Study
from loadclient.daemon import Daemon
from loadclient.environment import Contention
from loadclient.result import RunResult
from loadclient.runner import CannotRunError
from loadclient.server import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.compare.design import Step

DESIGN = Design(pairs=6, cells=(compared(64), compared(128)))
SLICES = simulated_slices(DESIGN, World(histograms=False))
HERE = Daemon(os.getpid(), ("", 0), "")


class Witness:
    """Somebody who counts nothing of the kernel's."""

    unavailable, report = "", None

    def __init__(self, *_pids: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "KernelWitness", Witness)
    monkeypatch.setattr(probing.server, "read", lambda _: Reading(gauges={"connections": 0}))
    monkeypatch.setattr(probing.server, "read_at_rest", lambda *_: Reading())


@pytest.fixture
def ended() -> Iterator[Daemon]:
    """Return a daemon that has ended by itself: it stays a zombie, as a child of ours does."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield Daemon(process.pid, ("", 0), "")
    process.wait()


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (
            "3 of the messages looked at were duplicated",
            "et misbehaved while the kernel was asked: 3 of the messages looked at were duplicated",
        ),
        ("messages were still arriving when the drain time was over", None),  # the probe costs
        ("the client itself was the bottleneck: it was late", None),
    ],
)
def test_a_fault_in_a_slice_of_the_kernels_ends_the_cell(
    monkeypatch: pytest.MonkeyPatch, reason: str, why: str | None
) -> None:
    """What came of the load was dropped: the counts agreed, and the daemon was compared."""

    def loaded(_design: object, cell: object, step: Step, *_: object) -> object:
        faulty = (cell, step.arm) == (DESIGN.cells[0], "a")
        return RunResult(run_id="r", invalid_reasons=[reason] if faulty else []), NOTHING_ELSE

    monkeypatch.setattr(probing, "loaded", loaded)
    heard, complete = ask_the_kernel(DESIGN, GivenDaemons(HERE, HERE), lambda _: None)
    raw = Raw(Header(study_id="x", started=0, command="", design=DESIGN), dict(enumerate(SLICES)))
    study = assemble(raw, heard, complete=complete, contention=Contention.now())

    assert [report.not_comparable for report in study.cells] == [why, None]
    assert judged_again(Study.from_json(study.to_json()))[1] == study.cells


def test_a_daemon_that_ends_while_the_kernel_is_asked_ends_its_cell_and_not_the_study(
    monkeypatch: pytest.MonkeyPatch, ended: Daemon
) -> None:
    """All that was measured was there, and no report of it."""

    def loaded(_design: object, _cell: object, _step: object, daemon: Daemon, *_: object) -> object:
        if daemon is ended:
            raise CannotRunError("connection refused")
        return RunResult(run_id="r"), NOTHING_ELSE

    monkeypatch.setattr(probing, "loaded", loaded)
    heard, complete = ask_the_kernel(DESIGN, GivenDaemons(HERE, ended), lambda _: None)
    reports = analyse(DESIGN, SLICES, kernel=heard)[1]

    assert complete
    assert [report.not_comparable for report in reports] == [
        "lt misbehaved while the kernel was asked: the daemon ended by itself: connection refused"
    ] * 2


def test_a_load_that_fails_beside_a_living_daemon_is_no_fault_of_its(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: object) -> object:
        raise CannotRunError("too many open files")

    monkeypatch.setattr(probing, "loaded", loaded)
    with pytest.raises(CannotRunError):
        ask_the_kernel(DESIGN, GivenDaemons(HERE, HERE), lambda _: None)
