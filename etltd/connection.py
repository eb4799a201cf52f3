"""One peer: its socket, what it has begun to say, what it is still owed, and how it ended.

It owns state, not policy: the reactor decides when to read, write and close.
10,000 of these must be cheap, so storage for a partial line or an outbox exists only while needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etltd import wire

if TYPE_CHECKING:
    import socket

    from etltd.outbox import Outbox
    from etltd.ratelimit import TokenBucket
    from etltd.stats import CloseReason


class Connection:
    """A peer. ``id`` never repeats; ``fd`` does, so nothing outlives the tick under that key."""

    __slots__ = (
        "bucket",
        "close_reason",
        "decoder",
        "ended",
        "fd",
        "heard_ns",
        "hung_up",
        "id",
        "ip",
        "mask",
        "outbox",
        "prefix",
        "sock",
        "wants_read",
        "withheld",
    )

    def __init__(
        self, sock: socket.socket, client_id: int, ip: str, max_line_bytes: int, now_ns: int
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.id = client_id
        self.ip = ip  # "" for a Unix socket
        self.prefix = wire.prefix(client_id)
        self.decoder = wire.LineDecoder(max_line_bytes)
        self.bucket: TokenBucket | None = None  # only with a rate limit
        self.outbox: Outbox | None = None  # only while bytes are owed
        self.withheld = 0  # messages dropped that the peer has not been told about
        self.mask = 0  # what epoll was told last
        self.heard_ns = now_ns
        self.wants_read = True
        self.hung_up = 0  # RDHUP, HUP, ERR as reported so far: an EOF or error is to be read
        self.ended = False  # the peer finished its input; it may still listen
        self.close_reason: CloseReason | None = None  # set once; the reap phase closes
