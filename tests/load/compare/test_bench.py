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
from loadclient.compare.design import compared, plan
from loadclient.compare.simulation import World, simulated_slices
from loadclient.compare.slices import NOTHING_ELSE
from loadclient.compare.study import Design
from loadclient.daemon import Daemon
from loadclient.result import RunResult
from loadclient.runner import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadclient.compare.study import Arm, Slice


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
