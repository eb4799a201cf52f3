"""Who is still there: peers that vanished without a word (a firewall, a cable, a power cut).

A peer that is owed nothing is asked by TCP keepalive, which the kernel does (`etltd.listener`). One
that is owed something is not asked: it has to acknowledge, and the kernel goes on trying for a
quarter of an hour. TCP_USER_TIMEOUT would cut that short, but it does not tell the vanished from
those who only do not read: since Linux 5.11 it also ends a peer that answers every probe of its
closed window (measured on 6.18). A slow consumer is to be kept or evicted by its policy, not by
this. So a peer's own words decide, its acknowledgements, which TCP_INFO has.

Keepalive keeps the acknowledgements of a live peer fresh. A peer that another process admitted may
not have been asked, or asked less often: its silence counts from when we began to look.

What it costs: one getsockopt(2) per peer, 0.9 us, in an eighth of the timeout, spread over the
rounds of that time.
"""

from __future__ import annotations

import socket
import struct
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from etltd.connection import Connection

TCP_INFO = struct.Struct("=2x2B52xI")  # linux/tcp.h: retransmits, probes; milliseconds since an ACK
TRIES = 2  # unanswered ones: of a live peer, one may be on its way
LOOKS = 8  # at each peer within the timeout, in a round a second


def is_gone(sock: socket.socket, timeout_ms: int) -> bool:
    """Whether *sock*'s peer has acknowledged nothing for *timeout_ms*, though it was asked to."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    retransmits, probes, silent_ms = TCP_INFO.unpack(info)
    return bool(silent_ms >= timeout_ms and max(retransmits, probes) >= TRIES)


class Sweep:
    """Looks at every TCP peer in turn."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_ms = round(timeout_seconds * 1000)
        self._rounds = max(1, int(timeout_seconds / LOOKS))
        self._waiting: list[Connection] = []
        self._share = 0
        self._since_ns: int | None = None  # the first round

    def gone(self, connections: Mapping[int, Connection], now_ns: int) -> Iterator[Connection]:
        """Yield those of this round's share who are gone; call it once a round."""
        if self._since_ns is None:
            self._since_ns = now_ns
        if now_ns - self._since_ns < self._timeout_ms * 1_000_000:
            return  # nobody has been silent for long enough
        if not self._waiting:
            self._waiting = list(connections.values())
            self._share = ceil(len(self._waiting) / self._rounds)
        looked_at = self._waiting[-self._share :]
        del self._waiting[-self._share :]
        for conn in looked_at:
            if conn.close_reason is None and conn.ip and is_gone(conn.sock, self._timeout_ms):
                yield conn
