"""A ratio at equal size of something else: least squares over the pairs, with Student's interval.

What a daemon's fan-out batch holds is decided by how long it was kept waiting, and a larger batch
is cheaper by the message. So two arms' costs may differ because their batches did, for whatever
reason. Of the line

    log(cost a / cost b) = alpha + beta * log(batch a / batch b)

alpha is the log ratio of costs where the batches are equal. Rule: it is read within the data only.
Where the batches do not vary there is nothing to correct for; where hardly any pair has the larger
batch on the other side, no pair shows what equal ones would cost.

Assumption: nothing moves cost and batch together. A stretch in which the machine is slow makes
messages dear and lets batches grow, which flattens the line; of equal daemons that favours nobody,
but where one arm's batches are larger as a rule, its ratio keeps some of what they saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import atan, ceil, cos, exp, inf, log, pi, sin, sqrt
from typing import TYPE_CHECKING

from loadclient.compare.statistics import LEAST_PAIRS, POWER

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_RATIO = log(1.01)  # no pair's sizes differ by as much: they do not vary
LEAST_SIDE = 2  # pairs that have the larger one in a, and in b


@dataclass(frozen=True, slots=True)
class Line:
    """What least squares make of the pairs."""

    alpha: float
    beta: float
    error: float  # standard error of alpha
    freedom: int

    @property
    def p(self) -> float:
        """Return the two-sided p of no difference at equal size."""
        distance = abs(self.alpha) / self.error if self.error else inf if self.alpha else 0.0
        return max(0.0, 1 - within(distance, self.freedom))

    def half(self, confidence: float) -> float:
        """Return half the width of the interval about alpha."""
        return self.error * quantile((1 + confidence) / 2, self.freedom)

    def detectable(self, comparisons: int, confidence: float) -> float:
        """Return the relative difference found four times out of five at the strictest level."""
        return exp(self._reach(comparisons, confidence)) - 1

    def pairs_needed(self, effect: float, comparisons: int, confidence: float) -> int:
        """Return about how many pairs would find a relative difference of *effect* as often."""
        times = (self._reach(comparisons, confidence) / log(1 + effect)) ** 2
        return max(LEAST_PAIRS, ceil((self.freedom + 2) * times))

    def _reach(self, comparisons: int, confidence: float) -> float:
        strictest = 1 - (1 - confidence) / 2 / comparisons
        return self.error * (quantile(strictest, self.freedom) + quantile(POWER, self.freedom))


def obstacle(sizes: Sequence[float], what: str) -> str:
    """Return why the log ratios of *what* give no line that can be read at 0; "" if they do."""
    if len(sizes) < LEAST_PAIRS:
        return "too few pairs for a ratio with an interval"
    if max(map(abs, sizes)) < LEAST_RATIO:
        return f"{what} hardly vary: the total effect is the one at equal size"
    if min(sum(x > 0 for x in sizes), sum(x < 0 for x in sizes)) < LEAST_SIDE:
        return f"{what} differ so between the arms that no pairs show equal ones"
    return ""


def line(costs: Sequence[float], sizes: Sequence[float]) -> Line:
    """Return the line through the pairs' log ratios of costs against those of sizes."""
    n = len(costs)
    x, y = sum(sizes) / n, sum(costs) / n
    spread = sum((one - x) ** 2 for one in sizes)
    beta = sum((one - x) * (other - y) for one, other in zip(sizes, costs, strict=True)) / spread
    alpha = y - beta * x
    rest = sum((c - alpha - beta * s) ** 2 for s, c in zip(sizes, costs, strict=True))
    error = sqrt(rest / (n - 2) * (1 / n + x * x / spread))
    return Line(alpha, beta, error, n - 2)


def within(t: float, freedom: int) -> float:
    """Return how much of Student's distribution lies between -*t* and *t*: its finite series."""
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cos(angle) ** 2 * k / (k + 1)
    total *= sin(angle)
    return (angle + total) * 2 / pi if odd else total


@cache
def quantile(share: float, freedom: int) -> float:
    """Return what Student's t stays below in so large a *share*, from a half upwards."""
    low, high = 0.0, 1.0
    while within(high, freedom) < 2 * share - 1:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        below = within(middle, freedom) < 2 * share - 1
        low, high = (middle, high) if below else (low, middle)
    return high
