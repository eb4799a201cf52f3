"""One connection of the load: its socket, its profile and its counts."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING

from loadclient.ledger import Account, Closed

if TYPE_CHECKING:
    from loadclient.ledger import Profile
    from loadclient.protocol import Place

SIOCOUTQ = termios.TIOCOUTQ  # bytes that the other kernel has not acknowledged
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Peer:
    """A socket and what went through it since the phase began."""

    __slots__ = (
        "announced",
        "blocked",
        "built",
        "closed",
        "credit",
        "due",
        "fd",
        "index",
        "msg_bytes",
        "notice_bytes",
        "number",
        "pending",
        "profile",
        "received",
        "recv_into",
        "send",
        "sender",
        "sent_bytes",
        "sock",
        "tail",
    )

    def __init__(self, index: int, sock: socket.socket, place: Place) -> None:
        self.index = index
        self.sock = sock
        self.fd = sock.fileno()
        self.recv_into = sock.recv_into  # bound once: the receive path calls it a million times
        self.send = sock.send
        self.profile: Profile = place.profile
        self.sender = place.sender
        self.msg_bytes = place.msg_bytes
        self.number = -1 if place.sender is None else place.sender  # for arithmetic
        self.closed: Closed | None = None
        self.tail: bytes | None = None
        self.forget()

    def forget(self) -> None:
        """Start a phase: all counts are zero, nothing is due."""
        self.received = 0
        self.notice_bytes = 0
        self.announced = 0
        self.sent_bytes = 0
        self.due = 0  # messages that the schedule asked for
        self.built = 0  # messages handed to the socket, the last one perhaps in part
        self.pending = b""  # the rest of that last one
        self.blocked = False
        self.credit = 0.0  # bytes that a slow reader may read now

    def unread_bytes(self) -> int:
        """Return what waits in the kernel to be read."""
        return 0 if self.closed else self._queued(termios.FIONREAD)

    def unacknowledged_bytes(self) -> int:
        """Return what the server's kernel has not acknowledged yet."""
        return 0 if self.closed else self._queued(SIOCOUTQ)

    def _queued(self, request: int) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self.fd, request, count)
        return count[0]

    def why_closed(self) -> Closed:
        """Tell a reset from an orderly end; asks the socket, so only once."""
        failed = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return Closed.RESET if failed else Closed.EOF

    def account(self) -> Account:
        """Return the totals of this connection for the ledger."""
        return Account(
            profile=self.profile,
            sender=self.sender,
            due=self.due,
            sent_bytes=self.sent_bytes,
            received_bytes=self.received,
            notice_bytes=self.notice_bytes,
            announced=self.announced,
            unread_bytes=self.unread_bytes(),
            closed=self.closed,
        )

    def abort(self) -> None:
        """Close with a reset: no TIME_WAIT here, and no half-closed ghost kept at the server."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.sock.close()
