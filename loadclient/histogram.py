"""A log-linear histogram of nanoseconds: integers only, so that merging loses nothing.

Rule: histograms are merged, percentiles are not averaged. The percentile of several workers is the
percentile of the sum of their slots.

Values below 256 have a slot each. Above, every power of two is cut into 128 equal slots, so a
slot's middle is within 0.4 % of any value in it. A percentile is a slot's middle, never above the
largest value seen; the maximum itself is exact.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import ceil
from operator import add, sub
from typing import Any

SUB_BITS = 7  # 128 slots per power of two: 1/256 = 0.4 % at worst
LINEAR = 1 << (SUB_BITS + 1)  # below this every integer has its own slot
LARGEST = (1 << 63) - 1  # 292 years
SLOTS = ((63 - SUB_BITS - 1) << SUB_BITS) + LINEAR


class Histogram:
    """Counts of values by slot, with the exact sum and maximum beside them."""

    __slots__ = ("counts", "max", "sum")

    def __init__(self) -> None:
        self.counts = [0] * SLOTS
        self.sum = 0
        self.max = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.as_json() == other.as_json()

    __hash__ = None  # type: ignore[assignment]  # it changes with every value

    def record(self, value: int) -> None:
        """Count *value*; what is below zero counts as zero."""
        if not 0 <= value <= LARGEST:  # 0.25 us a call; by min() and max() 0.42
            value = 0 if value < 0 else LARGEST
        shift = value.bit_length() - SUB_BITS - 1
        self.counts[value if shift <= 0 else (shift << SUB_BITS) + (value >> shift)] += 1
        self.sum += value
        if value > self.max:  # noqa: PLR1730 - half the price of max() in the receive path
            self.max = value

    @property
    def count(self) -> int:
        """Values recorded: summed from the slots, so that it never contradicts them."""
        return sum(self.counts)

    def merge(self, other: Histogram) -> None:
        """Add everything that *other* counted."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum
        self.max = max(self.max, other.max)

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was counted after *earlier*; its maximum is the whole histogram's."""
        later = Histogram()
        later.counts = list(map(sub, self.counts, earlier.counts))
        later.sum = self.sum - earlier.sum
        later.max = self.max
        return later

    def percentile(self, fraction: float) -> int | None:
        """Return the value that *fraction* of all values do not exceed; None if there are none."""
        count = self.count
        if not count:
            return None
        rank = max(1, ceil(fraction * count))
        slot = bisect_left(list(accumulate(self.counts)), rank)
        return min(middle(slot), self.max)

    def at_most_power(self, bits: int) -> int:
        """Return how many values are below 2**bits; exact, because slots end there."""
        shift = bits - SUB_BITS - 1
        return sum(self.counts[: 1 << bits if shift <= 0 else (shift << SUB_BITS) + LINEAR])

    def as_json(self) -> dict[str, Any]:
        """Return the filled slots alone, so that stored results merge later."""
        slots = {str(slot): n for slot, n in enumerate(self.counts) if n}
        return {"sub_bits": SUB_BITS, "sum": self.sum, "max": self.max, "slots": slots}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Histogram:
        """Rebuild what `as_json` stored.

        Raises ValueError if it was stored with other slots.
        """
        if stored["sub_bits"] != SUB_BITS:
            raise ValueError(f"histogram with {stored['sub_bits']} sub-bits, not {SUB_BITS}")
        histogram = cls()
        for slot, n in stored["slots"].items():
            histogram.counts[int(slot)] = n
        histogram.sum = stored["sum"]
        histogram.max = stored["max"]
        return histogram


def middle(slot: int) -> int:
    """Return the value in the middle of *slot*."""
    if slot < LINEAR:
        return slot
    shift = (slot >> SUB_BITS) - 1
    return (((slot & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS)) << shift) + (1 << shift >> 1)


def merged(histograms: list[Histogram]) -> Histogram:
    """Return one histogram of everything that *histograms* counted."""
    total = Histogram()
    for histogram in histograms:
        total.merge(histogram)
    return total
