"""When each message is due. No clock and no sleep: time comes in as an argument.

Rule: a due time depends on the message's number alone, never on when the one before it was sent.
So a late send delays nothing but itself, and the schedule does not drift.

In a burst all senders of a round are due at once; otherwise the round is divided among all senders
evenly, by their numbers. Who takes part in which round is for `voices` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadclient.voices import Voices

SECOND_NS = 1_000_000_000
SAMPLES_PER_SECOND = 20_000  # marked copies that receivers parse: about 4 % of a core


@dataclass(frozen=True, slots=True)
class Schedule:
    """Due times of a phase of *rounds*."""

    start_ns: int
    rounds: int
    burst: bool
    voices: Voices

    @classmethod
    def lasting(cls, seconds: float, *, start_ns: int, burst: bool, voices: Voices) -> Schedule:
        """Return the schedule of every message due in the first *seconds* after *start_ns*."""
        rounds = ceil(Fraction(seconds).limit_denominator(1_000_000) * voices.rate)
        return cls(start_ns, rounds, burst, voices)

    @property
    def rate(self) -> Fraction:
        """Rounds per second."""
        return self.voices.rate

    def due_ns(self, round_: int, number: int) -> int:
        """Return when sender *number* should speak in a round."""
        period_ns, divisor = self.voices.period_ns  # ints: by a Fraction it took twice as long
        if self.burst:
            return self.start_ns + round_ * period_ns // divisor
        senders = self.voices.senders
        return self.start_ns + (round_ * senders + number) * period_ns // (divisor * senders)

    def message_due_ns(self, message: int, number: int) -> int:
        """Return when sender *number* should say its *message*, the first one being 0."""
        return self.due_ns(self.voices.round_of(message, number), number)

    @property
    def interval_ns(self) -> int:
        """Time between two rounds, that is between two messages of the fastest sender."""
        period_ns, divisor = self.voices.period_ns
        return period_ns // divisor

    @property
    def end_ns(self) -> int:
        """When the round after the last one would be due: the phase is over."""
        period_ns, divisor = self.voices.period_ns
        return self.start_ns + self.rounds * period_ns // divisor

    @property
    def messages(self) -> int:
        """Messages in the whole phase, over all senders."""
        return self.voices.total(self.rounds)


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
