"""Raw slices on disk: an interruption at any point costs at most the pair it fell into."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadclient.compare import store
from loadclient.compare.analysis import analyse
from loadclient.compare.bench import missing
from loadclient.compare.design import compared, plan, with_control
from loadclient.compare.simulation import World, simulated_slices
from loadclient.compare.study import Design
from loadclient.options import UsageError

if TYPE_CHECKING:
    from pathlib import Path

DESIGN = replace(with_control(Design(pairs=7, cells=(compared(64), compared(128)))), seed=5)
SLICES = simulated_slices(DESIGN, World(histograms=False, invalid=0.05))
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


@settings(max_examples=30, deadline=None)
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

    assert store.read(path).slices[SLICES[0].index].mode == "later"


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
