r"""Makes sense of received bytes: marks, notices, hellos; every line under ``--verify full``.

Rule: nothing here runs per message unless every line is to be parsed, and no line is read twice
(`Known`). The fleet counts bytes and seeks the byte ``e``; only what that finds comes here. What a
`recv` cut in two waits in the peer's `tail` and is put before the next bytes in the shared buffer,
so big chunks are never joined.

A server may have a name and put it into its prefixes, ``[USERn@name] ``. If one of those that the
scouts heard holds an ``e``, and until they have, it is sought where a line or a message begins: by
two searches of two and three bytes, which take many times as long as one for a byte.

Marked messages can be told from others, so a server could treat them better. Now and then, at
random, the fleet has a whole buffer looked into (`spot_check`): for contents, names and order.

Damaged input is counted, never raised: the server under test wrote it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, TypeVar

from loadclient.histogram import Histogram
from loadclient.ledger import Profile
from loadclient.payload import (
    MARK,
    NOTICE_SECOND_BYTE,
    Mark,
    Payloads,
    latency_ns,
    read_hello,
)
from loadclient.sequences import Sequences
from loadclient.stationarity import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loadclient.peer import Peer

BUFFER_BYTES = 64 * 1024  # the knee of cost per byte; more makes turns long when we are behind
LONGEST_PREFIX = 64  # more than a prefix with a name in it
LONGEST_NOTICE = 256  # more than any notice, less than a buffer
NOTICE = b"[etltd] "
DROPPED = re.compile(rb"\[etltd\] (\d+) messages dropped\n")
TOO_LONG = b"[etltd] line too long, discarded\n"
RATE_LIMITED = re.compile(rb"\[etltd\] rate limited, (\d+) messages dropped\n")
SPOT_LINES = 32  # of one buffer, so that a look takes 50 us
MARK_BYTE = MARK[0]
PREFIX_BYTE = ord("[")  # in no message of ours, so where it stands a line begins
KNOWN_LINES, KNOWN_MARKS = 4096, 256  # under way at one moment; more would not stay in a cache
KNOWN_BYTES = 1 << 20  # of either, at most

Found = TypeVar("Found")


class Known(dict[bytes, Found]):
    """What was read in intact lines, since every line comes to all receivers, byte for byte.

    Every copy is still compared, whole; one that differs anywhere is read for itself. With 200
    receivers and every line parsed, a copy costs 0.35 of the CPU that it took to read it anew.
    """

    __slots__ = ("_most", "_read")

    def __init__(self, read: Callable[[bytes], Found | None], most: int, longest: int) -> None:
        super().__init__()
        self._read = read
        self._most = max(1, min(most, KNOWN_BYTES // longest))

    def __missing__(self, line: bytes) -> Found | None:
        found = self._read(line)
        if found is not None:  # a damaged line may be of any length, and is rare
            if len(self) >= self._most:
                self.clear()
            self[line] = found
        return found


def _nothing(_line: bytes) -> None:
    """Read a mark where nobody sends any."""


class Receiver:
    """Reads what peers received in one shared buffer."""

    def __init__(self, payloads: Payloads, *, senders: int, interval: int, full: bool) -> None:
        self._payloads = payloads
        self._senders = senders
        self._interval = interval
        self._full = full
        self.buffer = bytearray(max(BUFFER_BYTES, 4 * payloads.longest))
        self._view = memoryview(self.buffer)
        self.is_scouting = False
        self.seek: Callable[[int, int], int] = self._seek_after_names
        self._prefix_by_sender: dict[int, bytes] = {}
        self.prefix_bytes: dict[int, int] = {}
        read_marked = payloads.read_marked if interval else _nothing
        self._known_marks = Known(read_marked, KNOWN_MARKS, payloads.longest)
        self._known_lines = Known(self._read_line, KNOWN_LINES, payloads.longest)
        self.notice = ""
        self.forget()

    def forget(self) -> None:
        """Start a phase with empty counts."""
        self.corrected = Histogram()
        self.uncorrected = Histogram()
        self.windows = Windows()
        self.too_long: Counter[int] = Counter()  # by the peer whose messages were refused
        self.rate_limited: Counter[int] = Counter()
        self.sequences = Sequences(self._senders, 1 if self._full else max(1, self._interval))

    def scout(self, peers: Iterable[Peer], scouts: int) -> None:
        """Let the first *scouts* of *peers* listen for hellos."""
        self.is_scouting = True
        for number, peer in enumerate(peers):
            peer.tail = b"" if number < scouts else None

    def measure(self, peers: Iterable[Peer]) -> None:
        """Let all of *peers* look for marks, or read every line."""
        self.is_scouting = False
        if not any(MARK in prefix for prefix in self._prefix_by_sender.values()):
            self.seek = partial(self.buffer.find, MARK)
        for peer in peers:
            peer.tail = b"" if self._full else None

    def take(self, peer: Peer, limit: int = BUFFER_BYTES) -> int:
        """Read once from *peer*, after what is left of its last line; return what `recv` did.

        Raises what `recv` raises.
        """
        tail = peer.tail or b""
        start = len(tail)
        self.buffer[:start] = tail
        n = peer.recv_into(self._view[start : start + limit])
        if not n:
            return 0
        peer.received += n
        end = start + n
        if peer.tail is not None and (self.is_scouting or self._full):
            self._read_lines(peer, end)
            return n
        peer.tail = None
        at = self.seek(0, end)
        if at >= 0:
            self.inspect(peer, at, end)
        return n

    def _seek_after_names(self, start: int, end: int) -> int:
        """Return where a line begins that is marked, or a notice, or cut before one can tell."""
        buffer = self.buffer
        marked = buffer.find(b"] e", start, end)
        notice = buffer.find(b"[e", start, end if marked < 0 else marked)
        if notice >= 0:
            return notice
        if marked >= 0:
            first = buffer.rfind(b"[", start, marked)
            return marked if first < 0 else first
        last = buffer.rfind(b"[", max(start, end - LONGEST_PREFIX), end)
        return last if buffer.find(b"] ", last, end - 1) < 0 else -1

    def _letter(self, at: int, end: int) -> int:
        """Return where the ``e`` is of what `seek` found *at*; *end* if it has not come yet."""
        if self.buffer[at] == MARK_BYTE:
            return at
        if self.buffer[at + 1 : at + 2] == MARK:
            return at + 1
        closed = self.buffer.find(b"] e", at, end)
        return end if closed < 0 else closed + 2

    def inspect(self, peer: Peer, at: int, end: int) -> None:
        """Look into every marked message and notice of ``buffer[at:end]``; `seek` found *at*."""
        now_ns = monotonic_ns()
        buffer, seek, known = self.buffer, self.seek, self._known_marks
        size_of = self._payloads.marked_bytes
        marks: list[Mark] = []
        while at >= 0:
            letter = at if buffer[at] == MARK_BYTE else self._letter(at, end)
            if letter + 1 < end and buffer[letter + 1] != NOTICE_SECOND_BYTE:
                after = letter + size_of(buffer, letter, end)
                if after <= end:
                    mark = known[bytes(buffer[letter:after])]
                    if mark:
                        marks.append(mark)
                    else:
                        self.sequences.damaged += 1
                        after = letter + 1
            else:
                after = buffer.find(b"\n", letter, end) + 1
                if after:
                    self._notice(peer, b"[" + buffer[letter:after])
                elif end - letter < LONGEST_NOTICE:
                    after = end + 1
                else:  # a line without an end
                    self.sequences.damaged += 1
                    after = letter + 1
            if after > end:
                peer.tail = bytes(self._view[at:end])
                break
            at = seek(after, end)
        if marks:
            self.sequences.see(peer.index, marks)
            self._sample(peer, marks, now_ns)

    def _sample(self, peer: Peer, marks: Iterable[Mark], now_ns: int) -> None:
        """Record latencies, unless the delay is a slow reader's own."""
        if peer.profile is not Profile.READER:
            return
        clock_ns = now_ns + self._payloads.clock_ns
        for _, _, due, lag_ns in marks:
            latency = latency_ns(due, clock_ns)
            self.corrected.record(latency)
            self.windows.record(now_ns - latency, latency)
            self.uncorrected.record(latency - lag_ns)

    @property
    def marks(self) -> int:
        """Latency samples of the phase."""
        return self.corrected.count

    def _notice(self, peer: Peer, line: bytes) -> None:
        if not line.startswith(NOTICE):
            self.sequences.damaged += 1
            return
        peer.notice_bytes += len(line)
        if dropped := DROPPED.fullmatch(line):
            peer.announced += int(dropped[1])
            return
        if limited := RATE_LIMITED.fullmatch(line):
            self.rate_limited[peer.index] += int(limited[1])
        elif line == TOO_LONG:
            self.too_long[peer.index] += 1
        self.notice = line.decode("ascii", "replace").strip()

    def refused(self, peer: Peer) -> int:
        """Return how many of *peer*'s messages the server said that it would not deliver."""
        return self.too_long[peer.index] + self.rate_limited[peer.index]

    def _read_lines(self, peer: Peer, end: int) -> None:
        """Read whole lines of ``buffer[:end]`` and keep the rest."""
        now_ns = monotonic_ns()
        *lines, rest = bytes(self._view[:end]).split(b"\n")
        if len(rest) > len(self.buffer) // 2:  # a line without an end
            self.sequences.damaged += 1
            rest = b""
        peer.tail = rest
        known = self._known_lines
        messages: list[tuple[int, int]] = []
        marks: list[Mark] = []
        scouting = self.is_scouting
        for line in lines:
            found = None if scouting else known[line]
            if found:
                message, mark = found
                messages.append(message)
                if mark:
                    marks.append(mark)
            elif line.startswith(NOTICE):
                self._notice(peer, line + b"\n")
            elif scouting:
                self._hello(line)
            else:
                self.sequences.damaged += 1
        if messages:
            self.sequences.see(peer.index, messages)
            self._sample(peer, marks, now_ns)

    def _hello(self, line: bytes) -> None:
        heard = read_hello(line)
        if heard is not None:
            sender, prefix_bytes = heard
            self.prefix_bytes[sender] = prefix_bytes
            self._prefix_by_sender.setdefault(sender, line[:prefix_bytes])

    def _read_line(self, line: bytes) -> tuple[tuple[int, int], Mark | None] | None:
        """Return sender and sequence of an intact message, and its mark if it has one."""
        if line.startswith(NOTICE):
            return None
        start = line.find(b"] ") + 2
        message = line[start:] + b"\n"
        mark = None
        if message[0] == MARK_BYTE:
            mark = self._payloads.read_marked(message)
            found = mark and mark[:2]
        else:
            found = self._payloads.read_plain(message)
        if found is None or not self._is_named_so(found[0], line[:start]):
            return None
        return found, mark

    def _is_named_so(self, sender: int, prefix: bytes) -> bool:
        """Tell whether *prefix* is what the server put before *sender*'s hello.

        Only a lone reader that is its own scout has not heard one; then the first line counts.
        """
        return self._prefix_by_sender.setdefault(sender, prefix) == prefix

    @property
    def spots_needed(self) -> bool:
        """Tell whether there are lines that nobody reads, though they carry numbers."""
        return not self._full and not self.is_scouting and self._payloads.has_sequence

    def spot_check(self, peer: Peer, end: int) -> None:
        """Look into some whole lines of ``buffer[:end]`` that are not marked.

        Call it before `inspect`, so that no mark behind a line has been seen before it.
        """
        start = 0 if self.buffer[0] == PREFIX_BYTE else self.buffer.find(b"\n", 0, end) + 1
        lines = bytes(self._view[start:end]).split(b"\n", SPOT_LINES)
        for line in lines[:-1]:
            if line.startswith(NOTICE):
                continue
            at = line.find(b"] ") + 2
            if line[at : at + 1] == MARK:  # every one of these is looked at anyway
                continue
            found = self._payloads.read_plain(line[at:] + b"\n")
            if found is None or not self._is_named_so(found[0], line[:at]):
                self.sequences.damaged += 1
            else:
                self.sequences.look_into(peer.index, *found)
