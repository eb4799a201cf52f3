"""Who is connected: admission, limits, and the one place where a peer ends.

Peers close in `reap` and nowhere else. A descriptor closed in mid-batch could come back as another
peer's within the batch, with the old one's event still to be handled. So a peer that must go is
*condemned*, and everybody skips it until the tick is over. (Who is turned away never was in epoll
and closes at once: a burst of them must not use up the descriptors.)
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING

from etltd import wire
from etltd.connection import Connection
from etltd.ratelimit import LeftBuckets, TokenBucket
from etltd.stats import CloseReason, DiscardReason, DropReason, LoopStats, RejectReason

if TYPE_CHECKING:
    from etltd.config import Config

RESETS = (ConnectionResetError, BrokenPipeError)

# What the kernel says when nobody answered it, and when it was told, or knows itself, why not.
UNANSWERED = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
)
ABORTED = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7): a reset instead of a FIN

IPV4_WITHIN = (bytes(10) + b"\xff\xff", b"\x00\x64\xff\x9b" + bytes(8))  # mapped; RFC 6052
LINK_LOCAL = b"\xfe\x80" + bytes(6)  # RFC 4291: a whole link, not one subscriber

GOODBYE_READ_BYTES = 65536  # more than anybody says before it is answered

DROPPED_BY = {
    CloseReason.SLOW_CONSUMER: DropReason.EVICTED,
    CloseReason.SHUTDOWN: DropReason.SHUTDOWN,
}


def network(ip: str) -> bytes:
    """Return what one client has of addresses: an IPv4 address, or the /64 of an IPv6 address.

    IPv4 clients of a socket for both families come as ``::ffff:192.0.2.1``.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    address = socket.inet_pton(family, ip.partition("%")[0])  # of a link's own: fe80::1%eth0
    if address.startswith(IPV4_WITHIN):
        return address[12:]
    return address if address.startswith(LINK_LOCAL) else address[:8]


def _source(ip: str) -> bytes:
    """Return whose bucket a peer goes on with: all peers of Unix sockets are one source."""
    return network(ip) if ip else b""


class Roster:
    """Owns every connection."""

    def __init__(self, config: Config, stats: LoopStats, max_connections: int) -> None:
        self.connections: dict[int, Connection] = {}  # by descriptor
        self.changed: list[Connection] = []  # whose interest mask may have to change
        self._config = config
        self._stats = stats
        self._max_connections = max_connections
        self._peers_of_network: dict[bytes, int] = {}
        self._left = LeftBuckets()  # empty without a rate limit
        self.next_id = 1
        self.instance = b""  # its name, if ids are to be told apart from other instances'
        self.condemned: list[Connection] = []  # to be closed at the end of the tick

    def admit(self, sock: socket.socket, ip: str, now_ns: int) -> Connection | None:
        """Take in a peer, or turn it away at a limit; a peer turned away takes no id."""
        stats = self._stats
        refusal = self._refusal(ip)
        if refusal is not None:
            stats.connections_rejected[refusal] += 1
            self._say_goodbye(sock)
            return None
        conn = Connection(sock, self.next_id, ip, self._config.max_line_bytes, now_ns)
        if self.instance:
            conn.prefix = wire.prefix(conn.id, self.instance)
        if self._config.rate_limit:
            full_ns = self._left.full_ns(_source(ip))
            conn.bucket = TokenBucket(self._config.rate_limit, now_ns, full_ns)
        self.next_id += 1
        self.connections[conn.fd] = conn
        self._take_place(ip)
        stats.connections_accepted += 1
        stats.connections = len(self.connections)
        stats.connections_high_water = max(stats.connections_high_water, stats.connections)
        return conn

    def adopt(self, conn: Connection) -> None:
        """Take over a peer that another process admitted and counted."""
        self.connections[conn.fd] = conn
        self._stats.connections = len(self.connections)
        self._take_place(conn.ip)

    def _refusal(self, ip: str) -> RejectReason | None:
        if len(self.connections) >= self._max_connections:
            return RejectReason.MAX_CONNECTIONS
        per_ip = self._config.max_connections_per_ip
        if per_ip and ip and self._peers_of_network.get(network(ip), 0) >= per_ip:
            return RejectReason.MAX_CONNECTIONS_PER_IP
        return None

    def _say_goodbye(self, sock: socket.socket) -> None:
        syscalls = self._stats.syscalls
        with contextlib.suppress(OSError):  # it is already gone; nothing is owed to it
            syscalls["sendto"] += 1
            self._stats.sent_bytes += sock.send(wire.TOO_MANY_CONNECTIONS)
        try:
            syscalls["recvfrom"] += 1
            sock.recv(GOODBYE_READ_BYTES)  # left unread, it would turn our close into a reset
        except BlockingIOError:
            self._stats.syscall_eagain["recvfrom"] += 1
        except OSError:
            pass  # same
        self._close(sock)

    def condemn(self, conn: Connection, reason: CloseReason) -> None:
        """Mark *conn* for closing; the first reason stands."""
        if conn.close_reason is None:
            conn.close_reason = reason
            self.condemned.append(conn)

    def condemn_for(self, conn: Connection, error: OSError) -> None:
        """Mark *conn* for closing because its socket failed with *error*."""
        if error.errno in UNANSWERED:
            self.condemn(conn, CloseReason.TIMEOUT)
        elif conn.ended:
            self.condemn(conn, CloseReason.EOF)  # it had said goodbye; now it is gone
        elif isinstance(error, RESETS):
            self.condemn(conn, CloseReason.RESET)
        else:
            self.condemn(conn, CloseReason.ERROR)

    def count_truncated(self, conn: Connection) -> None:
        """Count what *conn* said after its last newline: it will not be a message."""
        if conn.decoder.end():
            self._stats.messages_discarded[DiscardReason.TRUNCATED] += 1

    def reap(self) -> None:
        """Close the condemned, settle what they were owed, free their places."""
        stats = self._stats
        condemned, self.condemned = self.condemned, []
        for conn in condemned:
            assert conn.close_reason is not None  # noqa: S101 - for the type checker
            del self.connections[conn.fd]
            self.count_truncated(conn)
            if conn.outbox is not None:
                dropped_by = DROPPED_BY.get(conn.close_reason, DropReason.CLOSED)
                stats.messages_dropped[dropped_by] += conn.outbox.messages
                stats.outbox_messages -= conn.outbox.messages
                stats.outbox_bytes -= conn.outbox.size
                stats.outbox_connections -= 1
            if conn.bucket is not None:
                self._left.keep(_source(conn.ip), conn.bucket.full_ns)
            self._free_place(conn.ip)
            stats.connections_closed[conn.close_reason] += 1
            if conn.close_reason is CloseReason.TIMEOUT:
                self._abort(conn.sock)
            self._close(conn.sock)
        stats.connections = len(self.connections)

    def forget_full_buckets(self, now_ns: int) -> None:
        """Forget what closed connections had used up, where it has been made up for."""
        self._left.forget_full(now_ns)

    @staticmethod
    def _abort(sock: socket.socket) -> None:
        """Have the kernel drop what it still holds for a peer that does not answer, at the close.

        Else it goes on sending for minutes. A peer that comes back is told by a reset.
        """
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTED)

    def _close(self, sock: socket.socket) -> None:
        self._stats.syscalls["close"] += 1
        with contextlib.suppress(OSError):  # Linux has closed it all the same, close(2)
            sock.close()  # and takes it off the interest list: no epoll_ctl

    def _take_place(self, ip: str) -> None:
        if ip:
            place = network(ip)
            self._peers_of_network[place] = self._peers_of_network.get(place, 0) + 1

    def _free_place(self, ip: str) -> None:
        if ip:
            place = network(ip)
            self._peers_of_network[place] -= 1
            if not self._peers_of_network[place]:
                del self._peers_of_network[place]
