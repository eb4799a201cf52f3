"""How long to wait before the next try: longer each time, and not in step with others; sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0


class Backoff:
    """Doubles from `FIRST_SECONDS` to `LONGEST_SECONDS`, less a random part of up to half.

    Instances that lost the same server do not come back to it all at once.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._seconds = FIRST_SECONDS

    def next_seconds(self) -> float:
        """Return the next wait."""
        seconds, self._seconds = self._seconds, min(2 * self._seconds, LONGEST_SECONDS)
        return seconds * (1 - self._random() / 2)

    def reset(self) -> None:
        """Begin anew: it has worked for a while."""
        self._seconds = FIRST_SECONDS
