"""What paired ratios can say: an estimate, an exact interval, and how much was too small to see.

Rule: no distribution is assumed but symmetry of the pairs' log ratios about the true one. That
holds by design: the order within each pair is drawn by lot.

The estimate is Hodges and Lehmann's, the median of the means of any two differences (Walsh
averages). The interval is the set of shifts that Wilcoxon's signed-rank test does not reject, which
is a range of the ordered Walsh averages. Both are exact at any number of pairs, hold their level on
noise with spikes, and cost nothing next to a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, combinations_with_replacement
from math import ceil, exp, log
from statistics import NormalDist, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_PAIRS = 6  # fewer have no finite interval of 95 %
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a log ratio and the exact interval about it."""

    middle: float
    low: float
    high: float
    p: float  # of no difference, two-sided


def log_ratios(pairs: Sequence[tuple[float, float]]) -> list[float] | None:
    """Return the log of *a* over *b* of each pair; None if one of them has no logarithm."""
    if any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    return [log(a / b) for a, b in pairs]


def estimate(differences: Sequence[float], confidence: float) -> Estimate | None:
    """Return the Hodges-Lehmann estimate; None if there are too few for a finite interval."""
    walsh = sorted((x + y) / 2 for x, y in combinations_with_replacement(differences, 2))
    counts = signed_rank_counts(len(differences))
    cut = _cut(counts, (1 - confidence) / 2)
    if not cut:
        return None
    return Estimate(median(walsh), walsh[cut - 1], walsh[-cut], _p(walsh, counts))


def signed_rank_counts(n: int) -> list[int]:
    """Return how many of the 2**n signs of the ranks 1 to *n* give each sum of positive ranks."""
    counts = [1]
    for rank in range(1, n + 1):
        longer = counts + [0] * rank
        for total, ways in enumerate(counts):
            longer[total + rank] += ways
        counts = longer
    return counts


def _cut(counts: Sequence[int], tail: float) -> int:
    """Return how many Walsh averages each end loses: as many as keep the tail at most *tail*."""
    allowed = tail * sum(counts)
    return sum(below <= allowed for below in accumulate(counts))


def _p(walsh: Sequence[float], counts: Sequence[int]) -> float:
    """Return the exact two-sided p: the sum of positive ranks is the number of Walsh averages > 0.

    Averages of exactly nought count to the side that makes p larger.
    """
    positive = sum(average > 0 for average in walsh)
    negative = sum(average < 0 for average in walsh)
    extreme = len(walsh) - max(positive, negative)
    return min(1.0, 2 * sum(counts[: extreme + 1]) / sum(counts))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Return the p of each name, adjusted for there being several."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(ps) - rank)))
        adjusted[name] = highest
    return adjusted


def least_pairs(comparisons: int, confidence: float) -> int:
    """Return the fewest pairs of which Holm lets the most extreme result stand."""
    pairs = LEAST_PAIRS
    while 2 * comparisons / 2**pairs > 1 - confidence:
        pairs += 1
    return pairs


def detectable(found: Estimate, comparisons: int, confidence: float) -> float:
    """Return the smallest relative difference that would be found four times out of five.

    An approximation: the interval's width as if the noise were normal, and the level of the
    strictest of *comparisons*.
    """
    return exp(_reach(found, comparisons, confidence)) - 1


def pairs_needed(
    found: Estimate, pairs: int, effect: float, comparisons: int, confidence: float
) -> int:
    """Return how many pairs would find a relative difference of *effect* four times out of five.

    As approximate as `detectable`: intervals narrow with the root of the number of *pairs*.
    """
    times = (_reach(found, comparisons, confidence) / log(1 + effect)) ** 2
    return max(least_pairs(comparisons, confidence), ceil(pairs * times))


def _reach(found: Estimate, comparisons: int, confidence: float) -> float:
    normal = NormalDist()
    alpha = 1 - confidence
    standard_error = (found.high - found.low) / 2 / normal.inv_cdf(1 - alpha / 2)
    return standard_error * (normal.inv_cdf(1 - alpha / 2 / comparisons) + normal.inv_cdf(POWER))
