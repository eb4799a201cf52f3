"""Who says how much how often. Pure.

Rule: all senders share one schedule, that of the fastest; a slower one takes part in every n-th of
its rounds. So every due time stays a matter of arithmetic, and slow ones are spread over the rounds
instead of all speaking in the same.

    5x100x32,45x2x1024        5 senders with 100 messages/s of 32 B, 45 with 2/s of 1024 B
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from loadclient.pacing import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = re.compile(r"(\d{1,7})x(\d{1,6}(?:\.\d{1,3})?)x(\d{1,7})")
FEWEST_BYTES, MOST_BYTES = 2, 1 << 20
SLOWEST, FASTEST = Fraction(1, 1000), 100_000
EXAMPLE = "5x100x32,45x2x1024 (senders x messages/s x bytes)"


@dataclass(frozen=True, slots=True)
class Group:
    """Senders that are alike."""

    senders: int
    rate: Fraction  # messages per second of each
    msg_bytes: int


@dataclass(frozen=True)
class Voices:
    """All senders, numbered group by group."""

    groups: tuple[Group, ...]

    @classmethod
    def alike(cls, senders: int, rate: float, msg_bytes: int) -> Voices:
        """Return senders that do not differ."""
        return cls((Group(senders, Fraction(rate).limit_denominator(1_000_000), msg_bytes),))

    @classmethod
    def parse(cls, text: str) -> Voices:
        """Read a mix.

        Raises ValueError with half a sentence.
        """
        groups = tuple(_group(word.strip()) for word in text.split(","))
        voices = cls(groups)
        for group in groups:
            if (voices.rate / group.rate).denominator != 1:
                raise ValueError(
                    f'"{text}": {float(group.rate):g}/s is not the fastest rate '
                    f"({float(voices.rate):g}/s) divided by a whole number"
                )
        return voices

    def __str__(self) -> str:
        return ",".join(f"{g.senders}x{float(g.rate):g}x{g.msg_bytes}" for g in self.groups)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(group.senders for group in self.groups))

    @cached_property
    def _everys(self) -> list[int]:
        return [int(self.rate / group.rate) for group in self.groups]

    def _place(self, number: int) -> int:
        return bisect_right(self._ends, number) if len(self.groups) > 1 else 0

    @cached_property
    def senders(self) -> int:
        """How many there are."""
        return self._ends[-1]

    @cached_property
    def rate(self) -> Fraction:
        """Rounds per second: the rate of the fastest."""
        return max(group.rate for group in self.groups)

    @cached_property
    def period_ns(self) -> tuple[int, int]:
        """Nanoseconds from one round to the next, as the two parts of a fraction."""
        return (SECOND_NS / self.rate).as_integer_ratio()

    @cached_property
    def messages_per_second(self) -> Fraction:
        """What all of them say together."""
        return Fraction(sum(group.senders * group.rate for group in self.groups))

    @cached_property
    def slowest(self) -> Fraction:
        """The rate of the slowest."""
        return min(group.rate for group in self.groups)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of messages that there are, the shortest first."""
        return tuple(sorted({group.msg_bytes for group in self.groups}))

    @cached_property
    def mean_bytes(self) -> float:
        """The length of a message, on average over messages."""
        octets = sum(group.senders * group.rate * group.msg_bytes for group in self.groups)
        return float(octets / self.messages_per_second) if self.senders else float(self.sizes[0])

    def mean_frame(self, prefix_bytes: Mapping[int, int]) -> float:
        """Return the length of a message with its sender's prefix, on average over messages."""
        rates = {number: self.rate_of(number) for number in prefix_bytes}
        octets = sum(
            rate * (prefix_bytes[number] + self.size(number)) for number, rate in rates.items()
        )
        return float(octets / sum(rates.values())) if rates else self.mean_bytes

    def size(self, number: int) -> int:
        """Return the length of *number*'s messages."""
        return self.groups[self._place(number)].msg_bytes

    def rate_of(self, number: int) -> Fraction:
        """Return how many messages per second *number* says."""
        return self.groups[self._place(number)].rate

    def every(self, number: int) -> int:
        """Return how many rounds *number*'s messages are apart."""
        return self._everys[self._place(number)]

    def round_of(self, message: int, number: int) -> int:
        """Return in which round *number* says its *message*, the first one being 0."""
        every = self.every(number)
        return message * every + number % every

    def messages(self, number: int, rounds: int) -> int:
        """Return how many messages *number* says in so many rounds."""
        every = self.every(number)
        return max(0, -(-(rounds - number % every) // every))

    def total(self, rounds: int) -> int:
        """Return how many messages all of them say in so many rounds."""
        if len(self.groups) == 1:
            return rounds * self.senders
        return sum(self.messages(number, rounds) for number in range(self.senders))


def _group(word: str) -> Group:
    found = GROUP.fullmatch(word)
    if found is None:
        raise ValueError(f'"{word}" is not understood; it must be such as {EXAMPLE}')
    group = Group(int(found[1]), Fraction(found[2]), int(found[3]))
    if not group.senders:
        raise ValueError(f'"{word}": nobody sends')
    if not SLOWEST <= group.rate <= FASTEST:
        raise ValueError(f'"{word}": the rate must be from 0.001 to 100000')
    if not FEWEST_BYTES <= group.msg_bytes <= MOST_BYTES:
        raise ValueError(f'"{word}": the length must be from 2 to 1048576 bytes')
    return group
