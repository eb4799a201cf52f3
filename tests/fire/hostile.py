"""Attacks, and two bystanders. What they notice of them at full size: `tests.fire.siege`."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from tests.daemon.rig import RESET_ON_CLOSE
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.rig import DaemonProcess

CHUNK_BYTES = 1 << 16


class Target(NamedTuple):
    """Where a daemon listens."""

    address: tuple[str, int]
    scrape_address: str


def dial_from(address: str, daemon: DaemonProcess) -> socket.socket:
    """Connect from one of this machine's loopback addresses."""
    return socket.create_connection(
        ("127.0.0.1", daemon.address[1]), timeout=20, source_address=(address, 0)
    )


class Bystanders:
    """Two who talk to each other and hear everything."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.crowd = daemon.crowd(2)
        self.first, self.second = self.crowd.clients
        self.words = 0

    def talk(self, rounds: int) -> list[float]:
        """Say something and wait until the other has heard it; return the seconds it took."""
        taken = []
        for _ in range(rounds):
            self.words += 1
            word = b"bystander %d\n" % self.words
            del self.second.inbox[: -2 * CHUNK_BYTES]
            del self.first.inbox[: -2 * CHUNK_BYTES]
            began = monotonic()
            self.first.say(word)
            self.crowd.until(lambda: word in self.second.inbox[-2 * CHUNK_BYTES :], seconds=60)
            taken.append(monotonic() - began)
        return taken

    def until_alone(self) -> None:
        """Go on talking, so that who is gone is found out, until nobody else is there."""

        def is_alone() -> bool:
            self.talk(1)
            return self.daemon.metrics()["connections"] == 2

        until(is_alone)


@dataclass(frozen=True)
class Attack:
    """What is done to the daemon, for how long, and with which limits it runs.

    With `to_its_end`, `begin` waits until all of its size has been done.
    """

    deed: Callable[[Target, threading.Event, int], None]
    short: int
    full: int
    options: tuple[str, ...] = ()
    to_its_end: bool = False

    def deed_on(self, daemon: DaemonProcess, stop: threading.Event, size: int) -> None:
        """Do it to *daemon*."""
        self.deed(Target(daemon.address, daemon.scrape_address), stop, size)

    @contextmanager
    def begin(self, daemon: DaemonProcess, size: int) -> Iterator[None]:
        """Attack while the block runs, or to the end."""
        stop, never, failures = threading.Event(), threading.Event(), []

        def attack() -> None:
            try:
                self.deed_on(daemon, never if self.to_its_end else stop, size)
            except BaseException as error:  # noqa: BLE001 - told to the test
                failures.append(error)

        thread = threading.Thread(target=attack)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failures, failures


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


def _connect(target: Target, rcvbuf: int = 0) -> socket.socket:
    sock = socket.socket()
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    sock.settimeout(20)
    sock.connect(target.address)
    return sock


def slowloris(target: Target, stop: threading.Event, size: int) -> None:
    """Many who say one byte at a time and never end a line."""
    socks = [_connect(target) for _ in range(size)]
    while not stop.wait(0.05):
        for sock in socks:
            sock.send(b"x")
    for sock in socks:
        _reset(sock)


def never_readers(target: Target, stop: threading.Event, size: int) -> None:
    """Many who read nothing while one of them talks."""
    socks = [_connect(target, rcvbuf=4096) for _ in range(size)]
    socks[0].setblocking(False)
    while not stop.wait(0.001):
        try:
            socks[0].send(b"x" * 999 + b"\n")
        except BlockingIOError:
            continue
    for sock in socks:
        _reset(sock)


def _pour(target: Target, stop: threading.Event, data: bytes, times: int) -> None:
    sock = _connect(target)
    sock.settimeout(0.5)
    for _ in range(times):
        if stop.is_set():
            break
        left = memoryview(data)
        while left and not stop.is_set():
            try:
                left = left[sock.send(left) :]
            except TimeoutError:
                continue
    _reset(sock)


def newline_flood(target: Target, stop: threading.Event, size: int) -> None:
    """Nothing but empty lines: each is a message of one byte that costs others ten."""
    _pour(target, stop, b"\n" * CHUNK_BYTES, size)


def no_newline(target: Target, stop: threading.Event, size: int) -> None:
    """Send a line that never ends, *size* times 64 KiB of it."""
    _pour(target, stop, b"x" * CHUNK_BYTES, size)


def flood(target: Target, stop: threading.Event, size: int) -> None:
    """As many messages as one client can send."""
    _pour(target, stop, (b"flood " * 10 + b"\n") * 1000, size)


def reconnecting_flood(target: Target, stop: threading.Event, size: int) -> None:
    """As much as one may say at once, and come again, *size* times.

    From an address of its own: the bystanders are in nobody's place.
    """
    for _ in range(size):
        if stop.is_set():
            break
        sock = socket.socket()
        sock.settimeout(20)
        sock.bind(("127.0.0.2", 0))
        sock.connect(target.address)
        with suppress(OSError):  # turned away, as long as the one before it has not gone
            sock.send(b"\n" * 300)
        _reset(sock)


def connect_storm(target: Target, stop: threading.Event, size: int) -> None:
    """Come and go at once, *size* times."""
    for number in range(size):
        if stop.is_set():
            break
        sock = socket.socket()
        sock.settimeout(20)
        sock.bind((f"127.0.0.{2 + number % 8}", 0))
        sock.connect(target.address)
        sock.close()


def reset_storm(target: Target, stop: threading.Event, size: int) -> None:
    """Come, say half of something, and reset, *size* times."""
    for _ in range(size):
        if stop.is_set():
            break
        sock = _connect(target)
        sock.send(b"half of it")
        _reset(sock)


def metrics_port(target: Target, stop: threading.Event, size: int) -> None:
    """Say nothing, garbage or endless headers to the scrape port, and reset."""
    host, port = target.scrape_address.rsplit(":", 1)
    openings = (b"", b"GET /metrics HTTP/1.1\r\nX: ", b"\0\xff\r\n\r\n", b"GET " + b"/" * 70000)
    for number in range(size):
        if stop.is_set():
            break
        sock = socket.create_connection((host, int(port)), timeout=20)
        with suppress(OSError):  # it was given up for the next one
            sock.sendall(openings[number % len(openings)])
        _reset(sock)


RECONNECTING = ("--rate-limit", "300", "--max-connections-per-ip", "2")
ATTACKS = {
    "slowloris": Attack(slowloris, 50, 500),
    "never-readers": Attack(never_readers, 20, 200, ("--high-water-bytes", "65536")),
    "newline-flood": Attack(newline_flood, 2, 50),
    "no-newline": Attack(no_newline, 1024, 16384, to_its_end=True),
    "flood": Attack(flood, 10, 500),
    "newline-flood-limited": Attack(newline_flood, 2, 500, ("--rate-limit", "300")),
    "flood-limited": Attack(flood, 100, 2000, ("--rate-limit", "300")),
    "reconnecting-flood-limited": Attack(
        *(reconnecting_flood, 2000, 100_000, RECONNECTING), to_its_end=True
    ),
    "connect-storm": Attack(connect_storm, 500, 100_000, to_its_end=True),
    "reset-storm": Attack(reset_storm, 500, 100_000, to_its_end=True),
    "metrics-port": Attack(metrics_port, 200, 20_000),
}


def main() -> None:
    """Attack from a process of its own until it is done or standard input ends; say when it begins.

    Usage: NAME HOST PORT SCRAPE-ADDRESS SIZE
    """
    name, host, port, scrape_address, size = sys.argv[1:]
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print("begins", flush=True)
    ATTACKS[name].deed(Target((host, int(port)), scrape_address), stop, int(size))


if __name__ == "__main__":
    main()
