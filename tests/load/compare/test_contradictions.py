"""The kernel's word against a daemon's: who does not count what it does is compared by nothing."""

from __future__ import annotations

from dataclasses import replace

from loadclient.compare import store
from loadclient.compare.analysis import judged_again
from loadclient.compare.command import EXIT_NOTHING_COMPARABLE, EXIT_OK, assemble, exit_code
from loadclient.compare.design import compared, with_control
from loadclient.compare.html.page import page
from loadclient.compare.report import text
from loadclient.compare.simulation import World, simulated_study
from loadclient.compare.study import Design, Kind, Study
from loadclient.environment import Contention

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
    assert REASON in page(study)
    assert exit_code(study) == EXIT_NOTHING_COMPARABLE
    assert judged_again(Study.from_json(study.to_json())) == (study.fitness, study.cells)


def test_a_daemon_that_the_kernel_bears_out_is_compared() -> None:
    study = assembled(0)

    assert study.cells[0].verdict is Kind.A_BETTER
    assert exit_code(study) == EXIT_OK
