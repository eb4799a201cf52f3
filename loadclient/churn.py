"""Connections that come, listen and go, one after the other, all through the load.

Rule: what one of them is owed begins and ends at moments that only the server knows, so it is not
part of what the others are owed. It is accounted for from both sides: the server's counters say how
many copies it owed to who came and went, and every message that one of them got is read and must
follow the one before it of the same sender. The rest is what they left behind when they went. That
cannot be more than was sent while they were there, give or take how long a message took.

They send nothing, and they go by a reset, as all connections of the load do.
"""

from __future__ import annotations

import errno
import re
import socket
from collections import deque
from contextlib import suppress
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from time import monotonic_ns
from typing import TYPE_CHECKING

from loadclient.ledger import Churned
from loadclient.payload import MARK, SEQUENCE_MASK, Payloads
from loadclient.peer import ABORT
from loadclient.protocol import NEVER_NS

if TYPE_CHECKING:
    import select

    from loadclient.protocol import Plan

LIFE_NS = 250_000_000  # of each connection, from the moment when it is one
READ_BYTES = 64 * 1024
DROPPED = re.compile(rb"\[etltd\] (\d+) messages dropped")


class Visitor:
    """One connection, and what it heard last of each sender."""

    __slots__ = ("dialled_ns", "heard", "leaves_ns", "sock", "tail")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.dialled_ns = monotonic_ns()
        self.leaves_ns = NEVER_NS
        self.tail = b""
        self.heard: dict[int, int] = {}


class Churn:
    """All the visitors of one worker."""

    def __init__(self, plan: Plan, epoll: select.epoll) -> None:
        self._address = plan.address
        self._payloads = Payloads(plan.voices)
        self._interval_ns = round(1e9 / plan.churn) if plan.churn else 0
        self._epoll = epoll
        self._visitors: dict[int, Visitor] = {}  # by descriptor
        self._leaving: deque[int] = deque()  # those that are connected, the oldest first
        self._next_ns = NEVER_NS
        self.account = Churned()

    def begin(self, start_ns: int) -> None:
        """Forget all counts and let the first one come at *start_ns*."""
        self.account = Churned()
        self._next_ns = start_ns if self._interval_ns else NEVER_NS

    @property
    def next_due_ns(self) -> int:
        """When somebody comes or goes."""
        if not self._leaving:
            return self._next_ns
        return min(self._next_ns, self._visitors[self._leaving[0]].leaves_ns)

    def move(self, now_ns: int) -> None:
        """Let go whose time is over, and let come who is due."""
        while self._leaving and self._visitors[self._leaving[0]].leaves_ns <= now_ns:
            self._dismiss(self._leaving[0])
        while self._next_ns <= now_ns:
            self._next_ns += self._interval_ns
            self._invite()

    def stop(self) -> None:
        """Let everybody go, and nobody come any more."""
        self._next_ns = NEVER_NS
        for fd in list(self._visitors):
            self._dismiss(fd)

    def serve(self, fd: int, mask: int) -> bool:
        """Serve an event; return whether *fd* is one of ours, or was in this turn."""
        visitor = self._visitors.get(fd)
        if visitor is None:
            return False
        if mask & (EPOLLERR | EPOLLHUP):
            self._lose(fd)
            return True
        if mask & EPOLLOUT:
            self._welcome(fd, visitor)
        if mask & EPOLLIN:
            self._listen(fd, visitor)
        return True

    def _invite(self) -> None:
        family = socket.AF_UNIX
        if not isinstance(self._address, str):
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        visitor = Visitor(sock)
        self.account.dialled += 1
        if sock.connect_ex(self._address) not in {0, errno.EINPROGRESS}:
            self.account.failed += 1
            sock.close()
            return
        fd = sock.fileno()
        self._visitors[fd] = visitor
        self._epoll.register(fd, EPOLLIN | EPOLLOUT)

    def _welcome(self, fd: int, visitor: Visitor) -> None:
        visitor.leaves_ns = monotonic_ns() + LIFE_NS
        self._leaving.append(fd)
        self.account.connected += 1
        self._epoll.modify(fd, EPOLLIN)

    def _dismiss(self, fd: int) -> None:
        """Cut a connection; one that the server has not answered yet was none."""
        visitor = self._visitors[fd]
        if visitor.leaves_ns == NEVER_NS and _is_connected(visitor.sock):
            self._welcome(fd, visitor)
        if visitor.leaves_ns == NEVER_NS:
            self.account.failed += 1
        else:
            self._leaving.remove(fd)
        del self._visitors[fd]
        self._epoll.unregister(fd)
        visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        visitor.sock.close()
        if visitor.leaves_ns != NEVER_NS:
            self.account.lived_ns += monotonic_ns() - visitor.dialled_ns

    def _lose(self, fd: int) -> None:
        self.account.ended_by_server += self._visitors[fd].leaves_ns != NEVER_NS
        self._dismiss(fd)

    def _listen(self, fd: int, visitor: Visitor) -> None:
        try:
            data = visitor.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(fd)
            return
        *lines, visitor.tail = (visitor.tail + data).split(b"\n")
        for line in lines:
            self._hear(visitor, line)

    def _hear(self, visitor: Visitor, line: bytes) -> None:
        """Count a line, and hold its number against the one before."""
        account = self.account
        if dropped := DROPPED.fullmatch(line):
            account.announced += int(dropped[1])
            visitor.heard.clear()  # where the gaps are, nobody says
            return
        account.received += 1
        if not self._payloads.has_sequence:
            return
        message = line[line.find(b"] ") + 2 :] + b"\n"
        if message[:1] == MARK:
            mark = self._payloads.read_marked(message)
            found = (mark.sender, mark.sequence) if mark else None
        else:
            found = self._payloads.read_plain(message)
        if found is None:
            account.damaged += 1
            return
        sender, number = found
        before = visitor.heard.get(sender)
        account.out_of_order += before is not None and number != (before + 1) & SEQUENCE_MASK
        visitor.heard[sender] = number


def _is_connected(sock: socket.socket) -> bool:
    with suppress(OSError):
        sock.getpeername()
        return True
    return False
