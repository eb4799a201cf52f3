"""A queue between two threads that holds so many bytes and no more; sans-IO.

One thread puts, the other takes. Each count has one writer, and what is held is their difference:
no lock. At the limit an item is refused, whole; who puts it counts it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

ITEM_BYTES = 200  # what an item takes beside its bytes: a flood of empty ones is bounded, too


class Buffer(Generic[T]):
    """Items and their sizes, first in, first out."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._put_bytes = 0  # the putting thread's
        self._taken_bytes = 0  # the taking thread's

    @property
    def held_bytes(self) -> int:
        """What it holds; an estimate to anybody but the two threads."""
        return self._put_bytes - self._taken_bytes

    def __iter__(self) -> Iterator[T]:
        """Yield what it holds now, to anybody."""
        return (item for item, _ in tuple(self._items))

    def put(self, item: T, size: int, *, is_last: bool = False) -> bool:
        """Append *item* of *size* bytes; return whether there was room, as for the last there is.

        An empty buffer takes anything: what is over the limit by itself would never pass.
        """
        size += ITEM_BYTES
        held = self.held_bytes
        if held and held + size > self._limit_bytes and not is_last:
            return False
        self._put_bytes += size
        self._items.append((item, size))
        return True

    def take(self) -> T | None:
        """Return the oldest item, or None."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._taken_bytes += size
        return item
