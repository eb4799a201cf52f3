"""One direction of a link: when each frame arrives, or that it never does. Pure: no clock.

The order of things is that of tc-netem(8): loss, then the queue and its limit, then the rate, then
the delay. With jitter a frame may overtake another, as there.
"""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.network.conditions import Conditions

NEVER_NS = 1 << 62


class Path:
    """Frames on their way in one direction."""

    def __init__(self, conditions: Conditions, lot: Random | None = None) -> None:
        self._lot = lot or Random()  # noqa: S311 - chance, not secrecy
        self._loss = conditions.loss / 100
        self._delay_ns = round(conditions.delay * 1e6)
        self._jitter_ns = round(conditions.jitter * 1e6)
        self._ns_per_byte = 8000 / conditions.rate if conditions.rate else 0.0
        self._limit = conditions.queued_frames
        self._queue: list[tuple[int, int, bytes]] = []
        self._free_at = 0.0
        self.is_calm = False  # without loss, for as long as somebody wants that
        self.offered = 0
        self.lost = 0
        self.overflowed = 0

    def offer(self, frame: bytes, now_ns: int) -> None:
        """Take a frame that was sent at *now_ns*, or lose it."""
        self.offered += 1
        if self._loss and not self.is_calm and self._lot.random() < self._loss:
            self.lost += 1
            return
        if len(self._queue) >= self._limit:
            self.overflowed += 1
            return
        due_ns = now_ns
        if self._ns_per_byte:
            self._free_at = max(now_ns, self._free_at) + len(frame) * self._ns_per_byte
            due_ns = int(self._free_at)
        due_ns += self._delay_ns
        if self._jitter_ns:
            due_ns += round(self._lot.uniform(-self._jitter_ns, self._jitter_ns))
        heappush(self._queue, (due_ns, self.offered, frame))

    @property
    def next_due_ns(self) -> int:
        """When the next frame arrives."""
        return self._queue[0][0] if self._queue else NEVER_NS

    def arrived(self, now_ns: int) -> Iterator[tuple[int, bytes]]:
        """Hand out every frame that has arrived, with the time when it did."""
        queue = self._queue
        while queue and queue[0][0] <= now_ns:
            due_ns, _, frame = heappop(queue)
            yield due_ns, frame
