"""The scrape port under abuse, in both modes: the chat goes on, and so do scrapes."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.fire.hostile import Bystanders
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

MOST_THREADS = 2 + 2 * 8  # the loop, the acceptor, its clients, and as many on their way out
SLOWEST_SECONDS = 10.0  # a machine may stall; a chat that is taken down does not come back
GROWTH_BYTES = 16 << 20


def silent(sock: socket.socket, _stop: threading.Event) -> None:
    """Say nothing at all."""
    del sock


def dripping(sock: socket.socket, stop: threading.Event) -> None:
    """Say one byte of a header now and then."""
    while not stop.wait(0.05):
        sock.sendall(b"X")


def huge_line(sock: socket.socket, _stop: threading.Event) -> None:
    """Ask for a path of a megabyte."""
    sock.sendall(b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n")


def endless_headers(sock: socket.socket, stop: threading.Event) -> None:
    """Go on sending headers."""
    sock.sendall(b"GET /metrics HTTP/1.1\r\n")
    while not stop.is_set():
        sock.sendall(b"X-Padding: " + b"x" * 4000 + b"\r\n")


def garbage(sock: socket.socket, _stop: threading.Event) -> None:
    """Speak another protocol."""
    sock.sendall(bytes(range(256)) * 64 + b"\r\n\r\n")


def unread(sock: socket.socket, stop: threading.Event) -> None:
    """Ask for everything and read nothing of it."""
    sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 100)
    stop.wait()


ABUSES = (silent, dripping, huge_line, endless_headers, garbage, unread)


@contextmanager
def abused(
    daemon: DaemonProcess, abuse: Callable[[socket.socket, threading.Event], None], times: int
) -> Iterator[None]:
    """Have the scrape port abused, so many times at once, again and again, while the block runs."""
    host, port = daemon.scrape_address.rsplit(":", 1)
    stop, came = threading.Event(), threading.Semaphore(0)

    def go_on() -> None:
        while not stop.is_set():
            with suppress(OSError), socket.create_connection((host, int(port)), 20) as sock:
                came.release()
                abuse(sock, stop)  # given up for the next one, it comes again
                sock.settimeout(0.5)
                sock.recv(1)

    threads = [threading.Thread(target=go_on) for _ in range(times)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        for _ in threads:
            assert came.acquire(timeout=PATIENCE_SECONDS)
        yield


@pytest.mark.parametrize("abuse", ABUSES, ids=lambda abuse: abuse.__name__)
def test_chat_and_scrapes_go_on_while_the_scrape_port_is_abused(
    start: Start, mode: str, abuse: Callable[[socket.socket, threading.Event], None]
) -> None:
    daemon = start(mode)
    bystanders = Bystanders(daemon)
    before = daemon.quiet_metrics()
    process = psutil.Process(daemon.pid)

    with abused(daemon, abuse, times=12):
        assert max(bystanders.talk(40)) < SLOWEST_SECONDS
        until(lambda: is_scraped(daemon))
        assert process.num_threads() <= MOST_THREADS
        grown = process.memory_info().rss - before["resident_memory_bytes"]

    assert grown < GROWTH_BYTES
    until(lambda: process.num_threads() <= 2)
    until(lambda: process.num_fds() <= before["open_fds"])
    assert max(bystanders.talk(1)) < SLOWEST_SECONDS


def is_scraped(daemon: DaemonProcess) -> bool:
    """Scrape; of a flood the newest clients are served, and one is given up now and then."""
    with suppress(OSError, HTTPException):
        return bool(daemon.metrics()["connections"])
    return False
