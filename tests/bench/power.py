"""How large a difference the designs find, by simulation, and how many minutes they take.

    python tests/bench/power.py [STUDIES]

One cell of each study has the effect, the others have none. The scatter is that of a pair's log
ratio, with one pair in ten thrown far out; daemons of their own for each pair are in it.
"""

from __future__ import annotations

import sys
from math import log
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.design import comparisons, expected_seconds, full, probing_seconds, quick
from loadclient.compare.statistics import estimate, holm

if TYPE_CHECKING:
    from loadclient.compare.study import Design

SCATTERS = (0.05, 0.1, 0.15, 0.2, 0.25)
EFFECTS = (0.05, 0.1, 0.2, 0.4)
SPIKES, SPIKE = 0.1, 0.4
CONFIDENCE = 0.95


def pairs(lot: Random, number: int, effect: float, scatter: float) -> list[float]:
    return [
        log(1 + effect) + lot.gauss(0, scatter)
        + (lot.choice((-SPIKE, SPIKE)) if lot.random() < SPIKES else 0)
        for _ in range(number)
    ]  # fmt: skip


def power(number: int, cells: int, effect: float, scatter: float, studies: int) -> float:
    """Return the share of studies in which Holm lets the cell with the effect stand."""
    lot = Random(1)  # noqa: S311 - a simulation must be repeatable, not secret
    found = 0
    for _ in range(studies):
        effects = [effect, *[0.0] * (cells - 1)]
        each = [estimate(pairs(lot, number, e, scatter), CONFIDENCE) for e in effects]
        ps = holm({str(place): one.p for place, one in enumerate(each) if one})
        found += ps["0"] <= 1 - CONFIDENCE
    return found / studies


def told(design: Design, studies: int) -> None:
    cells = comparisons(design)
    minutes = (expected_seconds(design) + probing_seconds(design)) / 60
    print(f"{design.preset}: {cells} questions, {design.pairs} pairs, {minutes:.1f} minutes")
    print(f"  {'scatter of a pair':>18}", *(f"{effect:>6.0%}" for effect in EFFECTS))
    for scatter in SCATTERS:
        shares = (power(design.pairs, cells, effect, scatter, studies) for effect in EFFECTS)
        print(f"  {scatter:>18.0%}", *(f"{share:>6.0%}" for share in shares), flush=True)


if __name__ == "__main__":
    for design in (quick(), full()):
        told(design, int(sys.argv[1]) if len(sys.argv) > 1 else 400)
