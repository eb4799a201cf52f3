"""Server CPU at equal batch: what two arms cost where neither had the larger batches."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, inf, log
from random import Random

import pytest
from scipy.stats import binomtest, linregress, t

from loadclient.compare.analysis import analyse
from loadclient.compare.ancova import Line, line, obstacle, quantile, within
from loadclient.compare.design import compared, with_control
from loadclient.compare.html.page import page
from loadclient.compare.html.told import discarded
from loadclient.compare.report import text
from loadclient.compare.simulation import World, simulated_slices, simulated_study
from loadclient.compare.study import AT_EQUAL_BATCH, PRIMARY, Design, Effect, Kind, Study
from loadclient.compare.verdict import Court, measured_at_equal
from tests.load.compare.pages import undrawn
from tests.untraced import untraced

DESIGN = with_control(Design(pairs=12, cells=(compared(64),)))
CELL = DESIGN.cells[0]
COURT = Court(DESIGN, 1)
WIDE = World(noise=0.04, batching=0.35, batch_slope=-0.55, spikes=0.0, histograms=False)


def both(world: World, seed: int, design: Design = DESIGN) -> tuple[Effect, Effect]:
    """Return a cell's total effect and that at equal batch."""
    _, cells = analyse(design, simulated_slices(design, world, seed))
    total, equal, *_ = cells[0].effects
    assert (total.outcome, equal.outcome) == (PRIMARY.name, AT_EQUAL_BATCH.name)
    return total, equal


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 31])
def test_student_is_scipys(freedom: int) -> None:
    for share in (0.6, 0.8, 0.975, 0.9995, 1 - 1e-6):
        known = t.ppf(share, freedom)
        assert quantile(share, freedom) == pytest.approx(known, rel=1e-6)
        assert within(known, freedom) == pytest.approx(2 * share - 1)


def test_the_line_is_scipys() -> None:
    lot = Random(5)  # noqa: S311
    sizes = [lot.gauss(0.2, 0.3) for _ in range(12)]
    costs = [0.1 - 0.5 * size + lot.gauss(0, 0.05) for size in sizes]
    found, known = line(costs, sizes), linregress(sizes, costs)

    assert (found.alpha, found.beta) == pytest.approx((known.intercept, known.slope))
    assert found.error == pytest.approx(known.intercept_stderr)
    assert found.half(0.95) == pytest.approx(known.intercept_stderr * t.ppf(0.975, 10))
    assert found.p == pytest.approx(2 * t.sf(abs(known.intercept) / known.intercept_stderr, 10))


@pytest.mark.parametrize(("alpha", "p"), [(0.0, 1.0), (0.1, 0.0)])
def test_pairs_without_noise_are_no_division_by_zero(alpha: float, p: float) -> None:
    assert Line(alpha, -0.5, 0.0, 10).p == p
    assert within(inf, 10) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ([0.1, -0.1] * 2, "too few pairs"),
        ([0.001, -0.002, 0.0] * 4, "batches hardly vary: the total effect is the one at equal"),
        ([0.3] * 11 + [-0.3], "batches differ so between the arms"),
        ([-0.3] * 11 + [0.3], "batches differ so between the arms"),
        ([0.3] * 10 + [-0.3] * 2, ""),
    ],
)
def test_where_no_pairs_show_equal_batches_nothing_is_read_off_the_line(
    sizes: list[float], why: str
) -> None:
    assert obstacle(sizes, "batches").startswith(why)
    assert bool(obstacle(sizes, "batches")) == bool(why)


def test_a_cost_that_batches_hid_is_found_at_equal_batch() -> None:
    """The second read cost a tenth, and the page said that no difference was shown."""
    found, hidden = [], 0
    for seed in range(20):
        total, equal = both(replace(WIDE, a_over_b={CELL.name: 1.12}), seed)
        hidden += total.verdict is not Kind.B_BETTER
        found.append(equal)

    assert hidden >= 10
    assert sum(effect.verdict is Kind.B_BETTER for effect in found) >= 15
    assert sum(abs(effect.ratio / 1.12 - 1) < 0.05 for effect in found) >= 18
    assert sum(abs(effect.slope + 0.55) < 0.15 for effect in found) >= 18


def test_what_a_mode_does_by_its_batches_is_in_the_total_effect_alone() -> None:
    """The batch is a mediator: the one that waits longer for more pays less, and that is real."""
    world = replace(WIDE, batching=0.2, batch_a_over_b=1.3, noise=0.01, process=0.0)
    total, equal = both(world, 4, replace(DESIGN, pairs=30))

    assert total.verdict is Kind.A_BETTER
    assert total.low < exp(-0.55 * log(1.3)) < total.high
    assert equal.low < 1 < equal.high


@pytest.mark.parametrize("moved", [1.0, 0.75])
@untraced()
def test_the_interval_at_equal_batch_holds_its_level(moved: float) -> None:
    """With spikes, with processes that differ, and with batches that the mode moves."""
    truth = 1.1
    cells = tuple(compared(size) for size in range(64, 74))
    design = Design(pairs=12, cells=cells)
    world = replace(WIDE, a_over_b=dict.fromkeys((c.name for c in cells), truth), spikes=0.05,
                    batch_a_over_b=moved)  # fmt: skip
    missed = asked = 0
    for seed in range(30):
        _, reports = analyse(design, simulated_slices(design, world, seed))
        known = [e for r in reports if (e := r.effects[1]).low is not None]
        asked += len(known)
        missed += sum(not e.low <= truth <= e.high for e in known)

    assert asked > 200
    assert binomtest(missed, asked, 0.05, alternative="greater").pvalue > 0.01


@untraced()
def test_what_could_have_been_seen_is_seen_four_times_out_of_five() -> None:
    promised = sorted(both(WIDE, seed)[1].detectable for seed in range(20))[10]
    world = replace(WIDE, a_over_b={CELL.name: 1 + promised})
    found = sum(both(world, seed)[1].verdict is Kind.B_BETTER for seed in range(100, 140))

    assert 24 <= found <= 38


def test_both_questions_of_all_cells_are_one_family() -> None:
    """Asked twice, a study would otherwise find twice as much that is not there."""
    design = with_control(Design(pairs=12, cells=tuple(compared(s) for s in range(64, 68))))
    _, cells = analyse(design, simulated_slices(design, WIDE, 2))
    ps = sorted(effect.p for cell in cells[:-1] for effect in cell.effects[:2])
    held = sorted(effect.p_holm for cell in cells[:-1] for effect in cell.effects[:2])

    assert held[0] == pytest.approx(min(1.0, 8 * ps[0]))
    assert cells[-1].effects[1].p_holm is None  # the A/A arm is no question


def test_two_equal_daemons_that_differ_at_equal_batch_leave_no_verdict() -> None:
    """The A/A arm is asked both questions, too, and answers for the whole study."""
    control = DESIGN.cells[-1]
    world = replace(WIDE, a_over_b={control.name: 1.15, CELL.name: 0.5})
    fit, cells = analyse(DESIGN, simulated_slices(DESIGN, world, 4))

    assert (cells[-1].effects[0].verdict, cells[-1].effects[1].verdict) == (
        Kind.INCONCLUSIVE, Kind.UNFIT,
    )  # fmt: skip
    assert cells[-1].verdict is Kind.UNFIT
    assert "No verdict of this study stands" in fit.sentence
    assert {effect.verdict for effect in cells[0].effects} == {Kind.NOT_COMPARABLE, None}


def test_both_effects_are_told_side_by_side() -> None:
    """In the text, in the page's title, in each cell's sentence and in a forest of its own."""
    study = simulated_study(DESIGN, replace(WIDE, a_over_b={CELL.name: 1.12}, histograms=True), 0)
    total, equal, *_ = study.cells[0].effects
    told, shown = text(study), page(study)

    for effect in (total, equal):
        assert f"{effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})" in told
        assert f"et ÷ lt = {effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})" in shown
    assert "Server CPU per delivered message: no difference shown; at equal batch: lt be" in shown
    assert "Server CPU per delivered message at equal batch: lt better" in shown
    assert "a mode that moves the batches itself" in told.replace("\n", " ")
    assert "least noisy" not in shown


def test_a_study_stored_before_there_was_one_at_equal_batch_is_shown() -> None:
    study = simulated_study(DESIGN, WIDE)
    stored = json.loads(study.to_json())
    for cell in stored["cells"]:
        del cell["effects"][1]
        for effect in cell["effects"]:
            del effect["slope"]
    old = Study.from_json(json.dumps(stored))

    assert "server CPU per delivered message" in text(old)
    assert "at equal batch: no verdict" in undrawn(old)


def test_a_batch_that_was_not_counted_gives_no_effect_at_equal_batch() -> None:
    slices = [
        replace(one, outcomes={**one.outcomes, "messages_per_batch": None})
        for one in simulated_slices(DESIGN, WIDE)
    ]
    _, cells = analyse(DESIGN, slices)

    assert (cells[0].effects[1].pairs, cells[0].effects[1].ratio) == (0, None)


EQUAL, NONE_IN_A = [(1.0, 1.0)] * 8, [(0.0, 1.0)] * 8


@pytest.mark.parametrize("pairs", [(NONE_IN_A, EQUAL), (EQUAL, NONE_IN_A)])
def test_what_has_no_logarithm_has_no_line(
    pairs: tuple[list[tuple[float, float]], list[tuple[float, float]]],
) -> None:
    assert "none in one of the two" in measured_at_equal(AT_EQUAL_BATCH, *pairs, COURT).sentence


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.8, "is not asked of slices this short"), (1.0, "or it is called not stationary")],
)
def test_the_list_of_gates_is_the_one_that_was_in_force(seconds: float, words: str) -> None:
    """Neither a growing latency nor saturation was in it, and the presets' slices are too short."""
    design = replace(DESIGN, slice_seconds=seconds)
    section = discarded(simulated_study(design, WIDE))

    assert words in section.paragraphs[0]
    assert "or it is called saturated" in section.paragraphs[0]
    assert "forwarder of an emulated network" in section.paragraphs[0]


def test_daemons_that_all_pairs_share_are_said_to_be_shared() -> None:
    """Two processes of one program came out "better" in a study of given daemons."""
    study = simulated_study(replace(DESIGN, pairs_per_daemon=DESIGN.pairs), WIDE)

    assert "all pairs of a cell by the same two daemons" in text(study)
    assert "so the ratios name no winner" in study.cells[0].sentence
    assert "share two processes" in study.fitness.sentence
