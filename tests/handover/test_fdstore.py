"""A restart, as systemd does one: one process leaves its clients, another one takes them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Self

from tests.system.rig import GOODBYE, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

HAND_DOWN = """
import os, sys
names, command = sys.argv[1].split(":"), sys.argv[2:]
for number, name in enumerate(names):
    os.dup2(int(name.split("=")[1]), 3 + number)
    os.close(int(name.split("=")[1]))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)))
os.environ["LISTEN_FDNAMES"] = ":".join(name.split("=")[0] for name in names)
os.execv(command[0], command)
"""
FIRST_FREE = 100  # what is stored is kept from here on, out of the way of 3, 4, ...


class Store(threading.Thread):
    """A service manager's ear with its descriptor store."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self.variables = {"NOTIFY_SOCKET": str(path)}
        self.kept: list[tuple[str, int]] = []

    def run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, 253)
            words = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
            if "OVER" in words:
                return
            name = words.get("FDNAME", "")
            if "FDSTORE" in words:
                self.kept += [(name, higher(fd)) for fd in fds]
            elif "FDSTOREREMOVE" in words:
                for _, fd in [one for one in self.kept if one[0] == name]:
                    os.close(fd)
                self.kept = [one for one in self.kept if one[0] != name]
            for fd in fds:
                os.close(fd)

    def passes_on(self) -> dict[str, object]:
        """Return what starts a daemon that is given what is stored, newest first."""
        given = ":".join(f"{name}={fd}" for name, fd in reversed(self.kept))
        return {
            "prefix": [sys.executable, "-c", HAND_DOWN, given],
            "pass_fds": tuple(fd for _, fd in self.kept),
            "variables": self.variables,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"OVER=1", self.variables["NOTIFY_SOCKET"])
        self.join()
        for _, fd in self.kept:
            os.close(fd)
        self._sock.close()


def higher(fd: int) -> int:
    """Return a copy of *fd* that is out of the way."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)


def test_clients_outlive_the_process(daemon: Start, mode: str, tmp_path: Path) -> None:
    """Ids, begun lines and the ports, whatever order and numbers the descriptors come back in."""
    path = tmp_path / "chat"
    with Store(tmp_path / "notify") as store:
        first = daemon(mode, "--unix", str(path), variables=store.variables)
        crowd = first.crowd(3)
        crowd.clients[0].say(b"half")
        crowd.until(lambda: not crowd.clients[0].outgoing)
        until(lambda: first.metrics()["received_bytes_total"] == 4)
        first.signal(signal.SIGUSR1)
        assert first.process.wait(20) == 0
        assert first.events("stored")[0]["peers"] == 3
        crowd.clients[0].say(b" a line\n")
        crowd.step()
        second = daemon(mode, "--unix", str(path), wait=False, **store.passes_on())
        until(lambda: second.events("took over") or second.process.poll() is not None)
        second.address, second.scrape_address = first.address, first.scrape_address
        crowd.until(lambda: all(len(client.lines()) == 1 for client in crowd.clients[1:]))

        assert {bytes(c.inbox).partition(b"] ")[2] for c in crowd.clients[1:]} == {b"half a line\n"}
        assert_ledger(second.quiet_metrics())
        until(lambda: not store.kept)
        assert path.exists()
        crowd.clients.append(second.dial())
        until(lambda: second.metrics()["connections"] == 4)
        second.signal()
        crowd.until_end()
        assert all(bytes(client.inbox).endswith(GOODBYE) for client in crowd.clients)


def test_a_state_that_does_not_fit_gives_the_clients_up(daemon: Start, tmp_path: Path) -> None:
    """A restart may change the mode: then it starts afresh, and nobody is left hanging."""
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", variables=store.variables)
        crowd = first.crowd(2)
        first.signal(signal.SIGUSR1)
        assert first.process.wait(20) == 0
        second = daemon("et", **store.passes_on())

        (given_up,) = second.events("stored sockets given up")
        assert "--mode was lt and is et now" in given_up["reason"]
        crowd.until_end()
        until(lambda: not store.kept)
        assert second.crowd(1).clients[0].at_end is False


def test_without_a_manager_it_is_a_stop(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(2)
    running.signal(signal.SIGUSR1)
    crowd.until_end()

    assert running.stopped()["messages_abandoned"] == 0
    assert [bytes(client.inbox) for client in crowd.clients] == [GOODBYE] * 2
    (why,) = running.events("clients cannot stay over the restart")
    assert why["reason"] == "there is no service manager"


def test_a_socket_that_was_not_kept_gives_the_others_up_too(daemon: Start, tmp_path: Path) -> None:
    """Half of the clients under their ids would be told apart by nobody."""
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", variables=store.variables)
        crowd = first.crowd(2)
        first.signal(signal.SIGUSR1)
        assert first.process.wait(20) == 0
        _, fd = store.kept.pop()
        os.close(fd)
        second = daemon("lt", **store.passes_on())

        (given_up,) = second.events("stored sockets given up")
        assert given_up["reason"] == "the service manager has not kept every socket"
        crowd.until_end()
