"""Pairs that stand in for discarded ones, measured after the plan. Pure.

Rule: only a pair that was discarded for its circumstances (the hypervisor took time, the client was
late) is measured again, so that nothing is chosen by its result: what a daemon lost, or how its
latency went, stands. A cell all of whose pairs were discarded gets none: whatever it is, it would
go on. No cell gets more than as many as were planned.

Order and index of a further pair follow from its number, the cell and the seed alone, and which are
due from the slices: an interrupted study goes on as it would have.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from loadclient.compare.design import Block, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadclient.compare.study import Cell, Design, Slice


def due(design: Design, slices: Iterable[Slice]) -> tuple[Block, ...]:
    """Return the next round of further pairs, of which some may be begun; none when all is done."""
    slices = list(slices)
    blocks = (_block(design, place, slices) for place in range(len(design.cells)))
    return tuple(block for block in blocks if block.steps)


def owed(design: Design, slices: Iterable[Slice]) -> int:
    """Return how many further slices would be due if all that are to come were valid."""
    slices = list(slices)
    further = sum(one.pair >= design.pairs for one in slices)
    return 2 * sum(sum(_short(design, cell, slices)) for cell in design.cells) - further


def _block(design: Design, place: int, slices: list[Slice]) -> Block:
    cell = design.cells[place]
    short, further = _short(design, cell, slices)
    first = design.pairs + further
    steps = []
    for pair in range(first, first + min(short, design.pairs_per_daemon)):
        for n, arm in enumerate(_order(design, cell, pair)):
            index = 2 * (pair * len(design.cells) + place) + n
            steps.append(Step(index, cell.name, pair, arm))
    return Block(cell, tuple(steps))


def _short(design: Design, cell: Cell, slices: Iterable[Slice]) -> tuple[int, int]:
    """Return how many pairs of a cell are still to be replaced, and how many were measured so."""
    mine: dict[int, list[Slice]] = {}
    for one in slices:
        if one.cell == cell.name:
            mine.setdefault(one.pair, []).append(one)
    whole = {pair: both for pair, both in mine.items() if len(both) == 2}
    further = sum(pair >= design.pairs for pair in whole)
    if not any(all(one.valid for one in both) for both in whole.values()):
        return 0, further
    spoiled = sum(_is_spoiled(both) for both in whole.values())
    return min(spoiled, design.pairs) - further, further


def _is_spoiled(both: Iterable[Slice]) -> bool:
    """Whether a pair does not count, and for nothing that a daemon did."""
    discarded = [one for one in both if not one.valid]
    return bool(discarded) and all(one.is_spoiled for one in discarded)


def _order(design: Design, cell: Cell, pair: int) -> str:
    """Return which arm of a pair comes first: two neighbours are ABBA or BAAB, by lot."""
    lot = Random(f"{design.seed} {cell.name} {pair // 2}")  # noqa: S311 - must be repeatable
    return "ab" if (lot.random() < 0.5) == (pair % 2 == 0) else "ba"
