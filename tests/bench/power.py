"""How large a difference the designs find, by simulation, and how many minutes they take.

    python tests/bench/power.py [STUDIES]

One verdict of each study has the effect, the others have none; Holm corrects for all of them, as in
a real study for both questions in each cell. The scatter is that of a pair's log ratio, with one
pair in ten thrown far out; daemons of their own for each pair are in it. At equal batch it is what
the batches do not explain.
"""

from __future__ import annotations

import sys
from math import log
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare import ancova
from loadclient.compare.design import comparisons, expected_seconds, full, probing_seconds, quick
from loadclient.compare.statistics import estimate, holm
from loadclient.compare.study import CONFIRMATORY, PRIMARY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadclient.compare.study import Design, Outcome

TOTAL, EQUAL = (0.05, 0.1, 0.15, 0.2, 0.25), (0.04, 0.06, 0.08, 0.1)  # scatters
EFFECTS = (0.05, 0.1, 0.2, 0.4)
SPIKES, SPIKE = 0.1, 0.4
BATCHES, SLOPE = 0.2, -0.5  # scatter of the log ratio of batches, and what it makes of the costs
CONFIDENCE = 0.95


def pairs(lot: Random, number: int, scatter: float) -> list[float]:
    return [
        lot.gauss(0, scatter)
        + (lot.choice((-SPIKE, SPIKE)) if lot.random() < SPIKES else 0)
        for _ in range(number)
    ]  # fmt: skip


def p_in_total(lot: Random, differences: Sequence[float]) -> float:
    del lot
    found = estimate(differences, CONFIDENCE)
    return found.p if found else 1.0


def p_at_equal(lot: Random, differences: Sequence[float]) -> float:
    sizes = [lot.gauss(0, BATCHES) for _ in differences]
    costs = [one + SLOPE * size for one, size in zip(differences, sizes, strict=True)]
    return ancova.line(costs, sizes).p


def powers(
    number: int,
    verdicts: int,
    scatter: float,
    studies: int,
    of: Callable[[Random, Sequence[float]], float],
) -> list[float]:
    """Return the share of studies in which Holm lets the verdict with each effect stand."""
    lot = Random(1)  # noqa: S311 - a simulation must be repeatable, not secret
    found = [0] * len(EFFECTS)
    for _ in range(studies):
        others = {str(place): of(lot, pairs(lot, number, scatter)) for place in range(1, verdicts)}
        mine = pairs(lot, number, scatter)
        for place, effect in enumerate(EFFECTS):
            p = of(lot, [log(1 + effect) + one for one in mine])
            found[place] += holm({"": p, **others})[""] <= 1 - CONFIDENCE
    return [one / studies for one in found]


def rows(
    design: Design, outcome: Outcome, studies: int, scatters: Sequence[float] = ()
) -> list[str]:
    """Return the rows of the table that RESULTS.md has of the full design."""
    verdicts = comparisons(design) * len(CONFIRMATORY)
    total = outcome is PRIMARY
    of = p_in_total if total else p_at_equal
    return [
        f"| {scatter:.0%} | ".replace("%", " %")
        + " | ".join(f"{share:.0%}".replace("%", " %") for share in shares)
        + " |"
        for scatter in scatters or (TOTAL if total else EQUAL)
        for shares in [powers(design.pairs, verdicts, scatter, studies, of)]
    ]


def told(design: Design, studies: int) -> None:
    minutes = (expected_seconds(design) + probing_seconds(design)) / 60
    print(
        f"\n{design.preset}: {comparisons(design)} questions of {len(CONFIRMATORY)} verdicts each, "
        f"{design.pairs} pairs, {minutes:.1f} minutes"
    )
    for outcome in CONFIRMATORY:
        effects = " | ".join(f"{effect:.0%}".replace("%", " %") for effect in EFFECTS)
        print(f"\n{outcome.title}\n\n| scatter of a pair's ratio | {effects} |")
        print("|---" * (1 + len(EFFECTS)) + "|")
        for row in rows(design, outcome, studies):
            print(row, flush=True)


if __name__ == "__main__":
    for design in (quick(), full()):
        told(design, int(sys.argv[1]) if len(sys.argv) > 1 else 400)
