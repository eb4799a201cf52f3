"""Discarded pairs are measured again: as many, in no one's favour, and the same after a stop."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadclient.compare import replacements
from loadclient.compare.bench import left, missing
from loadclient.compare.design import plan, quick
from loadclient.compare.study import Slice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadclient.compare.design import Block, Step
    from loadclient.compare.study import Design

PLANNED = 6
DESIGN = replace(quick(), pairs=PLANNED, pairs_per_daemon=4)


class Machine:
    """Measures what is due; which slices it spoils hangs on them alone, as if it were the hour."""

    def __init__(
        self, spoiled: float, design: Design = DESIGN, reason: str = "the hypervisor took 9%"
    ) -> None:
        self._spoiled = spoiled
        self._reason = reason
        self.design = design
        self.done: dict[int, Slice] = {}
        self.left: list[int] = []

    def measure(self, most: int = 10_000) -> None:
        """Measure until all is done, or *most* slices."""
        self._round(plan(self.design), most)
        while len(self.left) < most and (due := replacements.due(self.design, self.done.values())):
            self._round(due, most)

    def _round(self, blocks: Iterable[Block], most: int) -> None:
        for block in blocks:
            for step in missing(block, self.done):
                if len(self.left) == most:
                    return
                self.done[step.index] = self._slice(step)
                self.left.append(left(self.design, self.done))

    def _slice(self, step: Step) -> Slice:
        lot = Random(f"{step.cell} {step.pair} {step.arm}")  # noqa: S311 - repeatable
        valid = lot.random() >= self._spoiled
        return Slice(
            index=step.index, cell=step.cell, pair=step.pair, arm=step.arm, started=0.0,
            valid=valid, reasons=[] if valid else [self._reason],
        )  # fmt: skip

    def valid_pairs(self) -> Counter[str]:
        valid: Counter[tuple[str, int]] = Counter()
        for one in self.done.values():
            valid[one.cell, one.pair] += one.valid
        return Counter(cell for (cell, _), both in valid.items() if both == 2)


def test_a_quiet_machine_measures_the_plan_and_nothing_else() -> None:
    machine = Machine(0.0)
    machine.measure()

    assert sorted(machine.done) == list(range(2 * PLANNED * len(DESIGN.cells)))


def test_every_cell_gets_its_pairs_though_some_were_discarded() -> None:
    """Three of eight pairs were lost to a neighbour, and nothing could be said of the cell."""
    machine = Machine(0.2)
    machine.measure()

    assert machine.valid_pairs() == {cell.name: PLANNED for cell in DESIGN.cells}
    assert machine.left[-1] == 0


@pytest.mark.parametrize("reason", ["40 copies are missing", "saturated: 3 of 4", "it grew"])
def test_what_a_daemon_did_is_not_measured_again(reason: str) -> None:
    """A daemon that loses messages in every other slice came out better, of the slices it kept."""
    machine = Machine(0.3, reason=reason)
    machine.measure()

    assert sorted(machine.done) == list(range(2 * PLANNED * len(DESIGN.cells)))


def test_a_cell_that_is_never_valid_is_not_tried_for_ever() -> None:
    machine = Machine(1.0)
    machine.measure()

    assert sorted(machine.done) == list(range(2 * PLANNED * len(DESIGN.cells)))


def test_no_cell_gets_more_than_twice_what_was_planned() -> None:
    machine = Machine(0.7)
    machine.measure()
    pairs = Counter(one.cell for one in machine.done.values())

    assert max(pairs.values()) <= 2 * 2 * PLANNED
    assert max(pairs.values()) > 2 * PLANNED


@settings(deadline=None)  # a machine that stalls is no finding
@given(st.integers(0, 120), st.sampled_from([0.1, 0.3, 0.7]))
def test_an_interrupted_study_measures_the_same_pairs(stop: int, spoiled: float) -> None:
    whole, resumed = Machine(spoiled), Machine(spoiled)
    whole.measure()
    resumed.measure(stop)
    resumed.measure()

    assert resumed.done == whole.done


@settings(deadline=None)  # a machine that stalls is no finding
@given(st.integers(0, 2**31))
def test_neither_arm_goes_first_more_often(seed: int) -> None:
    """A drift over a pair, such as a cooling processor, must favour nobody."""
    machine = Machine(0.3, replace(DESIGN, seed=seed))
    machine.measure()
    first: dict[tuple[str, int], str] = {}
    for one in sorted(machine.done.values(), key=lambda one: one.index):
        first.setdefault((one.cell, one.pair), one.arm)
    for (cell, pair), arm in first.items():
        neighbour = first.get((cell, pair ^ 1))
        assert neighbour != arm or neighbour is None


def test_what_is_left_never_forgets_a_discarded_pair() -> None:
    machine = Machine(0.3)
    machine.measure()
    to_come = range(len(machine.left) - 1, -1, -1)

    assert all(said <= true for said, true in zip(machine.left, to_come, strict=True))
    assert machine.left[-1] == 0
