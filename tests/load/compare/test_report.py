"""The report in words: the doubts first, and the figures of the JSON."""

from __future__ import annotations

import io
import json
import lzma
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.compare.design import full, quick
from loadclient.compare.progress import StudyProgress
from loadclient.compare.report import size, text
from loadclient.compare.simulation import World, simulated_study
from loadclient.compare.study import KernelCounts, Link, OriginalRow, Study, Woken
from loadclient.compare.verdict import interval
from loadclient.report import spoken

if TYPE_CHECKING:
    from pathlib import Path

WIDE = 250  # so that no cell is broken into lines
FIRST = quick().cells[0].name


def test_every_judged_effect_is_in_the_text_as_in_the_record() -> None:
    study = simulated_study(world=World(a_over_b={FIRST: 0.7}))
    said = text(study, WIDE)

    for cell in study.cells:
        assert cell.cell in said
        for effect in cell.effects:
            if effect.verdict is not None:
                assert interval(effect) in said
                assert effect.sentence in said
    assert study.command in said
    assert all(note in said for note in study.notes)


def test_a_stored_study_is_told_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A study of yesterday could only be drawn, and only with what draws it installed."""
    study = simulated_study(world=World(histograms=False))
    stored = tmp_path / "study.json.xz"
    stored.write_bytes(lzma.compress(study.to_json().encode()))
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(stored)])

    assert capfd.readouterr().out == text(study)


def test_only_the_question_itself_is_not_called_exploratory() -> None:
    """Of four measures one finds a winner among equals more often than one in twenty does."""
    study = simulated_study(world=World(a_over_b={FIRST: 0.4}, noise=0.01, process=0, spikes=0))
    said = text(study, WIDE)
    hints = [effect for effect in study.cells[0].effects if effect.exploratory]

    assert [effect.outcome for effect in hints] == [
        "latency_p50_seconds", "latency_p99_seconds", "deliveries_per_second",
    ]  # fmt: skip
    assert study.cells[0].effects[0].sentence == "et better"
    assert hints[0].sentence == "et better (exploratory)"
    assert "latency, p50 (exploratory)" in said
    assert "server CPU per delivered message (exploratory)" not in said
    assert "at equal batch (exploratory)" not in said
    assert "The other measures are exploratory" in said
    assert all(json.loads(study.to_json())["cells"][0]["effects"][n]["exploratory"] for n in (2, 3))


def test_what_was_between_client_and_daemon_is_said_at_the_top() -> None:
    """A latency over a network is another figure than one over loopback."""
    link = Link(netem="delay=5ms", emulation="tap", because="no such qdisc")
    said = text(replace(simulated_study(), link=link), WIDE)

    assert f"network: {link.sentence}" in said.partition("verdicts")[0]


def test_the_machine_is_judged_before_any_winner() -> None:
    design = quick()
    world = World(a_over_b={FIRST: 0.5, design.cells[-1].name: 0.7}, noise=0.02)
    said = text(simulated_study(design, world), WIDE)

    assert said.index("Unfit") < said.index("ratio a over b")


def test_a_mode_that_was_not_in_force_and_discarded_pairs_are_told() -> None:
    said = text(simulated_study(world=World(wrong_mode=FIRST, invalid=0.1)), WIDE)

    assert f"{FIRST}: et: not so: its metrics say mode et (lt)" in said
    assert "pairs discarded" in said


def test_what_the_kernel_says_stands_beside_what_the_daemon_says() -> None:
    study = simulated_study()
    first, *others = study.kernel
    lying = replace(first, daemon={**first.daemon, "recvfrom": 1.0})
    said = text(study, WIDE)
    doubted = text(replace(study, kernel=(lying, *others)), WIDE)

    assert said.count("6 of 6") == len(study.kernel)
    assert "5 of 6" in doubted
    assert f"{FIRST}: the kernel counts {first.kernel['recvfrom']:.0f} recvfrom, the daemon 1" in (
        doubted
    )


def test_a_kernel_that_cannot_be_asked_is_no_secret() -> None:
    silent = KernelCounts(cell=FIRST, arm="a", unavailable="etlt-probe: needs root")
    said = text(replace(simulated_study(), kernel=(silent,)), WIDE)

    assert "the kernel was not asked: etlt-probe: needs root" in said
    assert "what the kernel saw" not in said
    half = text(replace(simulated_study(), kernel=(silent, *simulated_study().kernel[1:])), WIDE)
    assert "what the kernel saw" in half
    assert half.count("6 of 6") == 5


def test_an_unfinished_study_says_so() -> None:
    study = replace(simulated_study(), complete=False)

    assert "NOT FINISHED" in text(study, WIDE)


def test_without_slices_there_is_still_a_report() -> None:
    study = simulated_study(world=World(invalid=1.0))

    assert "not comparable" in text(study, WIDE)


def test_the_originals_table_shows_what_its_score_hides() -> None:
    rows = (
        OriginalRow(
            msg_bytes=64,
            server="et",
            sent_per_second=25_000,
            kilobytes_per_second=1600,
            published_sent_per_second=21_962.9,
            processed=500_000,
            unread_at_server_bytes=0,
            unread_at_clients_bytes=64_000_000,
            outbox_bytes=2.5e9,
            dropped=7,
            delivered_per_second=12_000_000,
            delivery_ratio=0.5,
            reading_valid=False,
            reading_reasons=["it was late"],
        ),
        OriginalRow(
            msg_bytes=64, server="never reads", sent_per_second=25_000, kilobytes_per_second=1600
        ),
    )
    study = replace(simulated_study(), cells=(), original=rows, design=replace(quick(), cells=()))
    said = text(study, WIDE)

    for figure in (
        "25,000",
        "1,600.0",
        "21,963",
        "64 MB",
        "2.5 GB",
        "12,000,000",
        "no: it was late",
        "0.500000",
    ):
        assert figure in said
    assert "verdicts" not in said


@pytest.mark.parametrize(
    ("number", "words"), [(None, "-"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB")]
)
def test_bytes_are_readable(number: float | None, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (5400, "1.5 h")],
)
def test_times_are_readable(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


@pytest.mark.parametrize("width", [60, 80, 118, 200])
def test_no_word_of_a_table_is_cut(width: int) -> None:
    """Of the heads of twelve columns 80 left "epo…", "re…", "sen…"."""
    shown = text(simulated_study(full()), width)

    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert all(len(line) <= width for line in shown.splitlines() if line.startswith(("│", "┃")))
    for head in ("epoll_wait", "recvfrom", "sendto", "sendmsg", "accept4", "MODs", "delivered"):
        assert head in shown


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_counts_what_is_done_and_what_was_invalid(kind: type[io.StringIO]) -> None:
    stream = kind()
    slices = simulated_study(world=World(invalid=0.5)).slices
    with StudyProgress(stream, 0, len(slices), 100.0) as progress:
        for left, one in zip(range(len(slices) - 1, -1, -1), slices, strict=True):
            progress.measured(one, left)

    invalid = sum(not one.valid for one in slices)
    if kind is io.StringIO:
        assert stream.getvalue() == f"80 of 80 slices, about 0 s left, {invalid} invalid slices\n"


def test_a_pair_to_be_measured_again_makes_the_whole_longer() -> None:
    """The bar went backwards, or past its end."""
    stream = io.StringIO()
    one, other, *_ = simulated_study().slices
    with StudyProgress(stream, 0, 2, 100.0) as progress:
        progress.measured(one, 1)
        progress.measured(replace(other, valid=False), 2)
        progress.measured(one, 1)
        progress.measured(other, 0)

    assert stream.getvalue() == "4 of 4 slices, about 0 s left, 1 invalid slices\n"


def test_nobody_asked_for_progress() -> None:
    one = simulated_study().slices[0]
    with StudyProgress(None, 0, 2, 1.0) as progress:
        progress.measured(one, 1)
        progress.measured(one, 0)


def test_who_wakes_for_a_connection_is_told_per_connection() -> None:
    """The thundering herd, by the kernel's count; where it cannot be asked, that is said."""
    woken = Woken(cell=FIRST, arm="a", connections=50, loops=200, returns=60, in_vain=10)
    silent = Woken(cell=FIRST, arm="b", unavailable="etlt-probe: needs root")
    study = replace(simulated_study(), woken=(woken, silent))
    said = text(study, WIDE)

    (row,) = [line for line in said.splitlines() if "4.00" in line]
    assert re.findall(r"\d\.\d\d", row) == ["4.00", "1.20", "0.20"]
    assert "the kernel was not asked who wakes: etlt-probe: needs root" in said
    assert Study.from_json(study.to_json()).woken == study.woken
    assert "who wakes" not in text(simulated_study(), WIDE)
