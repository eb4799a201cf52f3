"""What one listener hears, line by line: whose line it is, which one, and what is missing. Pure.

Sums cannot see a line that is lost and another that comes twice, nor two that changed places. So
speakers number their lines, from one. A line without a number counts as the next of its speaker.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE = re.compile(rb"\[USER(\d+)\] (?:(\d+) )?[^\n]*\n|\[etltd\] (\d+) messages dropped\n")


class Hearing:
    """One listener's account; it keeps one number for each speaker."""

    __slots__ = ("heard", "last", "missed", "told")

    def __init__(self) -> None:
        self.heard = 0
        self.missed = 0  # by the gaps in the numbers
        self.told = 0  # by the daemon: as missed
        self.last: dict[int, int] = {}  # by speaker

    def hear(self, block: bytes) -> None:
        """Account for *block*, whole lines."""
        end = 0
        for line in LINE.finditer(block):
            assert line.start() == end, f"damaged: {block[end : line.start()][:80]!r}"
            end = line.end()
            speaker, number, dropped = line.groups()
            if dropped:
                self.told += int(dropped)
            else:
                self._follow(int(speaker), int(number) if number else None)
        assert end == len(block), f"damaged: {block[end:][:80]!r}"

    def _follow(self, speaker: int, number: int | None) -> None:
        last = self.last.get(speaker, 0)
        number = last + 1 if number is None else number
        assert number > last, f"line {number} of USER{speaker} came after its line {last}"
        self.last[speaker] = number
        self.heard += 1
        self.missed += number - last - 1
        # The notice stands before the first line that goes on, so this holds line by line.
        assert self.missed <= self.told, (
            f"{self.missed} missed before line {number} of USER{speaker}, and told of {self.told}"
        )


def assert_accounted(
    hearings: Mapping[int, Hearing], said: Mapping[int, int], received: float
) -> None:
    """Check each listener's account, by its number, at a moment at which nothing is on its way.

    *said* is how many lines those have said who say so (who comes and goes may be cut off in the
    middle: its last line is the last that anybody heard); *received* how many the daemon accepted.
    """
    latest = _latest(list(hearings.values())) | dict(said)
    unheard = received - sum(latest.values())  # accepted, and missed by everybody
    for number, one in hearings.items():
        assert number not in one.last, f"USER{number} heard itself"
        missed = one.missed + unheard
        for speaker, last in latest.items():
            if speaker != number:
                behind = last - one.last.get(speaker, 0)
                assert behind >= 0, f"USER{number} heard more of USER{speaker} than it said"
                missed += behind
        assert missed == one.told, f"USER{number} missed {missed:.0f}, and was told of {one.told}"


def _latest(hearings: Sequence[Hearing]) -> dict[int, int]:
    speakers = {speaker for one in hearings for speaker in one.last}
    return {speaker: max(one.last.get(speaker, 0) for one in hearings) for speaker in speakers}
