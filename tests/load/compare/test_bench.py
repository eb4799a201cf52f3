"""Who is started when: what is not drawn by lot tells the arms apart."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from loadclient.compare import bench, store
from loadclient.compare.bench import Bench, OwnDaemons
from loadclient.compare.design import compared, plan
from loadclient.compare.slices import NOTHING_ELSE
from loadclient.compare.study import Design
from loadclient.daemon import Daemon
from loadclient.result import RunResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

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
