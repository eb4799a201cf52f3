"""Opens the connections: ramped, a few at a time, each one timed.

Rule: never more attempts in flight than any sane backlog holds, or the kernel drops SYNs and the
retransmission timer (one second) becomes the connect latency.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING

from loadclient.histogram import Histogram

if TYPE_CHECKING:
    from loadclient.protocol import Plan

IN_FLIGHT = 64
RETRY_SECONDS = 0.002  # a Unix listener with a full backlog says EAGAIN instead of queueing


class Dialer:
    """Connects every place of a plan."""

    def __init__(self, plan: Plan, timeout_seconds: float, lifeline_fd: int) -> None:
        self._plan = plan
        self._deadline_ns = time.monotonic_ns() + int(timeout_seconds * 1e9)
        self._timeout_seconds = timeout_seconds
        self._epoll = select.epoll()
        self._epoll.register(lifeline_fd, select.EPOLLIN)
        self._lifeline_fd = lifeline_fd
        self._attempts: dict[int, tuple[int, int]] = {}  # fd to place and start
        self.sockets: list[socket.socket] = []
        self.latency = Histogram()
        self.failure: str | None = None

    def dial(self) -> None:
        """Fill `sockets` in the order of the plan, or say in `failure` why that cannot be."""
        start_ns = time.monotonic_ns()
        total = len(self._plan.places)
        with self._epoll:
            while self.failure is None and (len(self.sockets) < total or self._attempts):
                wait = self._start_due(start_ns, total)
                self._finish(self._epoll.poll(wait))
                if time.monotonic_ns() > self._deadline_ns and self.failure is None:
                    self.failure = f"no answer within {self._timeout_seconds:g} s"

    def _start_due(self, start_ns: int, total: int) -> float:
        """Start what the ramp and the limit allow; return how long to wait for more."""
        rate = self._plan.connect_rate
        while len(self.sockets) < total and len(self._attempts) < IN_FLIGHT and not self.failure:
            due_ns = start_ns + int(len(self.sockets) * 1e9 / rate) if rate else 0
            ahead_ns = due_ns - time.monotonic_ns()
            if ahead_ns > 0:
                return min(ahead_ns / 1e9, 0.1)
            if not self._start():
                return RETRY_SECONDS
        return 0.1

    def _start(self) -> bool:
        sock = self._open()
        begun_ns = time.monotonic_ns()
        code = sock.connect_ex(self._plan.address)
        if code == errno.EAGAIN:
            sock.close()
            return False
        self.sockets.append(sock)
        if code == errno.EINPROGRESS:
            self._attempts[sock.fileno()] = (len(self.sockets) - 1, begun_ns)
            self._epoll.register(sock, select.EPOLLOUT)
        else:
            self._conclude(code, begun_ns)
        return True

    def _finish(self, events: list[tuple[int, int]]) -> None:
        for fd, _ in events:
            if fd == self._lifeline_fd:  # the parent waits for our answer: this can only be its end
                self.failure = "given up"
                return
            place, begun_ns = self._attempts.pop(fd)
            self._epoll.unregister(fd)
            code = self.sockets[place].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._conclude(code, begun_ns)

    def _conclude(self, code: int, begun_ns: int) -> None:
        if code:
            self.failure = os.strerror(code)
        else:
            self.latency.record(time.monotonic_ns() - begun_ns)

    def _open(self) -> socket.socket:
        plan = self._plan
        if isinstance(plan.address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            family = socket.AF_INET6 if ":" in plan.address[0] else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            # A message waits for its due time, not for the previous one's acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        if plan.sndbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, plan.sndbuf)
        if plan.rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.rcvbuf)
        return sock
