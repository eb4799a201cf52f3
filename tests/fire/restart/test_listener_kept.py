"""The listening socket outlives the daemon: who connects meanwhile is served by the next one."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from tests.system.herd import HAND_DOWN
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.rig import DaemonProcess

PER_SECOND = 200


class Caller(threading.Thread):
    """Connects 200 times a second, come what may, says a line and leaves in good order."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self.address = address
        self.told_to_stop = threading.Event()
        self.connected = self.refused = 0

    def run(self) -> None:
        due = time.monotonic()
        while not self.told_to_stop.is_set():
            self._call()
            due += 1 / PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))

    def _call(self) -> None:
        try:
            sock = socket.create_connection(self.address, timeout=PATIENCE_SECONDS)
        except OSError:
            self.refused += 1
            return
        self.connected += 1
        with sock, contextlib.suppress(OSError):  # accepted by one that was killed: a reset
            sock.sendall(b"hello\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.told_to_stop.set()
        self.join(PATIENCE_SECONDS)


def test_nobody_is_refused_while_daemons_come_and_go(
    start: Callable[..., DaemonProcess],
    mode: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Stopped in good order, and killed: the port is the manager's, and so is its queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as port:
        prefix = [sys.executable, "-c", HAND_DOWN, str(port.fileno())]

        def begin() -> DaemonProcess:
            return start(mode, prefix=prefix, pass_fds=(port.fileno(),))

        daemon = begin()
        with Caller(port.getsockname()) as caller:
            for number in (signal.SIGTERM, signal.SIGKILL):
                seen = caller.connected
                until(lambda: caller.connected > seen + PER_SECOND // 4)
                daemon.signal(number)
                daemon.process.wait(PATIENCE_SECONDS)
                daemon = begin()
            seen = daemon.metrics()["connections_accepted_total"]
            until(lambda: daemon.metrics()["connections_accepted_total"] > seen + 20)
            until(lambda: daemon.metrics()["messages_received_total"] > 0)  # read a tick later

        record_property(f"connections over a stop and a kill, {mode}", caller.connected)
        assert caller.refused == 0
