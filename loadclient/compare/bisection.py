"""Finds the highest rate that holds: double, halve, confirm. Pure: rates out, answers in.

Rule: nothing is the answer that held once. A rate that held on the way up may have been lucky, so
the last one is asked again, several times, and gives way to a lower one if it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass(frozen=True, slots=True)
class Question:
    """A rate to try."""

    rate: float
    confirming: bool  # the answer must be yes again


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is known: the highest rate that held every time, and the lowest above that did not."""

    held: float | None
    failed: float | None


def bisection(
    lowest: float, highest: float, precision: float, confirmations: int
) -> Generator[Question, bool, Bracket]:
    """Ask about rates between *lowest* and *highest* until the answer is known to *precision*.

    Send whether the rate held. The answer has held *confirmations* times in a row, and once before
    on the way, unless it is what a rate that could not be confirmed gave way to.
    """
    low, high = yield from _grown(lowest, highest)
    while low is not None:
        low, high = yield from _narrowed(low, high, precision)
        if (yield from _confirmed(low, confirmations)):
            return Bracket(low, high)
        high, low = low, (max(lowest, low / (1 + precision)) if low > lowest else None)
    return Bracket(None, high)


def _grown(
    lowest: float, highest: float
) -> Generator[Question, bool, tuple[float | None, float | None]]:
    """Double until a rate fails; return the last that held and the one that failed."""
    held: float | None = None
    rate = lowest
    while (yield Question(rate, confirming=False)):
        held = rate
        if rate >= highest:
            return held, None
        rate = min(2 * rate, highest)
    return held, rate


def _narrowed(
    low: float, high: float | None, precision: float
) -> Generator[Question, bool, tuple[float, float | None]]:
    """Halve the gap, in ratio, until it is no wider than *precision*."""
    while high is not None and high / low > (1 + precision) * (1 + 1e-9):
        middle = sqrt(low * high)
        if (yield Question(middle, confirming=False)):
            low = middle
        else:
            high = middle
    return low, high


def _confirmed(rate: float, confirmations: int) -> Generator[Question, bool, bool]:
    for _ in range(confirmations):
        if not (yield Question(rate, confirming=True)):
            return False
    return True
