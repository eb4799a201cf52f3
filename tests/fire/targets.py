"""What the fuzzer feeds: bytes become a script, the script runs on our code and on a simple model.

Each target raises AssertionError where the two disagree. `fuzz.py` drives them by coverage,
`test_fuzz.py` by the stored corpus and by Hypothesis.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from dataclasses import replace
from typing import TYPE_CHECKING

from etltd import wire
from etltd.broadcast import Batch, Piece
from etltd.config import Config
from etltd.outbox import HEAD_PIECES, Outbox, rest
from etltd.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from etltd.connection import Connection

LONGEST_SCRIPT = 100  # steps; a longer script finds nothing that a shorter one does not


class Script:
    """Reads small numbers and short strings from fuzzed bytes; nought when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def steps(self) -> Iterator[int]:
        for _ in range(LONGEST_SCRIPT):
            if self._at >= len(self._data):
                return
            yield self.byte()


# -- the wire decoder -----------------------------------------------------------------------------


def decoder(data: bytes) -> None:
    """Check that chunks of a stream give what its lines, cut at once, say they must."""
    script = Script(data)
    limit = 2 + script.byte() % 32
    made = wire.LineDecoder(limit)
    stream, blocks, count, too_long = b"", b"", 0, 0
    for size in script.steps():
        chunk = script.take(size)
        block, lines, refused = made.feed(chunk)
        assert lines == block.count(b"\n")
        assert not block or block.endswith(b"\n")
        _check_prefixes(block, lines)
        stream, blocks = stream + chunk, blocks + block
        count, too_long = count + lines, too_long + refused
        assert len(made._tail) < limit, "a partial line is not bounded"
    *whole, tail = stream.split(b"\n")
    fitting = [line + b"\n" for line in whole if len(line) < limit]
    assert blocks == b"".join(fitting)
    assert count == len(fitting)
    assert too_long == len(whole) - len(fitting) + (len(tail) >= limit)
    assert made.end() == (0 < len(tail) < limit)
    assert not made.end()


def _check_prefixes(block: bytes, lines: int) -> None:
    if not lines:
        return
    prefix = wire.prefix(7)
    cut = block.splitlines(keepends=True) if b"\r" not in block else None
    each = cut or [line + b"\n" for line in block.split(b"\n")[:-1]]
    if all(line.count(b"\n") == 1 for line in each):
        assert wire.prefixed(prefix, block, lines) == b"".join(prefix + line for line in each)
    for some in (0, 1, lines // 2, lines):
        kept = [line + b"\n" for line in block.split(b"\n")[:some]]
        assert wire.first_lines(block, some) == b"".join(kept)


# -- the outbox -----------------------------------------------------------------------------------


def outbox(data: bytes) -> None:
    """Check that under any schedule of short writes what comes out is what went in."""
    script = Script(data)
    made = Outbox()
    owed, ends = b"", []  # the model: the bytes, and where each message among them ends
    for step in script.steps():
        if step % 3:
            pieces = _pieces(script, step)
            for piece in pieces:
                if piece.messages:
                    ends += [len(owed) + end for end in _line_ends(bytes(piece.data))]
                owed += bytes(piece.data)
            made.push(pieces)
        else:
            sent = (script.byte() << 8 | script.byte()) % (1 + sum(map(len, made.head())))
            _check_rest(made, owed, sent)
            finished = made.advance(sent)
            assert finished == sum(end <= sent for end in ends)
            owed, ends = owed[sent:], [end - sent for end in ends if end > sent]
        head = b"".join(made.head())
        assert owed.startswith(head)
        assert len(made.head()) <= HEAD_PIECES
        assert bool(head) == bool(owed) == bool(made)
        assert (made.size, made.messages) == (len(owed), len(ends))


def _line_ends(data: bytes) -> list[int]:
    return [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]


def _pieces(script: Script, step: int) -> list[Piece]:
    """Return pieces as the daemon makes them: a notice, or the views around a sender's lines."""
    lines = [
        b"x" * (script.byte() % 64 * (1 + step % 2 * 40)) + b"\n"
        for _ in range(1 + script.byte() % 5)
    ]
    if step % 7 == 1:
        return [Piece(b"".join(lines), 0)]
    shared = b"".join(lines)
    if step % 7 == 2:
        return [Piece(shared, len(lines))]
    first = script.byte() % (len(lines) + 1)
    last = first + script.byte() % (len(lines) + 1 - first)
    view = memoryview(shared)
    around = (
        Piece(view[: len(b"".join(lines[:first]))], first),
        Piece(view[len(b"".join(lines[:last])) :], len(lines) - last),
    )
    return [piece for piece in around if piece.messages]


def _check_rest(made: Outbox, owed: bytes, sent: int) -> None:
    pieces = list(made._pieces)
    left = rest(pieces, sent)
    assert b"".join(piece.data for piece in left) == owed[sent:]
    assert all(len(piece.data) for piece in left)


# -- the batch ------------------------------------------------------------------------------------


def batch(data: bytes) -> None:
    """Check the views of a tick's messages against a list of who said what."""
    script = Script(data)
    made = Batch()
    said: list[tuple[int, bytes]] = []
    for step in script.steps():
        sender = 1 + step % 6
        lines = [
            bytes(script.take(script.byte() % 9)).replace(b"\n", b"_") + b"\n"
            for _ in range(1 + step // 6 % 4)
        ]
        again = any(who == sender for who, _ in said) and said[-1][0] != sender
        try:
            made.add(sender, b"".join(lines), len(lines))
        except ValueError:
            assert again, "refused, though its lines would stand together"
        else:
            assert not again, "a sender's lines are torn apart"
            said += [(sender, line) for line in lines]
    made.seal()
    assert made.shared == b"".join(line for _, line in said)
    assert (made.size, made.messages) == (len(made.shared), len(said))
    for sender in {who for who, _ in said}:
        _check_pieces(made.without(sender), [line for who, line in said if who != sender])
    singles = list(made.single_messages())
    assert [(next(iter(one.spans)), one.shared) for one in singles] == said


def _check_pieces(pieces: list[Piece], lines: list[bytes]) -> None:
    assert b"".join(piece.data for piece in pieces) == b"".join(lines)
    assert sum(piece.messages for piece in pieces) == len(lines)
    assert all(bytes(piece.data).count(b"\n") == piece.messages > 0 for piece in pieces)


# -- the reactor, in both modes -------------------------------------------------------------------

PEERS = 3
LONGEST_LINE = 40
KNOBS: tuple[dict[str, object], ...] = (
    {},
    {"recv_bytes": 7, "reads_per_event": 16},
    {"recv_bytes": 5, "reads_per_event": 2},
    {"recv_bytes": 16, "drain": "short-read", "reads_per_event": 3},
    {"max_events": 1},
    {"fan_out": "message"},
)


def modes(data: bytes) -> None:
    """Check that both modes tell every peer the same bytes, and that they are the model's.

    Everything said is read before the next thing is said, so there is one right answer; what a
    peer hears, how slowly, and in which pieces the kernel takes it, is the script's choice.
    """
    script = Script(data)
    knobs = KNOBS[script.byte() % len(KNOBS)]
    rest_of_script = data[1:]
    heard = [_play(mode, knobs, Script(rest_of_script)) for mode in ("lt", "et")]
    assert heard[0] == heard[1], "the modes differ"


def _play(mode: str, knobs: dict[str, object], script: Script) -> list[bytes]:
    stage = _Stage(mode, knobs)
    try:
        for step in script.steps():
            stage.act(step % 8, step // 8 % PEERS, script)
        return stage.end()
    finally:
        stage.close()


class _Stage:
    """A reactor with three peers on socket pairs, and the model of what each must hear."""

    def __init__(self, mode: str, knobs: dict[str, object]) -> None:
        config = replace(
            Config(),
            mode=mode,
            max_line_bytes=LONGEST_LINE,
            high_water_bytes=1 << 30,  # what is dropped depends on when the kernel takes how much
            **knobs,  # type: ignore[arg-type]
        )
        self.reactor = Reactor(config, 1000)
        self.here: list[socket.socket] = []
        self.conns: list[Connection] = []
        self.said = [b""] * PEERS
        self.open = [True] * PEERS  # may still speak
        self.there = [True] * PEERS  # still listens
        self.heard = [bytearray() for _ in range(PEERS)]
        self.owed = [bytearray() for _ in range(PEERS)]
        for _ in range(PEERS):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
            conn = self.reactor.roster.admit(theirs, "", now_ns=0)
            assert conn is not None
            self.reactor.watch(conn)
            self.here.append(ours)
            self.conns.append(conn)

    def act(self, action: int, who: int, script: Script) -> None:
        match action:
            case 0 | 1 | 2:
                self._say(who, script.take(script.byte() % 64))
            case 3:
                self._say(who, (b"y" * 30 + b"\n") * (1 + script.byte()))
            case 4:
                self._hear(who, 1 + script.byte())
            case 5 if self.open[who]:
                self.open[who] = False
                self.here[who].shutdown(socket.SHUT_WR)
                self._tick_until_read()
            case 6 if self.there[who]:
                self.there[who] = self.open[who] = False
                self.here[who].close()
                self._tick_until_read()
            case _:
                self.reactor.tick(0)

    def _say(self, who: int, data: bytes) -> None:
        if not self.open[who] or not data:
            return
        before = self._lines(who)
        sent = self.here[who].send(data)
        self.said[who] += data[:sent]
        lines = self._lines(who)[len(before) :]
        block = b"".join(b"[USER%d] %b\n" % (who + 1, line) for line in lines)
        for other in range(PEERS):
            if other != who and self.there[other]:
                self.owed[other] += block
        too_long = self._too_long(who)
        self._tick_until_read()
        assert self.reactor.stats.messages_discarded["too_long"] >= too_long

    def _lines(self, who: int) -> list[bytes]:
        return [line for line in self.said[who].split(b"\n")[:-1] if len(line) < LONGEST_LINE]

    def _too_long(self, who: int) -> int:
        *lines, tail = self.said[who].split(b"\n")
        return sum(len(line) >= LONGEST_LINE for line in [*lines, tail])

    def _tick_until_read(self) -> None:
        """Tick until the reactor has nothing left to take in (a socket pair has no way between)."""
        for _ in range(10_000):
            events = self.reactor.tick(0)
            if not events and not any(map(_unread, self.conns)):
                self._check_ledger()
                return
        raise AssertionError("something said was never read")

    def _check_ledger(self) -> None:
        stats = self.reactor.stats
        dropped = sum(stats.messages_dropped.values())
        assert stats.messages_enqueued == stats.messages_delivered + dropped + stats.outbox_messages

    def _hear(self, who: int, size: int) -> bool:
        if not self.there[who]:
            return False
        try:
            data = self.here[who].recv(size)
        except (BlockingIOError, ConnectionResetError):
            return False
        self.heard[who] += data
        return bool(data)

    def end(self) -> list[bytes]:
        """Let everybody who is there hear all they are owed; return it without the notices."""
        for _ in range(20_000):
            self.reactor.tick(0)
            moved = [self._hear(who, 1 << 16) for who in range(PEERS)]
            if not any(moved) and not self.reactor.stats.outbox_bytes:
                break
        else:
            raise AssertionError("what is owed never went out")
        self._check_ledger()
        for who in range(PEERS):
            if self.there[who]:
                told, notices = _without_notices(bytes(self.heard[who]))
                assert told == bytes(self.owed[who])
                assert notices == self._too_long(who), "told of every too long line, once"
        return [bytes(heard) for who, heard in enumerate(self.heard) if self.there[who]]

    def close(self) -> None:
        self.reactor.close()
        for sock in self.here:
            sock.close()


def _unread(conn: Connection) -> int:
    """Return the bytes that wait for the reactor to read them (FIONREAD)."""
    if conn.close_reason is not None or not conn.wants_read:
        return 0
    (size,) = struct.unpack("i", fcntl.ioctl(conn.sock, termios.FIONREAD, b"\0" * 4))
    return int(size)


def _without_notices(heard: bytes) -> tuple[bytes, int]:
    *lines, tail = heard.split(b"\n")
    assert tail == b"", "a torn line"
    kept = [line + b"\n" for line in lines if line + b"\n" != wire.LINE_TOO_LONG]
    return b"".join(kept), len(lines) - len(kept)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "outbox": outbox,
    "batch": batch,
    "modes": modes,
}
