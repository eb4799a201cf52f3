"""Loss, duplication and reordering, sender by sender, from the numbers that messages carry. Pure.

Byte counts cannot see two faults that cancel out; these can. Under ``--verify sampled`` only the
marked messages are looked at, under ``full`` every line is.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from loadclient.pacing import first_marked
from loadclient.payload import SEQUENCE_MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NEVER = 1 << 62  # a round that no run reaches
MAX_HOLES = 100_000  # remembered gaps; beyond it a late arrival counts as a duplicate


class Sequences:
    """Follows the numbers of each sender at each receiver: lost, duplicated, reordered, damaged.

    Only every *interval*-th message is looked at (1 when every line is parsed), so a gap is counted
    in messages that were to be seen. Cost: 8 bytes per pair of sender and receiver.
    """

    __slots__ = ("_first_row", "_holes", "_interval", "_rows", "_senders", "damaged", "duplicated",
                 "lost", "reordered", "seen")  # fmt: skip

    def __init__(self, senders: int, interval: int) -> None:
        self._senders = senders
        self._interval = interval
        self._first_row = array("q", first_rounds(senders, interval))
        self._rows: dict[int, array[int]] = {}
        self._holes: set[tuple[int, int, int]] = set()
        self.seen = 0
        self.lost = 0
        self.duplicated = 0
        self.reordered = 0
        self.damaged = 0

    def see(self, receiver: int, messages: Iterable[tuple[int, ...]]) -> None:
        """Account for what *receiver* got; *messages* begin with sender and sequence (it wraps)."""
        row = self._rows.get(receiver)
        if row is None:
            row = self._rows[receiver] = self._first_row[:]
        senders, interval = self._senders, self._interval
        for message in messages:
            sender = message[0]
            if sender >= senders:
                self.damaged += 1
                continue
            self.seen += 1
            expected = row[sender]
            ahead = (message[1] - expected) & SEQUENCE_MASK
            if not ahead:
                row[sender] = expected + interval
            elif ahead <= SEQUENCE_MASK >> 1:
                self._gap(receiver, sender, row, ahead)
            else:
                self._late(receiver, sender, expected - (-ahead & SEQUENCE_MASK))

    def next_rounds(self, receiver: int) -> Sequence[int]:
        """Return, by sender, the round of the next message that *receiver* should see of it."""
        return self._rows.get(receiver, self._first_row)

    def look_into(self, receiver: int, sender: int, sequence: int) -> None:
        """Judge a message picked at random, of the kind that is only counted by its bytes.

        One that comes after a later message of its sender was overtaken: by the messages that are
        always looked at, which is how a server would favour those.
        """
        row = self._rows.get(receiver)
        if sender >= self._senders:
            self.damaged += 1
        elif row is not None and row[sender] > self._first_row[sender]:
            behind = (row[sender] - self._interval - sequence) & SEQUENCE_MASK
            self.reordered += 0 < behind <= SEQUENCE_MASK >> 1

    def _gap(self, receiver: int, sender: int, row: array[int], ahead: int) -> None:
        missing, odd = divmod(ahead, self._interval)
        if odd:  # a number that this sender never marks
            self.damaged += 1
            return
        expected = row[sender]
        self.lost += missing
        room = max(0, MAX_HOLES - len(self._holes))
        self._holes.update(
            (receiver, sender, expected + n * self._interval) for n in range(min(missing, room))
        )
        row[sender] = expected + ahead + self._interval

    def _late(self, receiver: int, sender: int, sequence: int) -> None:
        hole = (receiver, sender, sequence)
        if hole in self._holes:
            self._holes.remove(hole)
            self.lost -= 1
            self.reordered += 1
        else:
            self.duplicated += 1


def first_rounds(senders: int, interval: int) -> Sequence[int]:
    """Return every sender's first marked round: it grows by the same step from one to the next."""
    step = first_marked(1, senders=senders, interval=interval)
    return [number * step % interval for number in range(senders)]


def censored(
    sequences: Sequences,
    readers: Iterable[tuple[int, int | None]],
    *,
    interval: int,
    said: Sequence[int],
    when: Callable[[int, int], int],
) -> tuple[int, int | None]:
    """Count the marked messages that had not come when the run ended.

    They have no latency, only an age: leaving them out would call the slowest ones fast. *readers*
    are the receivers' numbers with their own sender number, *said* is how many messages each sender
    has sent, and *when* tells when one of them was due. Return the count, and when the oldest was.

    At 6,000 connections there are 36 million pairs, and nearly always nothing is missing: what has
    everything is passed over at the speed of `min`.
    """
    firsts = first_rounds(len(said), interval)
    most = max(said, default=0)
    count = 0
    oldest: int | None = None
    for receiver, own in readers:
        row = sequences.next_rounds(receiver)
        if _lowest(row, own) >= most:
            continue
        for sender, (following, first, end) in enumerate(zip(row, firsts, said, strict=True)):
            if following >= end or sender == own:
                continue
            unseen = first - (first - following) // interval * interval
            if unseen >= end:
                continue
            count += -(-(end - unseen) // interval)
            due = when(unseen, sender)
            oldest = due if oldest is None else min(oldest, due)
    return count, oldest


def _lowest(row: Sequence[int], own: int | None) -> int:
    """Return the smallest of *row* without that of *own*, whom nobody lets hear itself."""
    if own is None:
        return min(row)
    return min(min(row[:own], default=NEVER), min(row[own + 1 :], default=NEVER))
