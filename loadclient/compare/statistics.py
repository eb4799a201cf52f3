"""What paired ratios can say: an estimate, an exact interval, and how much was too small to see.

Rule: no distribution is assumed but symmetry of the pairs' log ratios about the true one. If the
arms do not differ, that holds by design, because the order within each pair is drawn by lot: so no
p is wrong. If they do, it is an assumption, on which the interval about the difference rests.

The estimate is Hodges and Lehmann's, the median of the means of any two differences (Walsh
averages). The interval is the set of shifts that Wilcoxon's signed-rank test does not reject, which
is a range of the ordered Walsh averages. Both are exact at any number of pairs, hold their level on
noise with spikes, and cost nothing next to a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, combinations_with_replacement
from math import ceil, comb, exp, log, sqrt
from operator import itemgetter
from random import Random
from statistics import NormalDist, median
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

K = TypeVar("K", bound="Hashable")
LEAST_PAIRS = 6  # fewer have no finite interval of 95 %
POWER = 0.8
STUDIES = 200  # drawn to see how often a difference would be found


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


def holm(ps: Mapping[K, float]) -> dict[K, float]:
    """Return the p of each name, adjusted for there being several."""
    adjusted: dict[K, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(ps) - rank)))
        adjusted[name] = highest
    return adjusted


def coin(one: int, other: int) -> float:
    """Return how likely a fair coin falls as unevenly, or more, of as many throws."""
    throws = one + other
    tail = sum(comb(throws, number) for number in range(min(one, other) + 1))
    return min(1.0, 2.0 * tail / float(2**throws))


def least_pairs(comparisons: int, confidence: float) -> int:
    """Return the fewest pairs of which Holm lets the most extreme result stand."""
    pairs = LEAST_PAIRS
    while 2 * comparisons / 2**pairs > 1 - confidence:
        pairs += 1
    return pairs


def detectable(differences: Sequence[float], comparisons: int, confidence: float) -> float | None:
    """Return the smallest relative difference that would be found four times out of five.

    Found means that the exact test rejects at the level of the strictest of *comparisons*. None: at
    so few pairs it rejects nothing, however large.

    A study of the same noise finds a shift if its interval, moved by it, leaves 0 out. So studies
    are drawn from the observed scatter, and what all but a fifth of the intervals would have to be
    moved by is the answer. That no shape is assumed makes it hold with spikes; that the scatter is
    known from a few pairs only is made good for, or it would promise too much.
    """
    cut = _cut(signed_rank_counts(len(differences)), (1 - confidence) / comparisons / 2)
    if not cut:
        return None
    middle = median((x + y) / 2 for x, y in combinations_with_replacement(differences, 2))
    scatter = [x - middle for x in differences]
    either_way = [*scatter, *(-x for x in scatter)]
    lowest = _lowest_walsh(len(differences), cut)
    shifts = []
    for draw, scale in _studies(len(differences)):
        drawn = sorted(draw(either_way))
        walsh = sorted(drawn[i] + drawn[j] for i, j in lowest)
        shifts.append(-scale * walsh[cut - 1] / 2)
    shifts.sort()
    return exp(max(0.0, shifts[ceil(POWER * STUDIES) - 1])) - 1


@lru_cache
def _studies(pairs: int) -> Sequence[tuple[Callable[[Sequence[float]], tuple[float, ...]], float]]:
    """Return, for each study to draw, how it picks from the scatter and by how much to stretch it.

    About their own middle pairs scatter less than about the truth, and how much less differs from
    study to study as it does for Student's t.
    """
    lot = Random(pairs)  # noqa: S311 - the same pairs must always give the same answer
    freedom = pairs - 2
    studies = []
    for _ in range(STUDIES):
        picks = [lot.randrange(2 * pairs) for _ in range(pairs)]
        spread = 2 * lot.gammavariate(freedom / 2, 1) / freedom  # chi-squared by its freedom
        studies.append((itemgetter(*picks), sqrt(pairs / (pairs - 1.5) / spread)))
    return studies


@lru_cache
def _lowest_walsh(pairs: int, cut: int) -> Sequence[tuple[int, int]]:
    """Return which places of the ordered differences can make one of the *cut* lowest averages.

    The average at places i and j is no lower than those at any i' <= i and j' <= j.
    """
    places = combinations_with_replacement(range(pairs), 2)
    return [(i, j) for i, j in places if (i + 1) * (j - i + 1) + i * (i + 1) // 2 <= cut]


def pairs_needed(
    found: Estimate, pairs: int, effect: float, comparisons: int, confidence: float
) -> int:
    """Return how many pairs would find a relative difference of *effect* four times out of five.

    An approximation: intervals as wide as if the noise were normal, narrowing with the root of the
    number of *pairs*.
    """
    normal = NormalDist()
    alpha = 1 - confidence
    standard_error = (found.high - found.low) / 2 / normal.inv_cdf(1 - alpha / 2)
    reach = normal.inv_cdf(1 - alpha / 2 / comparisons) + normal.inv_cdf(POWER)
    times = (standard_error * reach / log(1 + effect)) ** 2
    return max(least_pairs(comparisons, confidence), ceil(pairs * times))
