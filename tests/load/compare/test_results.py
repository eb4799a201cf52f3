"""RESULTS.md and README.md say what the stored studies say, and the printed commands ask again."""

from __future__ import annotations

import lzma
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadclient.compare.design import plan
from loadclient.compare.study import Kind, Study
from loadclient.compare.studyfile import design_of

if TYPE_CHECKING:
    from loadclient.compare.study import CellReport, OriginalRow

HERE = Path(__file__).parents[3]
RESULTS = HERE / "results"
SPOKEN = {Kind.A_BETTER: "et better", Kind.B_BETTER: "lt better"}


def stored(name: str) -> Study:
    return Study.from_json(lzma.decompress((RESULTS / f"{name}.json.xz").read_bytes()).decode())


@pytest.fixture(scope="module")
def study() -> Study:
    return stored("et-vs-lt")


def rows(title: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    section = (HERE / "RESULTS.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[word.strip() for word in line.strip("| ").split(" | ")] for line in lines[1:]]


def interval(report: CellReport, outcome: str) -> str:
    (effect,) = (one for one in report.effects if one.outcome == outcome)
    if effect.ratio is None:
        return "–"  # noqa: RUF001 - as in the table
    return f"{effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})"


def test_every_verdict_is_the_studys(study: Study) -> None:
    """A figure that was typed, or that is of another study."""
    asked = [
        [
            report.cell,
            f"{report.pairs} ({report.discarded})",
            interval(report, "cpu_ns_per_delivery"),
            SPOKEN.get(report.verdict, report.verdict.value),
            interval(report, "latency_p50_seconds"),
            interval(report, "latency_p99_seconds"),
        ]
        for report in study.cells
    ]

    assert rows("Verdicts") == asked


@pytest.mark.parametrize(
    ("name", "title"),
    [("et-vs-lt", "The mechanism"), ("traffic", "Who talks to whom: the counts")],
)
def test_every_count_is_the_studys(name: str, title: str) -> None:
    study = stored(name)
    told = {(cell, arm): counts for cell, arm, *counts in rows(title)}

    assert len(told) == 2 * len(study.cells)
    for report in study.cells:
        for arm in (report.a, report.b):
            calls = arm.syscalls_per_message
            waits, reads, empty, writes, mods, *_ = told[report.cell, arm.name]
            assert waits == f"{calls.get('epoll_wait', 0):.3g}"
            assert reads == f"{calls.get('recvfrom', 0):.3g}"
            assert empty == f"{arm.eagain_per_message.get('recvfrom', 0):.3g}"
            assert writes == f"{calls.get('sendto', 0) + calls.get('sendmsg', 0):.3g}"
            assert mods == f"{arm.epoll_ctl_per_message.get('mod', 0):.2g}"


def test_the_second_studys_doubts_are_told() -> None:
    """It names no winner, and says why before its counts."""
    study, text = stored("traffic"), (HERE / "RESULTS.md").read_text()
    told = text.partition("## Who talks to whom: the counts\n")[2].partition("\n## ")[0]
    control = study.cells[-1]

    assert study.fitness.fit is False
    assert f"came out at {interval(control, 'cpu_ns_per_delivery')}" in told
    assert f"in all {len(study.kernel)} kernel slices" in told
    assert all(one.kernel == one.daemon for one in study.kernel)
    assert {cell.verdict for cell in study.cells} == {Kind.NOT_COMPARABLE}
    with (RESULTS / "traffic.toml").open("rb") as file:
        assert plan(design_of(tomllib.load(file), "traffic")) == plan(study.design)


def test_the_printed_command_asks_the_same_questions_in_the_same_order(study: Study) -> None:
    with (RESULTS / "et-vs-lt.toml").open("rb") as file:
        design = design_of(tomllib.load(file), "et-vs-lt")

    assert design.cells == study.design.cells
    assert plan(design) == plan(study.design)
    assert "loadclient compare --study results/et-vs-lt.toml" in (HERE / "RESULTS.md").read_text()


def test_the_kernel_agreed_in_every_slice(study: Study) -> None:
    text = (HERE / "RESULTS.md").read_text()
    (slices,) = map(int, re.findall(r"in all (\d+), its wakeups", text))

    assert len(study.kernel) == slices
    assert all(one.kernel == one.daemon for one in study.kernel)
    received = sum(one.received for one in study.slices)
    assert received == sum(one.expected for one in study.slices)
    assert f"{received:,} copies were received" in text


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
