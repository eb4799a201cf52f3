"""500 clients speak for 20 s and read nothing; then they read.

The daemon must stay up within the memory its limits allow, and every client must get whole lines
and notices whose numbers are exactly what it missed.
"""

from __future__ import annotations

import re
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench.rig import Server, daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS, RATE, SECONDS, MESSAGE_BYTES = 500, 50, 20, 512
HIGH_WATER_BYTES = 1 << 20
LINE = b"x" * (MESSAGE_BYTES - 1) + b"\n"
MIB = 1 << 20
PATIENCE_SECONDS = 120
DROPPED = re.compile(rb"\[etltd\] (\d+) messages dropped")
MESSAGE = re.compile(rb"\[USER\d+\] x{%d}" % (MESSAGE_BYTES - 1))


class Reader:
    """What one client makes of its stream, line by line, without keeping it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tail = b""
        self.received = self.missed = self.torn = 0

    def read(self) -> None:
        *lines, self.tail = (self.tail + self.sock.recv(1 << 18)).split(b"\n")
        for line in lines:
            if MESSAGE.fullmatch(line):
                self.received += 1
            elif notice := DROPPED.fullmatch(line):
                self.missed += int(notice[1])
            else:
                self.torn += 1


def rounds() -> Iterator[int]:
    """Yield once per interval, on absolute deadlines."""
    start = time.monotonic()
    for i in range(RATE * SECONDS):
        delay = start + i / RATE - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        yield i


def speak(socks: list[socket.socket], server: Server) -> tuple[list[int], float]:
    """Let every client send each interval; return what each sent and the most memory seen."""
    sent, resident = [0] * len(socks), 0.0
    for i in rounds():
        for j, sock in enumerate(socks):
            try:
                taken = sock.send(LINE)
            except BlockingIOError:
                continue
            assert taken == len(LINE)
            sent[j] += 1
        if i % RATE == 0:
            resident = max(resident, server.scrape()["resident_memory_bytes"])
    return sent, resident


def read_all(readers: list[Reader], owed: int) -> None:
    """Read until every copy is accounted for."""
    poller = select.epoll()
    by_fd = {reader.sock.fileno(): reader for reader in readers}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(r.received + r.missed for r in readers) < owed and time.monotonic() < deadline:
        for fd, _ in poller.poll(1):
            by_fd[fd].read()
    poller.close()


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_clients_that_do_not_read_cost_bounded_memory_and_no_uncounted_message(mode: str) -> None:
    with daemon("--mode", mode, f"--high-water-bytes={HIGH_WATER_BYTES}") as server:
        before = server.scrape()["resident_memory_bytes"]
        socks = [socket.create_connection((server.host, server.port)) for _ in range(CLIENTS)]
        for sock in socks:
            sock.setblocking(False)
        sent, resident = speak(socks, server)
        readers = [Reader(sock) for sock in socks]
        read_all(readers, sum(sent) * (CLIENTS - 1))
        after = server.scrape()
        for sock in socks:
            sock.close()

    batch_bytes = CLIENTS * (MESSAGE_BYTES + len(b"[USER500] "))
    bound = CLIENTS * (2 * HIGH_WATER_BYTES + batch_bytes)
    grown = resident - before
    print(
        f"\n{mode}: {sum(sent):,} sent, {sum(r.received for r in readers):,} copies received, "
        f"{sum(r.missed for r in readers):,} announced as dropped; memory grew by "
        f"{grown / MIB:.0f} MiB, the bound is {bound / MIB:.0f} MiB"
    )
    assert sum(r.torn for r in readers) == 0
    assert [r.received + r.missed for r in readers] == [sum(sent) - own for own in sent]
    assert after["messages_dropped_total{slow_consumer}"] == sum(r.missed for r in readers)
    assert grown < bound
