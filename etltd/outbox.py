"""Bytes owed to one peer because its socket would not take them yet; sans-IO.

Pieces are views of shared batches, so a thousand slow peers hold one copy of what they all miss.
A view keeps its whole batch in memory, though: a peer that is owed little of a batch (because it
said most of it) gets a copy of that little, so that what is kept is never more than twice what is
owed. Short pieces are merged for the same reason: kept one by one, a line of ten bytes would cost
some three hundred. So a high water in bytes owed bounds memory, too.
What comes out is what went in, under any schedule of short writes. A message counts as delivered
when its last byte is out, hence `advance` says how many lines it finished.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from etltd.broadcast import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

MERGED_BYTES = 4096  # of short pieces in one: the cost of a piece is then under a tenth of it
HEAD_PIECES = 64  # iovecs per sendmsg: far under IOV_MAX (1024), enough for any usual backlog


def newlines(data: bytes | memoryview) -> int:
    """Count the lines that end in *data*."""
    return bytes(data).count(b"\n")


def rest(pieces: Iterable[Piece], sent: int) -> list[Piece]:
    """Return what is left of *pieces* after their first *sent* bytes."""
    left = []
    for piece in pieces:
        size = len(piece.data)
        if sent >= size:
            sent -= size
        elif sent:
            left.append(_cut(piece, sent))
            sent = 0
        else:
            left.append(piece)
    return left


def _cut(piece: Piece, sent: int) -> Piece:
    data = memoryview(piece.data)  # a view: no copy
    finished = newlines(data[:sent]) if piece.messages else 0  # a notice is no message
    return Piece(data[sent:], piece.messages - finished)


def _thrifty(pieces: list[Piece]) -> list[Piece]:
    """Return *pieces* as they are, or copied if their views would keep more than twice as much."""
    owed = sum(len(piece.data) for piece in pieces)
    kept = max((_kept(piece.data) for piece in pieces), default=0)
    if kept <= 2 * owed:
        return pieces
    return [Piece(bytes(piece.data), piece.messages) for piece in pieces]


def _can_merge(last: Piece, piece: Piece) -> bool:
    """Tell whether both are short, and both messages or both notices: one kind counts."""
    short = len(last.data) + len(piece.data) <= MERGED_BYTES
    return short and bool(last.messages) == bool(piece.messages)


def _kept(data: bytes | memoryview) -> int:
    """Count the bytes that *data* keeps in memory."""
    return memoryview(data.obj).nbytes if isinstance(data, memoryview) else len(data)


class Outbox:
    """A byte queue that knows how many messages it still owes."""

    __slots__ = ("_pieces", "messages", "size")

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self.size = 0
        self.messages = 0

    def __bool__(self) -> bool:
        """Whether anything is owed."""
        return self.size > 0

    def push(self, pieces: list[Piece]) -> None:
        """Owe *pieces*, which are views of one batch if of any, after all that is owed already."""
        for piece in _thrifty(pieces):
            if self._pieces and _can_merge(self._pieces[-1], piece):
                last = self._pieces.pop()
                merged = b"".join((last.data, piece.data))
                self._pieces.append(Piece(merged, last.messages + piece.messages))
            else:
                self._pieces.append(piece)
            self.size += len(piece.data)
            self.messages += piece.messages

    def pieces(self) -> list[Piece]:
        """Return all that is owed, in order."""
        return list(self._pieces)

    def resume(self, pieces: list[Piece]) -> None:
        """Owe *pieces* of another outbox as they are: what others are owed, too, stays shared.

        What was cut by short writes keeps its whole batch, which all have in common; a copy each,
        as in `push`, would multiply it.
        """
        self._pieces.extend(pieces)
        self.size += sum(len(piece.data) for piece in pieces)
        self.messages += sum(piece.messages for piece in pieces)

    def head(self) -> list[bytes | memoryview]:
        """Return the buffers to offer to the next sendmsg; tell `advance` what it took."""
        if len(self._pieces) <= HEAD_PIECES:
            return [piece.data for piece in self._pieces]
        return [self._pieces[i].data for i in range(HEAD_PIECES)]

    def advance(self, sent: int) -> int:
        """Forget *sent* bytes, the kernel has them now; return how many messages that finished."""
        before = self.messages
        self.size -= sent
        while sent:
            piece = self._pieces.popleft()
            if len(piece.data) > sent:  # a short write inside a piece
                left = _cut(piece, sent)
                self._pieces.appendleft(left)
                self.messages -= piece.messages - left.messages
                break
            sent -= len(piece.data)
            self.messages -= piece.messages
        return before - self.messages
