"""Several daemons on one port, and how many of them wake for one connection.

Two witnesses: the daemons' own counters, and the scheduler, which counts for each loop thread how
often it went to sleep (so also wakeups after which epoll_wait found nothing and slept on).
"""

from __future__ import annotations

import contextlib
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.system.rig import DaemonProcess, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = (
    2  # the loop's and the scrape port's; a scrape that goes on has one, and a descriptor, more
)
SHARING = ("reuseport", "exclusive", "shared")

# What a service manager does: the socket is descriptor 3, and the variables name this process.
HAND_DOWN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="chat")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Woken:
    """What a number of connections, made one by one, cost all loops together."""

    connections: int
    accept_events: int  # epoll_wait returned and named the listener
    accepts_in_vain: int  # accept4 that found nobody, but for the one that ends each turn
    sleeps: int  # the scheduler's count: a loop that was woken has gone to sleep again

    def __sub__(self, earlier: Woken) -> Woken:
        return Woken(
            self.connections - earlier.connections,
            self.accept_events - earlier.accept_events,
            self.accepts_in_vain - earlier.accepts_in_vain,
            self.sleeps - earlier.sleeps,
        )


class Herd:
    """Daemons that share one port as ``--listener`` says, and connections to it."""

    def __init__(self, daemons: list[DaemonProcess]) -> None:
        self.daemons = daemons
        self.address = daemons[0].address

    def count(self) -> Woken:
        """Count now; nothing must be going on."""
        found = [daemon.metrics() for daemon in self.daemons]
        accepted = sum(total(one, "connections_accepted_total") for one in found)
        events = sum(one["epoll_events_total accept"] for one in found)
        nobody = sum(one["syscall_eagain_total accept4"] for one in found)
        turns = sum(total(one, "epoll_timeouts_total") for one in found)
        sleeps = sum(_sleeps(daemon.pid) for daemon in self.daemons)
        return Woken(int(accepted), int(events), int(nobody - accepted), int(sleeps - turns))

    def connect(self, connections: int) -> Woken:
        """Make so many connections, each when the last is accepted and all loops sleep again."""
        with contextlib.ExitStack() as stack:
            before = self.count()
            until(lambda: all(_entries(d.pid, "task") == THREADS for d in self.daemons))
            for _ in range(connections):
                until(lambda: all(_is_asleep(daemon.pid) for daemon in self.daemons))
                descriptors = self._descriptors()
                stack.enter_context(socket.create_connection(self.address))
                until(lambda: self._descriptors() > descriptors)
            until(lambda: all(_is_asleep(daemon.pid) for daemon in self.daemons))
            return self.count() - before

    def _descriptors(self) -> int:
        """Count what the daemons hold: looking at them from outside wakes nobody."""
        return sum(_entries(daemon.pid, "fd") for daemon in self.daemons)


class Starter:
    """Starts daemons on one port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[DaemonProcess] = []

    def start(self, mode: str, listener: str, instances: int, *options: str) -> Herd:
        """Start *instances* daemons that share a port by *listener*."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0))  # not listening, it holds a port without taking a share
            port = sock.getsockname()[1]
            if listener == "reuseport":
                herd = [
                    self._one(mode, "--listener", listener, *options, port=port)
                    for _ in range(instances)
                ]
            else:
                sock.listen()
                prefix = [sys.executable, "-c", HAND_DOWN, str(sock.fileno())]
                herd = [
                    self._one(
                        *(mode, "--listener", listener, *options),
                        prefix=prefix,
                        pass_fds=(sock.fileno(),),
                    )
                    for _ in range(instances)
                ]
            for daemon in herd:
                daemon.wait_until_listening()
        return Herd(herd)

    def _one(
        self,
        mode: str,
        *options: str,
        port: int = 0,
        prefix: list[str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> DaemonProcess:
        log = self._folder / f"herd-{len(self._started)}.log"
        ports = ("--port", str(port), "--metrics-port", "0")
        daemon = DaemonProcess(
            mode, *options, log=log, ports=ports, prefix=prefix or (), pass_fds=pass_fds
        )
        self._started.append(daemon)
        return daemon

    def close(self) -> None:
        """End them all."""
        for daemon in self._started:
            daemon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _status(pid: int) -> Iterator[list[str]]:
    """Yield the lines of the loop thread's status, in words."""
    for line in Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines():
        yield line.split()


def _entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())


def _sleeps(pid: int) -> int:
    return next(int(words[1]) for words in _status(pid) if words[0] == "voluntary_ctxt_switches:")


def _is_asleep(pid: int) -> bool:
    return next(words[1] == "S" for words in _status(pid) if words[0] == "State:")
