"""What is asked and in which order: balanced, repeatable, and able to show something."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadclient.compare.command import check_loads
from loadclient.compare.design import (
    ALL_TALK,
    CHURN,
    SHAPES,
    compared,
    comparisons,
    control,
    doubts,
    expected_seconds,
    factorial,
    full,
    plan,
    probed,
    probing_seconds,
    quick,
    with_control,
    without_churn,
)
from loadclient.compare.simulation import World, simulated_study
from loadclient.compare.study import Design

designs = st.builds(
    lambda seed, pairs, per: replace(quick(), seed=seed, pairs=pairs, pairs_per_daemon=per),
    st.integers(0, 2**31),
    st.integers(1, 23),
    st.integers(1, 7),
)


@settings(deadline=None)  # a machine that stalls is no finding
@given(designs)
def test_every_pair_is_measured_once_and_in_one_block(design: Design) -> None:
    blocks = plan(design)
    seen = Counter((s.cell, s.pair, s.arm) for block in blocks for s in block.steps)

    assert set(seen.values()) == {1}
    assert len(seen) == 2 * design.pairs * len(design.cells)
    for block in blocks:
        arms = Counter(step.pair for step in block.steps)
        assert set(arms.values()) == {2}
        assert len(arms) <= design.pairs_per_daemon
        assert {step.cell for step in block.steps} == {block.cell.name}


@settings(deadline=None)  # a machine that stalls is no finding
@given(designs)
def test_indices_are_the_order(design: Design) -> None:
    steps = [step for block in plan(design) for step in block.steps]

    assert [step.index for step in steps] == list(range(len(steps)))


@settings(deadline=None)  # a machine that stalls is no finding
@given(designs)
def test_neither_arm_goes_first_more_often(design: Design) -> None:
    """A drift over a pair, such as a cooling processor, must favour nobody."""
    for cell in design.cells:
        steps = [s for block in plan(design) for s in block.steps if s.cell == cell.name]
        steps.sort(key=lambda step: step.index)
        first = Counter(step.arm for step in steps[::2])
        assert abs(first["a"] - first["b"]) <= 1


@settings(deadline=None)  # a machine that stalls is no finding
@given(designs)
def test_the_same_seed_gives_the_same_plan(design: Design) -> None:
    assert plan(design) == plan(replace(design))


def test_the_kernel_is_asked_last_and_about_every_question() -> None:
    """What the probe costs must not touch what is timed."""
    design = quick()
    timed = [step.index for block in plan(design) for step in block.steps]
    asked = [step for block in probed(design) for step in block.steps]

    assert [step.index for step in asked] == list(range(len(timed), len(timed) + 6))
    assert {step.cell for step in asked} == {c.name for c in design.cells if not c.control}
    assert [step.arm for step in asked] == ["a", "b"] * 3


def test_another_seed_gives_another_plan() -> None:
    plans = {repr(plan(replace(quick(), seed=seed))) for seed in range(20)}

    assert len(plans) == 20


def test_pairs_stay_in_order_within_a_cell() -> None:
    """Later pairs meet later daemons."""
    design = full()
    for cell in design.cells:
        pairs = [s.pair for block in plan(design) for s in block.steps if s.cell == cell.name]
        assert pairs == sorted(pairs)


@pytest.mark.parametrize("design", [quick(), full()], ids=lambda design: design.preset)
def test_presets_can_show_something(design: Design) -> None:
    assert list(doubts(design)) == []
    assert sum(cell.control for cell in design.cells) == 1


@pytest.mark.parametrize("design", [quick(), full()], ids=lambda design: design.preset)
def test_a_preset_is_not_refused_by_the_load_client(design: Design) -> None:
    check_loads(design)


def test_quick_takes_about_three_minutes_and_full_half_an_hour() -> None:
    """As the help says."""
    assert 150 <= expected_seconds(quick()) + probing_seconds(quick()) <= 210
    assert 20 * 60 <= expected_seconds(full()) + probing_seconds(full()) <= 35 * 60
    assert len(full().cells) == 27


def test_the_control_is_the_second_arm_twice() -> None:
    cell = control(compared(64))

    assert cell.a.mode == cell.b.mode == "lt"
    assert cell.a.options == cell.b.options
    assert cell.a.name != cell.b.name


def test_a_design_has_one_control_however_often_it_is_asked_for() -> None:
    design = with_control(with_control(Design(cells=(compared(64), compared(512)))))

    assert [cell.control for cell in design.cells] == [False, False, True]
    assert comparisons(design) == 2
    assert with_control(Design()).cells == ()


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (Design(), "at least one cell"),
        (Design(cells=(compared(64), compared(64))), "two cells are named"),
        (Design(pairs=5, cells=(compared(64),)), "no finite 95% interval"),
        (Design(pairs=6, cells=(compared(64), compared(128))), "at least 7"),
        (Design(netem="loss=1%", cells=(compared(64, "usual", CHURN),)), "a reset may be lost"),
    ],
)
def test_a_design_that_can_show_nothing_says_so(design: Design, words: str) -> None:
    assert words in " ".join(doubts(design))


@pytest.mark.parametrize(("cells", "pairs"), [(1, 6), (2, 7), (4, 8), (12, 9)])
def test_a_design_is_refused_only_where_no_total_effect_could_stand(cells: int, pairs: int) -> None:
    """Counted for both questions of a cell, results/loops.toml is too small for what it found."""
    asked = tuple(compared(64 + n, shape=replace(ALL_TALK, conns=30)) for n in range(cells))
    design = Design(pairs=pairs, cells=asked)
    truth = World(
        a_over_b={cell.name: 3.0 for cell in asked}, noise=0.01, spikes=0, histograms=False
    )
    reports = simulated_study(design, truth).cells

    assert list(doubts(design)) == []
    assert all(report.effects[0].p_holm <= 0.05 for report in reports)
    assert len(list(doubts(replace(design, pairs=pairs - 1)))) == 1


def test_over_a_network_that_loses_frames_the_rest_is_still_asked() -> None:
    lossy = without_churn(replace(full(), netem="loss=1%"))

    assert len(lossy.cells) == len(full().cells) - 1
    assert list(doubts(lossy)) == []


def test_equal_policies_are_equal_in_both_arms() -> None:
    """What is left must be the mode."""
    for drain in ("eagain", "short-read"):
        cell = compared(64, drain)
        assert cell.a.options == cell.b.options == {"drain": drain, "reads-per-event": "16"}
    assert compared(64, "usual").a.options == {}


def test_a_factorial_has_every_combination() -> None:
    cells = factorial((64, 512), ("usual", "eagain"), SHAPES[0])

    assert len({cell.name for cell in cells}) == 4


def test_loops_on_one_port_are_a_factor() -> None:
    ports = [(count, way) for way in ("reuseport", "shared") for count in (1, 2)]
    cells = factorial((64,), ("usual",), SHAPES[0], ports)

    assert [(cell.a.instances, cell.b.listener) for cell in cells] == ports
    assert cells[0].name == "64 B, staggered, usual, 1 loop by reuseport"
    assert cells[3].name == "64 B, staggered, usual, 2 loops by shared"
