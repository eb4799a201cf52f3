"""RESULTS.md and README.md say what the stored studies say, and the printed commands ask again."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadclient.compare.command import check_loads
from loadclient.compare.design import full, plan, quick
from loadclient.compare.simulation import World, simulated_study
from loadclient.compare.study import AT_EQUAL_BATCH, PRIMARY, Design, Fitness, Study
from loadclient.compare.studyfile import design_of
from loadclient.compare.verdict import percent
from tests.bench import power
from tests.untraced import untraced

if TYPE_CHECKING:
    from loadclient.compare.study import OriginalRow

HERE = Path(__file__).parents[3]
RESULTS = HERE / "results"
NAMES = ("et-vs-lt", "loops")


@pytest.fixture(scope="module")
def write() -> Any:
    """Return the script that writes what the documents say of studies."""
    spec = spec_from_file_location("results_write", RESULTS / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def design(name: str) -> Design:
    with (RESULTS / f"{name}.toml").open("rb") as file:
        return design_of(tomllib.load(file), name)


@pytest.mark.parametrize("document", ["RESULTS.md", "README.md", "SCALING.md"])
def test_every_figure_of_a_study_is_the_stored_ones(write: Any, document: str) -> None:
    """One that was typed, or that is of another study; and whether today's rules bear it out."""
    text = (HERE / document).read_text()

    assert write.written(text) == text


def test_the_script_says_what_is_in_the_study(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it and the page agreed about something else, nobody would notice."""
    first, second = (cell.name for cell in quick().cells[:2])
    world = World(a_over_b={first: 0.5}, noise=0.01, process=0, spikes=0, wrong_mode=second)
    study = simulated_study(world=world)
    monkeypatch.setattr(write, "stored", lambda _name: study)
    write.judged_anew.cache_clear()
    effect = study.cells[0].effects[0]
    ratio = f"{effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})"
    told = write.written(
        "<!-- found x -->\n<!-- end -->\n<!-- verdicts x -->\n<!-- end -->\n"
        f"<!-- standing x -->\n<!-- end -->\n<!--cpu x: {first}-->?<!--/-->\n"
        f"<!--count x: {first}; a; reads-->?<!--/-->\n<!-- counts x -->\n<!-- end -->\n"
    )

    assert f"- {first}: et better, server CPU per delivered message {ratio}" in told
    assert f"- {second}: et was to show its metrics say mode et, but shows lt" in told
    assert f"| {first} | 10 (0) | {ratio} | et better |" in told
    assert f"Judged anew by today's code, the {len(study.slices)} stored slices give" in told
    assert f"<!--cpu x: {first}-->{ratio}<!--/-->" in told
    assert f"<!--count x: {first}; a; reads-->2<!--/-->" in told
    waits = study.cells[0].a.syscalls_per_message["epoll_wait"]
    assert f"| {first} | et | {waits:.3g} | 2 |" in told
    write.judged_anew.cache_clear()


def test_what_earlier_studies_are_quoted_for_stands_by_todays_rules(write: Any) -> None:
    """All but a cell or two that today's rules refuse, and which are quoted for nothing."""
    assert all(write.stands(name) for name in write.EARLIER)


def test_not_shown_is_said_with_what_could_have_been_seen(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That "it is gone" was written of an interval as wide as what was gone."""
    usual, _, same = (cell.name for cell in quick().cells[:3])
    world = World(a_over_b={usual: 1.3}, noise=0.02, process=0, spikes=0, batching=0.2,
                  batch_slope=-0.5)  # fmt: skip
    study = simulated_study(world=world, seed=2)
    monkeypatch.setattr(write, "stored", lambda _name: study)
    told = write.written(
        "<!-- policy x -->\n<!-- end -->\n<!-- replications x -->\n<!-- end -->\n"
        f"<!-- slopes x -->\n<!-- end -->\n<!--seen x: {same}-->?<!--/-->\n"
    )
    seen = percent(study.cells[2].effects[1].detectable)
    total, equal = (
        f"{effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})"
        for effect in study.cells[0].effects[:2]
    )
    batch, slope, ratio, steeper = (
        float(word) for word in re.search(rf"\| {usual} \| ([\d.]+) \| (-[\d.]+) \| "
                                          r"([\d.]+) \| ([\d.]+) \|", told).groups()
    )  # fmt: skip

    assert f"at equal batch: no winners in 1 cells; what could have been seen is {seen} to" in told
    assert f"<!--seen x: {same}-->{seen}<!--/-->" in told
    assert f"| {usual} | CPU | {total}* | {total}* | {total}* |" in told
    assert f"| {usual} | CPU at equal batch | {equal}* | {equal}* | {equal}* |" in told
    assert slope == pytest.approx(-0.5, abs=0.2)
    assert steeper == pytest.approx(ratio * batch**0.2, abs=2e-3)


def test_a_study_that_todays_rules_refuse_is_said_to_be_refused(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its winner was said to stand when no cell of it could be compared any more."""
    study = simulated_study()
    old = replace(study, design=replace(study.design, pairs_per_daemon=5))
    monkeypatch.setattr(write, "stored", lambda _name: old)
    write.judged_anew.cache_clear()
    told = "\n".join(write.standing("x"))
    write.judged_anew.cache_clear()

    assert "**Today's rules refuse this study.** Judged anew, 4 of 4 cells" in told
    assert "- 5 pairs share two processes" in told


def test_only_a_finished_study_that_stands_is_taken(write: Any, tmp_path: Path) -> None:
    study = simulated_study()
    path = tmp_path / "study.json"
    for doubtful, why in (
        (replace(study, complete=False), "not finished"),
        (replace(study, fitness=Fitness()), "judges its slices otherwise"),
    ):
        path.write_text(doubtful.to_json())
        with pytest.raises(ValueError, match=why):
            write.take(path, "x")


def test_the_script_runs_as_printed(tmp_path: Path) -> None:
    """It finds its modules from anywhere, and leaves alone what is already right."""
    documents = [HERE / name for name in ("RESULTS.md", "README.md", "SCALING.md")]
    before = [path.read_bytes() for path in documents]
    subprocess.run([sys.executable, RESULTS / "write.py"], cwd=tmp_path, check=True)

    assert [path.read_bytes() for path in documents] == before


def test_the_tables_of_power_are_the_programs() -> None:
    """They were of half as many verdicts as a study corrects for, and nobody noticed."""
    text = (HERE / "RESULTS.md").read_text()
    with untraced():
        of_total = power.rows(full(), PRIMARY, 400, scatters=(0.15,))
        at_equal = power.rows(full(), AT_EQUAL_BATCH, 400, scatters=(0.06,))

    assert {*of_total, *at_equal} <= {*text.splitlines()}


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_command_asks_the_same_questions(write: Any, name: str) -> None:
    """In the same order, too, unless the study is refused and is to be measured anew."""
    study = write.stored(name)
    if write.stands(name):
        assert plan(design(name)) == plan(study.design)
    else:
        assert "**Today's rules refuse this study.**" in (HERE / "RESULTS.md").read_text()
        assert design(name).cells[0] == study.design.cells[0]


def test_the_main_study_asks_what_the_full_design_asks() -> None:
    """Written down, so that a preset that changes does not change the study."""
    assert plan(design("et-vs-lt")) == plan(replace(full(), seed=1))
    assert "loadclient compare --study results/et-vs-lt.toml" in (HERE / "RESULTS.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_command_is_not_refused(name: str) -> None:
    check_loads(design(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_agreed_in_every_slice(write: Any, name: str) -> None:
    study = write.stored(name)

    assert study.kernel
    assert all(one.kernel == one.daemon for one in study.kernel)


# The original's table, in the README.


def bytes_in_words(number: float | None) -> str:
    return "–" if number is None else f"{number / 1e6:,.0f} MB"  # noqa: RUF001 - as in the table


def kernel_buffers(row: OriginalRow) -> float:
    """Return what was sent, by the client or by the server, and read by nobody."""
    where = (row.unread_at_server_bytes, row.in_send_buffers_bytes, row.unread_at_clients_bytes)
    return sum(one or 0 for one in where)


def delivered(row: OriginalRow) -> str:
    if row.delivery_ratio is None:
        return "–"  # noqa: RUF001
    late = any("the client itself was the bottleneck" in one for one in row.reading_reasons)
    doubt = "" if row.reading_valid else " (client late)" if late else " (not valid)"
    return f"{row.delivery_ratio:.1%}{doubt}"


def line(row: OriginalRow) -> str:
    published = row.published_sent_per_second
    cells = (
        f"{row.msg_bytes} B",
        row.server,
        f"{row.sent_per_second:,.0f}",
        f"{row.kilobytes_per_second:,.0f}",
        "–" if published is None else f"{published:,.0f}",  # noqa: RUF001
        f"{row.processed or 0:,.0f}",
        bytes_in_words(kernel_buffers(row)),
        bytes_in_words(row.outbox_bytes),
        delivered(row),
    )
    return f"| {' | '.join(cells)} |"


def test_the_originals_table_is_as_it_was_measured() -> None:
    """Its score of three servers, one of which never reads, and what the score hides."""
    study = Study.from_json((RESULTS / "original.json").read_text())
    section = (HERE / "README.md").read_text().partition("**The original's score.**")[2]
    told = [text for text in section.partition("\n## ")[0].splitlines() if text.startswith("| ")]
    scores = [row.sent_per_second for row in study.original]

    assert study.complete
    assert told[1:] == [line(row) for row in study.original]
    assert f"between {min(scores):,.0f} and {max(scores):,.0f} msg/s" in section
    assert study.command in section
