"""A daemon that was made worse on purpose is found: the sign, about the size, and by its name."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from loadclient.compare import store
from loadclient.compare.analysis import analyse
from loadclient.compare.bench import Bench
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.study import Arm, Cell, Design, Kind, Shape
from loadclient.daemon import Daemon, running_daemon
from tests.load.compare.planted_daemon import DELAY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.compare.study import CellReport, Slice

pytestmark = pytest.mark.system
PLANTED = Path(__file__).with_name("planted_daemon.py")
ROOT = Path(__file__).parents[3]
# One message at a time, so that each has a tick of its own.
LOAD = Shape(name="one talker", conns=5, rate=20, senders=1)
READERS = LOAD.conns - 1


class PlantedDaemons:
    """Arm a has the fault; both are the real daemon."""

    def __init__(self, fault: str, folder: Path) -> None:
        self._within = [sys.executable, str(PLANTED), fault]
        self._folder = folder

    @contextmanager
    def up(self, cell: Cell) -> Iterator[dict[str, Daemon]]:
        with (
            running_daemon(cell.a.mode, self._folder / "a.log", within=self._within) as a,
            running_daemon(cell.b.mode, self._folder / "b.log") as b,
        ):
            yield {"a": a, "b": b}


class Nobody:
    """Somebody who does not follow the study."""

    def measured(self, one: Slice, left: int) -> None:
        pass


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a script's own folder comes first, not the root


def design(mode: str, pairs: int) -> Design:
    arms = {name: Arm(name=name, mode=mode) for name in ("planted", "honest")}
    cell = Cell(name="x", msg_bytes=64, drain="own", shape=LOAD, a=arms["planted"],
                b=arms["honest"])  # fmt: skip
    return Design(
        pairs=pairs, pairs_per_daemon=pairs, slice_seconds=0.5, settle_seconds=0, cells=(cell,)
    )


def studied(fault: str, design: Design, folder: Path) -> tuple[CellReport, list[Slice]]:
    path = folder / "raw.jsonl"
    store.begin(path, store.Header(study_id="x", started=0, command="", design=design))
    assert Bench(design, path, PlantedDaemons(fault, folder), Nobody()).measure({})
    slices = list(store.read(path).slices.values())
    _, (report,) = analyse(design, slices)
    return report, slices


def test_a_hidden_delay_in_each_tick_is_found_and_measured(tmp_path: Path) -> None:
    """It shows in the daemon's processor time, and every message waits for it."""
    report, slices = studied("delay", design("et", 6), tmp_path)

    def more(outcome: str) -> float:
        """Return by how much the planted daemon's middle is above the honest one's."""
        a, b = (median(s.outcomes[outcome] for s in slices if s.arm == arm) for arm in "ab")
        return a - b

    assert more("cpu_ns_per_delivery") * READERS == pytest.approx(DELAY_SECONDS * 1e9, rel=0.3)
    assert 0.9 * DELAY_SECONDS < more("latency_p50_seconds") < 5 * DELAY_SECONDS
    if report.not_comparable is None:  # the machine's neighbours left six pairs
        assert report.verdict is Kind.B_BETTER
        assert report.sentence == "honest better"
        assert report.effects[0].low > 2


def test_a_read_too_many_is_not_taken_for_the_mode(tmp_path: Path) -> None:
    """LT that finds nothing after each read does not read as LT does, whatever it cost."""
    report, _ = studied("counted", design("lt", 1), tmp_path)

    assert report.verdict is Kind.NOT_COMPARABLE
    assert "planted was to show no read that finds nothing, but shows" in report.sentence


@pytest.mark.kernel
def test_a_doubled_read_that_no_counter_mentions_is_seen_by_the_kernel(tmp_path: Path) -> None:
    """The daemon's own word is not enough: it says one read a message, and makes two."""
    asked = design("lt", 1)
    heard, complete = ask_the_kernel(asked, PlantedDaemons("read-twice", tmp_path), lambda _: None)
    planted, honest = heard

    assert complete
    assert planted.contradictions == ["recvfrom", "recvfrom that found nothing"]
    assert planted.kernel["recvfrom"] == pytest.approx(2 * planted.daemon["recvfrom"], rel=0.05)
    assert honest.contradictions == []
