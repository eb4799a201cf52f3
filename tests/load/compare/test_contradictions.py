"""The kernel's word against a daemon's: who does not count what it does is compared by nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadclient.compare import store
from loadclient.compare.analysis import analyse, judged_again
from loadclient.compare.command import EXIT_NOTHING_COMPARABLE, EXIT_OK, assemble, exit_code
from loadclient.compare.design import compared, with_control
from loadclient.compare.report import text
from loadclient.compare.simulation import World, simulated_slices, simulated_study
from loadclient.compare.study import Design, Kind, Study
from loadclient.environment import Contention
from tests.load.compare.pages import undrawn

DESIGN = with_control(Design(pairs=10, cells=(compared(64),)))
CELL = DESIGN.cells[0].name
TRUTH = World(a_over_b={CELL: 0.5}, noise=0.01, process=0, spikes=0, histograms=False)
EMPTY = "recvfrom that found nothing"
REASON = f"lt does not count what it does: the kernel counts 10,000 {EMPTY}, the daemon 0"


def assembled(empty_reads: float) -> Study:
    """Return a study of a daemon of which the kernel counts so many empty reads."""
    drawn = simulated_study(DESIGN, TRUTH)
    kernel = tuple(
        replace(one, kernel=one.kernel | {EMPTY: empty_reads}) if one.arm == "b" else one
        for one in drawn.kernel
    )
    header = store.Header(study_id="s", started=1.0, command="c", design=DESIGN)
    raw = store.Raw(header, {one.index: one for one in drawn.slices})
    return assemble(raw, kernel, complete=True, contention=Contention.now())


def test_a_daemon_that_the_kernel_contradicts_is_not_compared() -> None:
    """It read twice and said so once: its counters were its mode's, and it had a verdict."""
    study = assembled(10_000)

    assert study.cells[0].not_comparable == REASON
    assert study.cells[0].verdict is Kind.NOT_COMPARABLE
    assert REASON in text(study, width=400)
    assert REASON in undrawn(study)
    assert exit_code(study) == EXIT_NOTHING_COMPARABLE
    assert judged_again(Study.from_json(study.to_json())) == (study.fitness, study.cells)


def test_a_daemon_that_the_kernel_bears_out_is_compared() -> None:
    study = assembled(0)

    assert study.cells[0].verdict is Kind.A_BETTER
    assert exit_code(study) == EXIT_OK


@pytest.mark.parametrize(
    ("slow", "full", "mods", "is_compared"),
    [(10, 7, 3, True), (10, 7, 0, False), (10, 0, 0, True), (0, 7, 0, True)],
)
def test_lt_that_never_arms_a_full_socket_is_not_lt(
    *, slow: int, full: int, mods: int, is_compared: bool
) -> None:
    """Its write side is where LT pays for its mode; nothing else of it was looked at there."""
    cell = replace(DESIGN.cells[0], shape=replace(DESIGN.cells[0].shape, slow_readers=slow))
    design = replace(DESIGN, cells=(cell, *DESIGN.cells[1:]))
    slices = [
        replace(one, eagain=one.eagain | {"sendmsg": full}, epoll_ctl={"mod": mods})
        if (one.cell, one.arm) == (CELL, "b")
        else one
        for one in simulated_slices(design, TRUTH)
    ]
    found = analyse(design, slices)[1][0].not_comparable or ""

    assert (found == "") == is_compared
    assert is_compared or "lt was to show an epoll_ctl MOD where a socket is full, but" in found
