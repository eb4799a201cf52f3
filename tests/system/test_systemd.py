"""A real datagram socket for notifications, and the real systemd-socket-activate."""

from __future__ import annotations

import os
import re
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from tests.stall import stalled
from tests.system.rig import Client, Crowd, DaemonProcess
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., DaemonProcess]


class Manager:
    """A service manager's ear."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(PATIENCE_SECONDS)
        self.variables = {"NOTIFY_SOCKET": str(path)}

    def hear(self) -> list[str]:
        """Return the assignments of the next datagram."""
        return self.sock.recv(4096).decode().split("\n")

    def hear_until(self, word: str) -> list[str]:
        while word not in (said := self.hear()):
            pass
        return said

    def forget(self) -> None:
        """Take away what has been said."""
        self.sock.setblocking(False)
        try:
            while self.sock.recv(4096):
                pass
        except BlockingIOError:
            self.sock.settimeout(PATIENCE_SECONDS)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.sock.close()


def test_ready_means_that_the_ports_answer(daemon: Start, manager: Manager) -> None:
    """Whatever systemd starts after us connects at once."""
    running = daemon("et", wait=False, variables=manager.variables)

    ready, status, main_pid = manager.hear()

    (address,) = re.findall(r"STATUS=Serving on (\S+):(\d+)", status)
    with socket.create_connection((address[0], int(address[1])), timeout=PATIENCE_SECONDS):
        assert (ready, main_pid) == ("READY=1", f"MAINPID={running.pid}")
    running.wait_until_listening()
    assert running.get("/readyz") == (200, "ready\n")
    running.signal()
    assert manager.hear_until("STOPPING=1") == ["STOPPING=1", "STATUS=Stopping"]
    assert running.events("stopping") or running.process.poll() is None
    running.stopped()


def test_a_stalled_loop_does_not_feed_the_watchdog(daemon: Start, manager: Manager) -> None:
    """A ping that goes on while the loop hangs would be a lie."""
    running = daemon("lt", variables=manager.variables | {"WATCHDOG_USEC": "200000"})
    for _ in range(3):
        manager.hear_until("WATCHDOG=1")

    with stalled(running.pid):
        manager.forget()
        manager.sock.settimeout(0.4)  # four times the period of the pings
        assert running.get("/healthz")[0] == 200  # its other threads are well
        with pytest.raises(TimeoutError):
            manager.hear()

    manager.sock.settimeout(PATIENCE_SECONDS)
    manager.hear_until("WATCHDOG=1")


def test_nobody_asked_for_a_watchdog(daemon: Start, manager: Manager) -> None:
    running = daemon("lt", variables=manager.variables)

    running.signal()
    running.stopped()

    manager.sock.setblocking(False)
    said = [manager.hear()]
    while "STOPPING=1" not in said[-1]:
        said.append(manager.hear())
    assert not any("WATCHDOG=1" in words for words in said)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
)
def test_who_connects_before_the_daemon_is_up_is_served(daemon: Start, mode: str) -> None:
    chat, metrics = free_port(), free_port()
    passed_on = [name for name in os.environ if name.startswith(("COVERAGE", "PYTHON", "ETLT_T"))]
    prefix = ["systemd-socket-activate", "-l", f"127.0.0.1:{chat}", "-l", f"127.0.0.1:{metrics}"]
    prefix += ["--fdname=chat:metrics", *(f"--setenv={name}" for name in passed_on)]
    running = daemon(mode, prefix=prefix, ports=("--port", "1", "--metrics-port", "1"), wait=False)
    until(lambda: running.output().count("Listening on") == 2)

    early = Client(("127.0.0.1", chat))  # it is this that starts the daemon
    early.say(b"first\n")
    running.wait_until_listening()
    late = running.dial()
    crowd = Crowd([early, late])
    until(lambda: running.metrics()["connections"] == 2)
    late.say(b"second\n")
    crowd.until(lambda: early.inbox)

    assert running.address == ("127.0.0.1", chat)
    assert running.scrape_address == f"127.0.0.1:{metrics}"
    assert early.inbox == b"[USER2] second\n"
    assert running.metrics()["messages_received_total"] == 2
    early.sock.close()
