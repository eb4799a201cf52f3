"""The listening socket outlives the daemon: who connects meanwhile is served by the next one."""

from __future__ import annotations

import contextlib
import errno
import selectors
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.system.herd import HAND_DOWN
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.rig import DaemonProcess

PER_SECOND = 200
ENOUGH = 0.9  # of what was due
LATE_SECONDS = 0.1  # after its time, a call was not dialled at the pace that is claimed
ATTEMPTS = 3  # where the machine does not let the caller dial in time


class Caller(threading.Thread):
    """Connects 200 times a second, come what may, says a line and leaves in good order.

    It dials when a call is due and waits for no earlier one: a port that holds callers up does not
    slow it down, nor hide behind its pace.
    """

    def __init__(self, address: tuple[str, int], patience: float = PATIENCE_SECONDS) -> None:
        super().__init__()
        self.address, self.patience = address, patience
        self.told_to_stop = threading.Event()
        self.dialled = self.in_time = self.connected = self.refused = self.timed_out = 0
        self.seconds = 0.0  # in which it dialled
        self.slowest = 0.0  # the most that a call took to connect
        self._dialling: dict[socket.socket, float] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        began = time.monotonic()
        with self._selector:
            while not self.told_to_stop.is_set():
                self._dial_what_is_due(began)
                next_due = began + self.dialled / PER_SECOND
                self._look(max(0.0, next_due - time.monotonic()))
            self.seconds = time.monotonic() - began
            while self._dialling:
                self._look(0.1)

    def _dial_what_is_due(self, began: float) -> None:
        while (now := time.monotonic()) >= (due := began + self.dialled / PER_SECOND):
            self.in_time += now - due < LATE_SECONDS
            self.dialled += 1
            sock = socket.socket()
            sock.setblocking(False)
            if sock.connect_ex(self.address) not in {0, errno.EINPROGRESS}:
                self.refused += 1
                sock.close()
                continue
            self._dialling[sock] = now
            self._selector.register(sock, selectors.EVENT_WRITE)

    def _look(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._answered(sock)
        now = time.monotonic()
        for sock in [one for one, at in self._dialling.items() if now > at + self.patience]:
            self.timed_out += 1
            self._hang_up(sock)

    def _answered(self, sock: socket.socket) -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.refused += 1
        else:
            self.connected += 1
            self.slowest = max(self.slowest, time.monotonic() - self._dialling[sock])
            with contextlib.suppress(OSError):  # accepted by one that was killed: a reset
                sock.send(b"hello\n")
        self._hang_up(sock)

    def _hang_up(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._dialling[sock]
        sock.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.told_to_stop.set()
        self.join(self.patience + PATIENCE_SECONDS)
        assert not self.is_alive()

    @property
    def due(self) -> float:
        """How many calls its pace makes of the time in which it dialled."""
        return PER_SECOND * self.seconds


def call_over_a_stop_and_a_kill(begin: Callable[[int], DaemonProcess]) -> Caller:
    """Have a daemon stopped, the next one killed, and a third serve who waited."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as port:
        daemon = begin(port.fileno())
        with Caller(port.getsockname()) as caller:
            for number in (signal.SIGTERM, signal.SIGKILL):
                seen = caller.connected
                until(lambda: caller.connected > seen + PER_SECOND // 4)
                daemon.signal(number)
                daemon.process.wait(PATIENCE_SECONDS)
                daemon = begin(port.fileno())
            seen = daemon.metrics()["connections_accepted_total"]
            until(lambda: daemon.metrics()["connections_accepted_total"] > seen + 20)
            until(lambda: daemon.metrics()["messages_received_total"] > 0)  # read a tick later
    daemon.close()
    return caller


def test_nobody_is_refused_while_daemons_come_and_go(
    start: Callable[..., DaemonProcess],
    mode: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Stopped in good order, and killed: the port is the manager's, and so is its queue."""

    def begin(port: int) -> DaemonProcess:
        prefix = [sys.executable, "-c", HAND_DOWN, str(port)]
        return start(mode, prefix=prefix, pass_fds=(port,))

    for _ in range(ATTEMPTS):
        caller = call_over_a_stop_and_a_kill(begin)
        record_property(f"connections over a stop and a kill, {mode}", caller.connected)
        record_property(f"slowest of them, seconds, {mode}", caller.slowest)
        assert caller.refused == caller.timed_out == 0
        assert caller.connected == caller.dialled
        if caller.in_time >= ENOUGH * caller.due:
            assert caller.connected >= ENOUGH * caller.due
            return
    pytest.skip(f"this machine was too busy for {PER_SECOND} calls a second; none was refused")


def test_a_caller_keeps_its_pace_where_nobody_answers() -> None:
    """The queue takes one or two, the others' first packets are dropped: each waits in vain."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        Caller(full.getsockname(), patience=0.3) as caller,
    ):
        until(lambda: caller.dialled > PER_SECOND // 2)

    assert caller.dialled >= ENOUGH * caller.due
    assert caller.connected < 5
    assert caller.timed_out == caller.dialled - caller.connected
    assert not caller.refused


def test_a_caller_counts_refusals() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with Caller(address) as caller:
        until(lambda: caller.dialled > 10)

    assert caller.refused == caller.dialled
