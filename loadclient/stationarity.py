"""Whether a load was in the same state from beginning to end. Pure.

A backlog that grows, a cache that warms, a neighbour that arrives: then the figures of the phase
describe no state of the server, and depend on when one stopped. The phase is cut into windows, each
with the geometric mean of its latencies, and the windows of its first half are held against those
of the second by ranks.

Rule: a false alarm costs a good pair, so two things must come together: an order of the windows
that chance hardly makes, and a shift that matters. Neighbouring windows resemble each other, so the
first alone would cry wolf; `tests/load/test_stationarity.py` counts how often both do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadclient.pacing import Schedule

WINDOWS = 16
LEAST_WINDOWS = 12  # with fewer, even the clearest order says little
RAREST = 0.005  # two-sided, if windows were independent
LEAST_SHIFT = 2.5  # or its inverse: less is a shared machine breathing
SHORTEST_NS = 1_000_000_000  # a neighbour's tenths of a second would be half of a shorter phase


@dataclass(slots=True)
class Windows:
    """Sums of the logarithms of latencies, by the window in which the message was due."""

    start_ns: int = 0
    span_ns: int = 1
    sums: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @classmethod
    def over(cls, schedule: Schedule) -> Windows:
        """Return empty windows over a phase."""
        span_ns = schedule.end_ns - schedule.start_ns
        number = windows_of(schedule.rounds) if span_ns >= SHORTEST_NS else 0
        return cls(schedule.start_ns, span_ns, [0.0] * number, [0] * number)

    def record(self, due_ns: int, latency_ns: int) -> None:
        """Take note of a sample that was due at *due_ns*; what was due outside is passed over."""
        sums = self.sums
        number = len(sums)
        window = (due_ns - self.start_ns) * number // self.span_ns
        if 0 <= window < number:
            sums[window] += log(latency_ns or 1)
            self.counts[window] += 1

    @staticmethod
    def means(parts: Sequence[Windows]) -> list[float | None]:
        """Return the geometric mean of each window over all workers, in seconds."""
        sums = map(sum, zip(*(part.sums for part in parts), strict=True))
        counts = map(sum, zip(*(part.counts for part in parts), strict=True))
        return [
            exp(total / count) / 1e9 if count else None
            for total, count in zip(sums, counts, strict=True)
        ]


def windows_of(rounds: int) -> int:
    """Return into how many windows a phase of so many intervals is cut; 0 if it is too short."""
    return min(WINDOWS, rounds) if rounds >= LEAST_WINDOWS else 0


def shift(windows: Sequence[float | None]) -> float | None:
    """Return how many times higher the second half is than the first; None if it is not shown.

    *windows* are latencies in any unit; None is a window without samples.
    """
    half = len(windows) // 2
    first = [log(value) for value in windows[:half] if value]
    second = [log(value) for value in windows[half:] if value]
    if len(first) + len(second) < LEAST_WINDOWS or not first or not second:
        return None
    if rank_sum_p(first, second) > RAREST:
        return None
    ratio = exp(median(b - a for a in first for b in second))  # Hodges-Lehmann
    return ratio if max(ratio, 1 / ratio) >= LEAST_SHIFT else None


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the exact two-sided p of the rank-sum test; ties count for half."""
    u = sum((b > a) + (b == a) / 2 for a in first for b in second)
    extreme = int(min(u, len(first) * len(second) - u) + 0.5)
    ways = _ways(len(first), len(second))
    return min(1.0, 2 * sum(ways[: extreme + 1]) / sum(ways))


def _ways(m: int, n: int) -> list[int]:
    """Return in how many orders of *m* and *n* values each U comes about.

    The generating function is the Gaussian binomial coefficient.
    """
    ways = [1] + [0] * (m * n)
    for k in range(1, m + 1):
        for at in range(m * n, n + k - 1, -1):
            ways[at] -= ways[at - n - k]
        for at in range(k, m * n + 1):
            ways[at] += ways[at - k]
    return ways
