r"""What a message carries, and how a receiver finds the few it looks into.

Rule: the byte ``e`` occurs in marked messages and in the server's ``[etltd] `` notices and nowhere
else but in an instance's name. One memchr over whatever `recv` brought finds both; everything else
is counted by its length.

    plain    SSSSSQQQQQQ.......\n                          sender, sequence, filler
    marked   eSSSSSQQQQQQTTTTTTTTTTTLLLLLLLL.......\n      ... due time, lag in microseconds
    hello    HELLO SSSSS\n                                 tells receivers the sender's prefix

All numbers are upper-case hexadecimal and wrap: the sequence at 2**24, the due time (nanoseconds of
CLOCK_MONOTONIC) at 2**44, which is 4.9 hours and far above any latency. The framing is this
package's own on purpose: a witness that shares the suspect's code cannot see the suspect's bugs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from loadclient.voices import Voices

MARK = b"e"
NOTICE_SECOND_BYTE = ord("t")  # "[etltd] ": no marked message has t after its mark
SEQUENCE_BYTES = 12  # the shortest message that carries a sequence number
SAMPLE_BYTES = 32  # the shortest message that can be a latency sample
MAX_SENDERS = 1 << 20
SEQUENCE_MASK = (1 << 24) - 1
TIME_MASK = (1 << 44) - 1
LAG_MASK = (1 << 32) - 1
HELLO = b"HELLO "


class Mark(NamedTuple):
    """What a marked message says of itself; *due* still wraps at 2**44."""

    sender: int
    sequence: int
    due: int
    lag_ns: int


class Payload:
    """Builds messages of exactly *size* bytes, newline included."""

    __slots__ = ("_filler", "_marked_filler", "clock_ns", "has_samples", "has_sequence", "size")

    def __init__(self, size: int, clock_ns: int = 0) -> None:
        """Build messages of *size*; *clock_ns* makes our times ones that other hosts know."""
        self.size = size
        self.clock_ns = clock_ns
        self.has_sequence = size >= SEQUENCE_BYTES
        self.has_samples = size >= SAMPLE_BYTES
        self._filler = b"." * (size - (SEQUENCE_BYTES if self.has_sequence else 1)) + b"\n"
        self._marked_filler = b"." * (size - SAMPLE_BYTES) + b"\n"

    def plain(self, sender: int, sequence: int) -> bytes:
        """Return an ordinary message; too short for numbers, it is filler."""
        if not self.has_sequence:
            return self._filler
        return b"%05X%06X%s" % (sender, sequence & SEQUENCE_MASK, self._filler)

    def marked(self, sender: int, sequence: int, due_ns: int, now_ns: int) -> bytes:
        """Return a latency sample: due at *due_ns*, really sent at *now_ns*."""
        return b"e%05X%06X%011X%08X%s" % (
            sender,
            sequence & SEQUENCE_MASK,
            (due_ns + self.clock_ns) & TIME_MASK,
            min((now_ns - due_ns) // 1000, LAG_MASK),
            self._marked_filler,
        )

    def read_plain(self, line: bytes) -> tuple[int, int] | None:
        """Return sender and sequence of a whole plain message; None if it is not intact."""
        if len(line) != self.size or line[11:] != self._filler:
            return None
        number = _hexadecimal(line[:11])
        return None if number is None else (number >> 24, number & SEQUENCE_MASK)

    def read_marked(self, line: bytes) -> Mark | None:
        """Return what a whole marked message says; None if it is not intact."""
        if len(line) != self.size or line[31:] != self._marked_filler:
            return None
        number = _hexadecimal(line[1:31])
        if number is None:
            return None
        return Mark(
            number >> 100,
            number >> 76 & SEQUENCE_MASK,
            number >> 32 & TIME_MASK,
            (number & LAG_MASK) * 1000,
        )


class Payloads:
    """The payloads of all senders: who sent a line says how long it must be."""

    __slots__ = ("_by_size", "_only", "_voices", "clock_ns", "has_samples", "has_sequence",
                 "longest")  # fmt: skip

    def __init__(self, voices: Voices, clock_ns: int = 0) -> None:
        self._voices = voices
        self.clock_ns = clock_ns
        self._by_size = {size: Payload(size, clock_ns) for size in voices.sizes}
        shortest, *_ = every = list(self._by_size.values())
        self._only = shortest if len(every) == 1 else None
        self.has_sequence = shortest.has_sequence
        self.has_samples = shortest.has_samples
        self.longest = voices.sizes[-1]

    def of(self, sender: int) -> Payload:
        """Return what *sender* sends."""
        return self._only or self._by_size[self._voices.size(sender)]

    def read_plain(self, line: bytes) -> tuple[int, int] | None:
        """Return sender and sequence of a whole plain message; None if it is not intact."""
        payload = self._only or self._named(line[:5])
        return payload.read_plain(line) if payload else None

    def read_marked(self, line: bytes) -> Mark | None:
        """Return what a whole marked message says; None if it is not intact."""
        payload = self._only or self._named(line[1:6])
        return payload.read_marked(line) if payload else None

    def marked_bytes(self, buffer: bytes | bytearray, at: int, end: int) -> int:
        """Return how long the marked message at *at* is; more than there is if that is not known.

        One that names nobody is damaged: it is as long as any.
        """
        if self._only:
            return self._only.size
        name = bytes(buffer[at + 1 : min(at + 6, end)])
        if len(name) < 5:
            return end - at + 1
        payload = self._named(name)
        return payload.size if payload else SAMPLE_BYTES

    def _named(self, digits: bytes) -> Payload | None:
        sender = _hexadecimal(digits)
        if sender is None or sender >= self._voices.senders:
            return None
        return self._by_size[self._voices.size(sender)]


def hello(sender: int) -> bytes:
    """Return the line by which receivers learn how long *sender*'s prefix is."""
    return b"%s%05X\n" % (HELLO, sender)


def read_hello(line: bytes) -> tuple[int, int] | None:
    """Return the sender and the length of the prefix that the server put before a hello."""
    prefix_bytes = line.find(HELLO)
    if prefix_bytes < 0:
        return None
    number = _hexadecimal(line[prefix_bytes + len(HELLO) :])
    return None if number is None else (number, prefix_bytes)


def latency_ns(due: int, now_ns: int) -> int:
    """Return how long ago *due* was, given that it wraps; 0 if it is ahead of our clock.

    That is possible between two hosts alone, whose clocks differ by more than the way takes.
    """
    latency = (now_ns - due) & TIME_MASK
    return latency if latency <= TIME_MASK >> 1 else 0


def _hexadecimal(digits: bytes) -> int | None:
    """Return the number, or None for what a server must have damaged."""
    if not digits.isalnum():  # int() would take signs, blanks and underscores
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None
