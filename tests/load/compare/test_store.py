"""Raw slices on disk: an interruption at any point costs at most the pair it fell into."""

from __future__ import annotations

import json
import lzma
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadclient import cli
from loadclient.compare import store
from loadclient.compare.analysis import analyse, judged_again
from loadclient.compare.bench import missing
from loadclient.compare.command import assemble
from loadclient.compare.design import compared, plan, with_control
from loadclient.compare.simulation import World, simulated_slices, simulated_study
from loadclient.compare.study import Design, Study
from loadclient.environment import Contention
from loadclient.options import UsageError

if TYPE_CHECKING:
    from pathlib import Path

DESIGN = replace(with_control(Design(pairs=7, cells=(compared(64), compared(128)))), seed=5)
SLICES = simulated_slices(DESIGN, World(histograms=False, invalid=0.05))
STUDY = simulated_study(DESIGN, World(histograms=False))
HEADER = store.Header(study_id="s", started=1.0, command="c", design=DESIGN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "raw.jsonl"
    store.begin(path, HEADER)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    for one in SLICES:
        store.append(path, one)
    raw = store.read(path)

    assert raw.header == HEADER
    assert tuple(raw.slices.values()) == SLICES


@settings(max_examples=30)
@given(cut=st.integers(0, len(SLICES)), half=st.booleans())
def test_resuming_gives_the_result_of_an_uninterrupted_study(
    tmp_path_factory: pytest.TempPathFactory, *, cut: int, half: bool
) -> None:
    """The steps that follow are those that were missing, in the order of the plan."""
    path = tmp_path_factory.mktemp("study") / "raw.jsonl"
    store.begin(path, HEADER)
    for one in SLICES[:cut]:
        store.append(path, one)
    if half:
        with path.open("a") as file:
            file.write('{"index": 3, "cel')

    done = store.read(path).slices
    store.mend(path)
    steps = [step for block in plan(DESIGN) for step in missing(block, done)]
    for step in steps:
        store.append(path, SLICES[step.index])
    resumed = store.read(path)

    assert [step.index for step in steps] == sorted(step.index for step in steps)
    assert len(steps) <= len(SLICES) - cut + 1  # the other slice of the broken pair, again
    assert analyse(DESIGN, resumed.slices.values()) == analyse(DESIGN, SLICES)


def test_a_whole_study_has_nothing_missing() -> None:
    done = {one.index: one for one in SLICES}

    assert not any(missing(block, done) for block in plan(DESIGN))


def test_of_two_slices_with_one_index_the_later_counts(path: Path) -> None:
    store.append(path, SLICES[0])
    store.append(path, replace(SLICES[0], mode="later"))
    raw = store.read(path)

    assert raw.slices[SLICES[0].index].mode == "later"
    assert raw.superseded == (SLICES[0],)


def test_an_interruption_excuses_no_fault_that_was_seen(path: Path) -> None:
    """LT lost a message, its pair was broken off and measured again: "et better"."""
    world = World(a_over_b={DESIGN.cells[0].name: 0.5}, noise=0.01, spikes=0, histograms=False)
    whole = simulated_slices(DESIGN, world)
    lost = {"lost": {"unexplained": 1}, "reasons": ["1 were lost without a notice"]}
    first = next(one for one in whole if one.cell == DESIGN.cells[0].name)  # LT's, by lot
    for one in whole[: first.index]:
        store.append(path, one)
    store.append(path, replace(first, valid=False, **lost))
    done = store.read(path).slices
    for step in [step for block in plan(DESIGN) for step in missing(block, done)]:
        store.append(path, whole[step.index])
    study = assemble(store.read(path), (), complete=True, contention=Contention.now())

    assert len(study.slices) == len(whole)
    assert study.cells[0].sentence == (
        "not comparable (lt lost 1 messages in a slice: 1 were lost without a notice)"
    )
    assert (study.fitness, study.cells) == judged_again(Study.from_json(study.to_json()))
    assert any("because their pair was broken off" in note for note in study.notes)


def test_nobodys_slices_are_overwritten(path: Path) -> None:
    with pytest.raises(UsageError, match="the file exists"):
        store.begin(path, HEADER)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a file of slices"),
        ("{}\n", "its first line"),
        ("[1]\n", "its first line"),
        ('{"schema": "etlt.slices/1"}\n', "is not a file of slices"),
    ],
)
def test_another_file_is_not_gone_on_with(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "other").write_text(text)

    with pytest.raises(UsageError, match=words):
        store.read(tmp_path / "other")


def test_no_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        store.read(tmp_path / "none")


def broken(*keys: object, value: object = None, row: dict[str, object] | None = None) -> object:
    """Return a stored study, or *row*, with something else in one place."""
    whole = json.loads(STUDY.to_json()) if row is None else json.loads(json.dumps(row))
    place = whole
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["slices"], [1], "1 is no Slice"),
        (["slices"], [None], "null is no Slice"),
        (["slices", 0, "sent"], "3", 'Slice: sent cannot be "3"'),
        (["slices", 0, "valid"], 1, "Slice: valid cannot be 1"),
        (["slices", 0, "lost"], {"x": []}, "Slice: lost cannot be"),
        (["slices", 0, "reasons"], [2], "Slice: reasons cannot be [2]"),
        (["environment"], None, "environment cannot be null"),
        (["fitness"], None, "a part of it is missing or of another kind"),
        (["cells"], [1], "a part of it is missing or of another kind"),
        (["cells", 0, "a", "outcomes"], [], "a part of it is missing or of another kind"),
        (["cells", 0, "effects", 0, "ratio"], "1", 'ratio cannot be "1"'),
        (["cells", 0, "effects", 0, "ratio"], float("nan"), "NaN is no number"),
        (["cells", 0, "effects", 0, "outcome"], "x", "not of the known outcomes"),
        (["cells", 0, "effects"], [], "not of the known outcomes"),
        (["kernel", 0, "cell"], "x", "the kernel's counts are of x, a: there is none"),
    ],
)
def test_a_study_that_was_tampered_with_is_refused_in_a_sentence(
    tmp_path: Path, keys: list[object], value: object, words: str
) -> None:
    """It ended in a traceback, after half a page or none."""
    path = tmp_path / "study.json"
    path.write_text(json.dumps(broken(*keys, value=value)))

    with pytest.raises(UsageError, match="is not a stored comparison") as refused:
        cli._stored(path)

    assert words in str(refused.value)


@pytest.mark.parametrize("stored", [b"[" * 200_000, b"\xff", store.XZ + b"nonsense", b""])
def test_what_is_no_study_at_all_is_refused(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(stored)

    with pytest.raises(UsageError, match="is not a stored comparison"):
        cli._stored(path)


def test_a_study_is_read_as_it_is_stored_compressed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "study"
    for packed in (STUDY.to_json().encode(), lzma.compress(STUDY.to_json().encode())):
        path.write_bytes(packed)
        assert cli._stored(path) == STUDY


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["design", "cells"], [], "it has no cells"),
        (["design", "cells"], 5, "a part of it is missing or of another kind"),
        (["design"], [], "a part of it is missing or of another kind"),
        (["design", "pairs"], "x", 'Design: pairs cannot be "x"'),
        (["addresses"], [["x"]], "not those of two daemons and their metrics"),
        (["addresses"], [1, 2], "Header: addresses cannot be [1, 2]"),
    ],
)
def test_a_first_line_that_cannot_be_gone_on_with_is_refused(
    tmp_path: Path, keys: list[object], value: object, words: str
) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_text(json.dumps(broken(*keys, value=value, row=asdict(HEADER))) + "\n")

    with pytest.raises(UsageError, match="is not a file of slices") as refused:
        store.read(path)

    assert words in str(refused.value)


@pytest.mark.parametrize("line", ["[1]", "null", '{"index": "0"}', "[" * 100_000])
def test_a_line_that_is_no_slice_is_refused(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(UsageError, match="is not a file of slices"):
        store.read(path)


def test_two_do_not_go_on_with_one_file(path: Path) -> None:
    """Both would measure the same slices, and each other."""
    with (
        store.alone(path),
        pytest.raises(UsageError, match="another comparison is writing to it"),
        store.alone(path),
    ):
        pass

    with store.alone(path):
        assert store.read(path).header == HEADER
