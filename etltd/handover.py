"""What one daemon hands to its successor, as bytes; sans-IO.

Sockets are kept by their descriptors. Everything else that makes a peer is here: its id, the line
it has begun, what it is still owed, what it has not been told. The counters go along, so that the
ledger holds across.

The format has a number. A successor that does not know it, or that lacks a counter it is handed,
refuses in a sentence before anything was given away: half a state would lose somebody silently.
JSON for what has a shape, raw parts for bytes: nothing that is read here can run anything.
A part that a thousand peers are owed is written once, and shared again by whoever reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from etltd.broadcast import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 2  # change it with anything below; a field that may be missing is a change, too
MAGIC = b"etltd hand-over "
LONGEST_FIRST_LINE = 64
HEADER_BYTES = 8  # length of the JSON, big-endian


class UnfitError(Exception):
    """This is not for us; the message says why."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """How much a rate-limited peer may still say, and what it was refused without being told."""

    tokens: float
    filled_ns: int
    refused: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A connection between two ticks."""

    fd: int
    inode: int  # of the socket: the same wherever the descriptor goes
    id: int
    ip: str
    heard_ns: int  # CLOCK_MONOTONIC, which every process of this machine shares
    wants_read: bool
    ended: bool
    hung_up: int
    withheld: int
    discarding: bool
    bucket: Bucket | None = None
    tail: bytes = b""
    owed: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Port:
    """A listening socket, and the path that goes with it when it is closed."""

    role: str  # chat or metrics
    fd: int
    inode: int
    unlink: str | None = None
    passed: bool = False  # by a service manager, which has it too


@dataclass(frozen=True, slots=True)
class State:
    """All of it."""

    fixed: dict[str, str]  # options that a successor cannot change, by flag
    ports: list[Port]
    peers: list[Peer]
    next_id: int
    counters: dict[str, Any]
    began_ns: int  # when the last tick had ended: the pause runs from here

    @property
    def fds(self) -> list[int]:
        """Every socket's descriptor."""
        return [port.fd for port in self.ports] + [peer.fd for peer in self.peers]


class _Parts:
    """Raw bytes, each kept once however many refer to it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._number_of: dict[int, int] = {}  # id of the object, which `parts` keeps alive

    def refer(self, data: bytes | memoryview) -> tuple[int, int, int]:
        """Return where *data* is: part, start, length.

        A view does not say where in its batch it stands, but what is left of a batch is nearly
        always its end or its beginning, and equal bytes are as good.
        """
        if isinstance(data, memoryview):
            base = data.obj
            if isinstance(base, bytes):
                if base.endswith(data):
                    return self._number(base), len(base) - len(data), len(data)
                if base.startswith(data):
                    return self._number(base), 0, len(data)
            data = bytes(data)
        return self._number(data), 0, len(data)

    def _number(self, data: bytes) -> int:
        number = self._number_of.setdefault(id(data), len(self.parts))
        if number == len(self.parts):
            self.parts.append(data)
        return number


def encode(state: State) -> Iterable[bytes]:
    """Return what to write, in order: a few short pieces, then the parts as they are."""
    parts = _Parts()
    peers = [_peer_to_row(peer, parts) for peer in state.peers]
    header = json.dumps(
        {
            "fixed": state.fixed,
            "ports": [_port_to_row(port) for port in state.ports],
            "peers": peers,
            "next_id": state.next_id,
            "counters": state.counters,
            "began_ns": state.began_ns,
            "parts": [len(part) for part in parts.parts],
        }
    ).encode()
    size = len(header).to_bytes(HEADER_BYTES, "big")
    return [MAGIC + b"%d\n" % FORMAT, size, header, *parts.parts]


def _port_to_row(port: Port) -> list[Any]:
    return [port.role, port.fd, port.inode, port.unlink, port.passed]


def _peer_to_row(peer: Peer, parts: _Parts) -> list[Any]:
    bucket = peer.bucket and [peer.bucket.tokens, peer.bucket.filled_ns, peer.bucket.refused]
    return [
        *(peer.fd, peer.inode, peer.id, peer.ip, peer.heard_ns, peer.wants_read, peer.ended),
        *(peer.hung_up, peer.withheld, peer.discarding, bucket),
        parts.refer(peer.tail),
        [[*parts.refer(piece.data), piece.messages] for piece in peer.owed],
    ]


def decode(source: BinaryIO) -> State:
    """Read what `encode` made.

    Raises:
        UnfitError: it is of another format, or damaged.
    """
    first_line = source.readline(LONGEST_FIRST_LINE)
    if not first_line.startswith(MAGIC):
        raise UnfitError("what was handed over is no state of etltd")
    found = first_line.removeprefix(MAGIC).decode(errors="replace").rstrip("\n")
    if found != str(FORMAT):
        raise UnfitError(f"it is handed over in format {found}, this version takes format {FORMAT}")
    try:
        return _state(source)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnfitError(f"what was handed over is damaged: {error!r}") from None


def _state(source: BinaryIO) -> State:
    size = int.from_bytes(_exactly(HEADER_BYTES, source), "big")
    header = json.loads(_exactly(size, source))
    # Each an object of its own: it is free to go when nobody is owed it any more.
    parts = [_exactly(size, source) for size in header["parts"]]
    return State(
        fixed=header["fixed"],
        ports=[Port(*row) for row in header["ports"]],
        peers=[_row_to_peer(row, parts) for row in header["peers"]],
        next_id=header["next_id"],
        counters=header["counters"],
        began_ns=header["began_ns"],
    )


def _exactly(size: int, source: BinaryIO) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data


def _row_to_peer(row: list[Any], parts: list[bytes]) -> Peer:
    *plain, bucket, tail, owed = row
    pieces = [Piece(_viewed(parts, *place), messages) for *place, messages in owed]
    made = [Bucket(*bucket) if bucket else None, bytes(_viewed(parts, *tail)), pieces]
    return Peer(*[*plain, *made])


def _viewed(parts: list[bytes], part: int, start: int, size: int) -> bytes | memoryview:
    if start == 0 and size == len(parts[part]):
        return parts[part]
    view = memoryview(parts[part])[start : start + size]
    if len(view) != size:
        raise ValueError(f"part {part} ends before {start} + {size}")
    return view
