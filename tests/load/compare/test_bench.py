"""Who is started when, and who ends by himself: neither may tell the arms apart unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from loadclient.compare import bench, store
from loadclient.compare.analysis import analyse
from loadclient.compare.bench import Bench, GivenDaemons, OwnDaemons
from loadclient.compare.design import compared, plan, with_control
from loadclient.compare.simulation import World, simulated_slices
from loadclient.compare.slices import NOTHING_ELSE
from loadclient.compare.study import Design
from loadclient.daemon import Daemon
from loadclient.interrupts import InterruptedRunError
from loadclient.result import RunResult
from loadclient.runner import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadclient.compare.design import Step
    from loadclient.compare.study import Arm, Cell, Slice


class Nobody:
    """Somebody who does not follow the study."""

    def measured(self, one: Slice, left: int) -> None:
        pass


def test_the_older_daemon_of_a_pair_is_drawn_by_lot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arm a was always started first, whatever the order in which the two were loaded."""
    design = Design(pairs=8, cells=(compared(64),))
    started: list[str] = []

    @contextmanager
    def one(_self: OwnDaemons, arm: Arm, _logs: Path) -> Iterator[Daemon]:
        started.append(arm.name)
        yield Daemon(0, ("", 0), "")

    monkeypatch.setattr(OwnDaemons, "_one", one)
    monkeypatch.setattr(bench, "loaded", lambda *_: (RunResult(run_id="r"), NOTHING_ELSE))
    path = tmp_path / "raw.jsonl"
    store.begin(path, store.Header(study_id="x", started=0, command="", design=design))
    names = {"a": design.cells[0].a.name, "b": design.cells[0].b.name}

    assert Bench(design, path, OwnDaemons(), Nobody()).measure({})
    assert started == [names[step.arm] for block in plan(design) for step in block.steps]
    assert started[0::2].count(names["a"]) == design.pairs // 2


@pytest.mark.parametrize("dies", [True, False])
def test_a_daemon_that_ended_by_itself_is_not_forgotten_by_going_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies: bool,  # noqa: FBT001
) -> None:
    """The study was aborted and resumed, and nothing told of the crash."""
    design = Design(pairs=6, cells=(compared(64),))
    path = tmp_path / "raw.jsonl"
    store.begin(path, store.Header(study_id="x", started=0, command="", design=design))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie, as a daemon would
    daemon = Daemon(ended.pid if dies else os.getpid(), ("", 0), "")

    def cannot(*_: object) -> None:
        raise CannotRunError("connection refused")

    monkeypatch.setattr(bench, "loaded", cannot)
    with pytest.raises(CannotRunError):
        Bench(design, path, GivenDaemons(daemon, daemon), Nobody()).measure({})
    ended.wait()
    aborted = store.read(path).slices
    for one in simulated_slices(design, World(histograms=False)):
        store.append(path, one)
    raw = store.read(path)
    found = analyse(design, raw.slices.values(), raw.superseded)[1][0].not_comparable or ""

    assert len(aborted) == len(raw.superseded) == dies
    assert ("in a slice: the daemon ended by itself: connection refused" in found) == dies


class Lives:
    """Gives each block daemons of its own, which are told apart by their pid."""

    def __init__(self) -> None:
        self._life = 0

    @contextmanager
    def up(self, _cell: Cell, _first: str = "a") -> Iterator[dict[str, Daemon]]:
        self._life += 1
        yield dict.fromkeys("ab", Daemon(self._life, ("", 0), ""))


class Stopped:
    """Measures *design* where all slices are known before, and may be stopped at one of them."""

    def __init__(self, design: Design, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lives: dict[int, int] = {}  # of the daemon that a slice was measured with
        self._design, self._path, self._daemons = design, path, Lives()
        self._to_come: int | None = None
        monkeypatch.setattr(bench, "loaded", self._loaded)
        store.begin(path, store.Header(study_id="x", started=0, command="", design=design))

    def _loaded(self, _design: Design, _cell: Cell, step: Step, daemon: Daemon, _: None) -> object:
        if self._to_come == 0:
            raise InterruptedRunError
        if self._to_come is not None:
            self._to_come -= 1
        self.lives[step.index] = daemon.pid
        return RunResult(run_id="r"), NOTHING_ELSE

    def measure(self, most: int | None = None) -> bool:
        """Go on from the file, for at most so many slices."""
        self._to_come = most
        store.mend(self._path)
        done = store.read(self._path).slices
        return Bench(self._design, self._path, self._daemons, Nobody()).measure(done)


def test_a_study_that_was_stopped_anywhere_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of resuming was tested, and nothing showed that they fit.

    Stopped at each slice in turn, those of the replacements included, and with a line half written.
    """
    monkeypatch.setattr(store.os, "fsync", lambda _: None)  # thousands of them
    design = with_control(Design(pairs=6, cells=(compared(64),)))
    world = World(
        a_over_b={design.cells[0].name: 0.5}, noise=0.02, spikes=0, invalid=0.1, replaced=True,
        histograms=False,
    )  # fmt: skip
    known = simulated_slices(design, world, seed=7)  # of which a replacement is replaced
    wanted = {one.index: one for one in known}
    monkeypatch.setattr(bench, "slice_of", lambda step, *_: wanted[step.index])
    verdict = analyse(design, known)
    assert Stopped(design, tmp_path / "whole.jsonl", monkeypatch).measure()
    assert store.read(tmp_path / "whole.jsonl").slices == wanted
    assert any(one.pair >= design.pairs and not one.valid for one in known)
    assert verdict[1][0].sentence == "et better"

    for stop in range(len(known)):
        path = tmp_path / f"{stop}.jsonl"
        study = Stopped(design, path, monkeypatch)
        assert not study.measure(stop)
        with path.open("a") as file:
            file.write('{"index": ')
        assert study.measure()

        raw = store.read(path)
        assert raw.slices == wanted
        assert len(raw.superseded) <= 1  # of the pair that was broken off
        assert analyse(design, raw.slices.values(), raw.superseded) == verdict
        pairs = {(one.cell, one.pair, study.lives[one.index]) for one in known}
        assert len(pairs) == len({life for *_, life in pairs}) == len(known) / 2
