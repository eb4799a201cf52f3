"""When each message is due. No clock and no sleep: time comes in as an argument.

Rule: a due time depends on the message's number alone, never on when the one before it was sent.
So a late send delays nothing but itself, and the schedule does not drift.

Message *round* of sender *number* has the index ``round * senders + number``; due times grow with
the index. In a burst all senders are due at once, each interval; otherwise the interval is divided
among them evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd

SECOND_NS = 1_000_000_000
SAMPLES_PER_SECOND = 20_000  # marked copies that receivers parse: about 4 % of a core


@dataclass(frozen=True, slots=True)
class Schedule:
    """Due times of a phase: *rounds* messages from each of *senders*."""

    start_ns: int
    rate: Fraction  # messages per second and sender
    senders: int
    rounds: int
    burst: bool

    @classmethod
    def lasting(
        cls, seconds: float, *, start_ns: int, rate: float, senders: int, burst: bool
    ) -> Schedule:
        """Return the schedule of every message due in the first *seconds* after *start_ns*."""
        exact = Fraction(rate).limit_denominator(1_000_000)
        rounds = ceil(Fraction(seconds).limit_denominator(1_000_000) * exact)
        return cls(start_ns, exact, senders, rounds, burst)

    def due_ns(self, round_: int, number: int) -> int:
        """Return when message *round_* of sender *number* should leave."""
        if self.burst:
            return self.start_ns + round_ * SECOND_NS * self.rate.denominator // self.rate.numerator
        index = round_ * self.senders + number
        divisor = self.rate.numerator * self.senders
        return self.start_ns + index * SECOND_NS * self.rate.denominator // divisor

    @property
    def interval_ns(self) -> int:
        """Time between two messages of one sender."""
        return SECOND_NS * self.rate.denominator // self.rate.numerator

    @property
    def end_ns(self) -> int:
        """When the round after the last one would be due: the phase is over."""
        return (
            self.start_ns + self.rounds * SECOND_NS * self.rate.denominator // self.rate.numerator
        )

    @property
    def messages(self) -> int:
        """Messages in the whole phase, over all senders."""
        return self.rounds * self.senders


def marking_interval(*, rate: float, senders: int, receivers: int) -> int:
    """Return k: of all message indices those divisible by k are marked as latency samples.

    The marked copies stay within `SAMPLES_PER_SECOND` over all receivers. k shares no factor with
    the number of senders, so that the marks visit every sender in turn and favour none.
    """
    k = max(1, ceil(rate * senders * receivers / SAMPLES_PER_SECOND))
    while gcd(k, senders) != 1:
        k += 1
    return k


def first_marked(number: int, *, senders: int, interval: int) -> int:
    """Return the first round in which sender *number* is marked; the next is *interval* later.

    *interval* must come from `marking_interval`: with a common factor some senders have none.
    """
    return -number * pow(senders, -1, interval) % interval if interval > 1 else 0
