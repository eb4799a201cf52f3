"""A daemon that was made worse on purpose is found: the sign, about the size, and by its name."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import shuffle
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from loadclient.compare import store
from loadclient.compare.analysis import analyse
from loadclient.compare.bench import Bench
from loadclient.compare.command import assemble
from loadclient.compare.fingerprint import contradiction
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.study import Arm, Cell, Design, Kind, Shape
from loadclient.daemon import Daemon, running_daemon
from loadclient.environment import Contention
from tests.load.compare.planted_daemon import DELAY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.compare.bench import Daemons
    from loadclient.compare.study import CellReport, Slice

pytestmark = pytest.mark.system
PLANTED = Path(__file__).with_name("planted_daemon.py")
ROOT = Path(__file__).parents[3]
# One message at a time, so that each has a tick of its own.
LOAD = Shape(name="one talker", conns=5, rate=20, senders=1)
READERS = LOAD.conns - 1
PAIRS = 6  # the fewest of which any difference stands
ATTEMPTS = 3  # that a busy machine has


class PlantedDaemons:
    """Arm a has the fault, but in the A/A arm; both are the real daemon."""

    def __init__(self, fault: str, folder: Path) -> None:
        self._within = [sys.executable, str(PLANTED), fault]
        self._folder = folder

    @contextmanager
    def up(self, cell: Cell, _first: str = "a") -> Iterator[dict[str, Daemon]]:
        within = [] if cell.control else self._within
        with (
            running_daemon(cell.a.mode, self._folder / "a.log", within=within) as a,
            running_daemon(cell.b.mode, self._folder / "b.log") as b,
        ):
            yield {"a": a, "b": b}


class Twins:
    """Two processes of the same daemon; which is a and which is b is drawn for each pair.

    That is as good as fresh ones: what tells the two apart helps a as often as b.
    """

    def __init__(self, one: Daemon, other: Daemon) -> None:
        self._twins = [one, other]

    @contextmanager
    def up(self, _cell: Cell, _first: str = "a") -> Iterator[dict[str, Daemon]]:
        shuffle(self._twins)
        yield dict(zip("ab", self._twins, strict=True))


class Nobody:
    """Somebody who does not follow the study."""

    def measured(self, one: Slice, left: int) -> None:
        pass


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a script's own folder comes first, not the root


def design(mode: str, pairs: int, *, control: bool = False) -> Design:
    names = ("honest again", "honest") if control else ("planted", "honest")
    a, b = (Arm(name=name, mode=mode) for name in names)
    cell = Cell(name="x", msg_bytes=64, drain="own", shape=LOAD, a=a, b=b, control=control)
    return Design(pairs=pairs, slice_seconds=0.3, settle_seconds=0, cells=(cell,))


def measured(daemons: Daemons, design: Design, folder: Path) -> store.Raw:
    """Measure the whole design, replacements included."""
    with TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "raw.jsonl"
        store.begin(path, store.Header(study_id="x", started=0, command="", design=design))
        assert Bench(design, path, daemons, Nobody()).measure({})
        return store.read(path)


def studied(daemons: Daemons, design: Design, folder: Path) -> tuple[CellReport, list[Slice]]:
    """Measure and judge, whatever the machine's neighbours did meanwhile.

    What is planted is many times their noise, so their slices are not left out: there would be
    too few pairs on a busy machine, and nothing to assert.
    """
    slices = list(measured(daemons, design, folder).slices.values())
    used = [one if one.misbehaviour else replace(one, valid=True, reasons=[]) for one in slices]
    _, (report,) = analyse(design, used)
    return report, slices


def test_a_hidden_delay_in_each_tick_is_found_and_measured(tmp_path: Path) -> None:
    """It shows in the daemon's processor time, and every message waits for it.

    All is judged as a user's study is: by what the gates leave, and with an A/A arm. A busy machine
    may leave too little or find the two equal ones different; then nobody is called better, and it
    is asked again.
    """
    twins = replace(design("et", PAIRS, control=True).cells[0], name="A/A")
    asked = design("et", PAIRS)
    asked = replace(asked, cells=(*asked.cells, twins))
    for _ in range(ATTEMPTS):
        raw = measured(PlantedDaemons("delay", tmp_path), asked, tmp_path)
        study = assemble(raw, (), complete=True, contention=Contention.now())
        report, control = study.cells
        if report.verdict is not Kind.NOT_COMPARABLE:
            break
    cost, latency = (
        [arm.outcomes[outcome].median for arm in (report.a, report.b)]
        for outcome in ("cpu_ns_per_delivery", "latency_p50_seconds")
    )

    assert report.sentence == "honest better"
    assert report.verdict is Kind.B_BETTER
    assert report.effects[0].low > 2
    assert (cost[0] - cost[1]) * READERS == pytest.approx(DELAY_SECONDS * 1e9, rel=0.3)
    assert latency[0] > 0.9 * DELAY_SECONDS
    assert control.not_comparable is None
    assert study.fitness.fit is not None


def test_two_equal_daemons_are_not_called_different(tmp_path: Path) -> None:
    """On the real machine, and at a level at which chance does so once in a thousand studies."""
    asked = replace(design("et", 2 * PAIRS, control=True), confidence=0.999)
    with (
        running_daemon("et", tmp_path / "one.log") as one,
        running_daemon("et", tmp_path / "other.log") as other,
    ):
        found = studied(Twins(one, other), asked, tmp_path)[0]

    assert found.effects[0].verdict in {Kind.INCONCLUSIVE, Kind.EQUIVALENT}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("level", "connections registered, edge-triggered, but shows 0 edge-triggered, "),
        ("drop", "planted lost "),
        ("duplicate", "of the messages looked at were duplicated"),
        ("reorder", "of the messages looked at were reordered"),
    ],
)
def test_a_daemon_that_cheats_once_is_not_compared_and_the_fault_is_named(
    tmp_path: Path, fault: str, words: str
) -> None:
    """None of its counters says so, and the other slices were good, or even better."""
    report, _ = studied(PlantedDaemons(fault, tmp_path), design("et", 1), tmp_path)

    assert report.verdict is Kind.NOT_COMPARABLE
    assert words in report.sentence
    assert "planted" in report.sentence


def test_a_daemon_that_understates_its_processor_time_does_not_win(tmp_path: Path) -> None:
    """It said that it used seven tenths, and was called better."""
    asked = design("et", 1)
    busy = replace(asked.cells[0], shape=Shape(name="busy", conns=30, rate=40))
    asked = replace(asked, slice_seconds=1.0, cells=(busy,))  # three tenths of it are no scrape
    report, _ = studied(PlantedDaemons("cheap", tmp_path), asked, tmp_path)

    assert report.verdict is Kind.NOT_COMPARABLE
    assert "planted" in report.sentence
    assert "of processor time, and by the kernel's clock it was" in report.sentence


def test_a_read_too_many_is_not_taken_for_the_mode(tmp_path: Path) -> None:
    """LT that finds nothing after each read does not read as LT does, whatever it cost."""
    report, _ = studied(PlantedDaemons("counted", tmp_path), design("lt", 1), tmp_path)

    assert report.verdict is Kind.NOT_COMPARABLE
    assert "planted was to show no read that finds nothing, but shows" in report.sentence


@pytest.mark.kernel
def test_a_doubled_read_that_no_counter_mentions_is_seen_by_the_kernel(tmp_path: Path) -> None:
    """The daemon's own word is not enough: it says one read a message, and makes two.

    The kernel's count has its sign and its size. What it costs in processor time is too little for
    the few slices of a test; the full design asks it in a cell of its own ("one read more").
    """
    asked = design("lt", 1)
    heard, complete = ask_the_kernel(asked, PlantedDaemons("read-twice", tmp_path), lambda _: None)
    planted, honest = heard

    assert complete
    assert planted.contradictions == ["recvfrom", "recvfrom that found nothing"]
    assert planted.kernel["recvfrom"] == pytest.approx(2 * planted.daemon["recvfrom"], rel=0.05)
    assert honest.contradictions == []
    assert str(contradiction(asked.cells[0], heard)).startswith("planted does not count what it")
    assert contradiction(asked.cells[0], [honest]) is None
