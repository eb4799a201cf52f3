"""How long a scrape keeps the loop from its work: the figures of BENCH.md.

Usage: python tests/bench/bench_scrape.py [TRIALS] [CHECKOUT...]
100 clients, one of which says a line; another one waits for it, and so on: round trips. In half of
the trials, by lot, a scrape is asked for first, as Prometheus asks. Printed are the longest round
trip of a trial, with and without a scrape; the difference of neighbours, an estimate with its exact
95 % interval; and the CPU that a scrape takes in all, which bounds what it can cost the loop on a
machine with nothing else to do. More checkouts are measured in the same rounds, beside this one.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.statistics import estimate
from tests.bench.rig import Server, daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parents[2]
CLIENTS = 100
TRIPS = 40  # in a trial: longer than a scrape takes, whatever renders it
SCRAPES = 300  # in a row, for their CPU
MODES = ("lt", "et")
REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\nUser-Agent: Prometheus\r\n"
    b"Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    b"text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n\r\n"
)


@dataclass
class Arm:
    """One daemon, its clients, and what was seen of it."""

    name: str
    server: Server
    clients: list[socket.socket]
    scraped: list[float] = field(default_factory=list)  # longest round trips, ms
    spared: list[float] = field(default_factory=list)

    def trial(self, *, scrape: bool) -> float:
        """Return the longest of some round trips in ms, the first of them with a scrape's."""
        with self._endpoint() as endpoint:
            for _ in range(3):
                self._trip()  # the endpoint's thread waits for the request by now
            if scrape:
                endpoint.sendall(REQUEST)
            longest = max(self._trip() for _ in range(TRIPS))
            if scrape:
                _read_all(endpoint)
        return longest * 1e3

    def _trip(self) -> float:
        began = perf_counter()
        self.clients[0].sendall(b"x" * 63 + b"\n")
        for client in self.clients[1:]:
            client.recv(4096)
        return perf_counter() - began

    @contextlib.contextmanager
    def _endpoint(self) -> Iterator[socket.socket]:
        port = int(self.server.metrics.split(":")[2].partition("/")[0])
        with socket.create_connection((self.server.host, port)) as endpoint:
            yield endpoint

    def cpu_of_a_scrape(self) -> float:
        """Return the CPU of one of many scrapes in ms, by getrusage(2) of the daemon."""
        before = self._cpu_seconds()
        for _ in range(SCRAPES):
            with self._endpoint() as endpoint:
                endpoint.sendall(REQUEST)
                _read_all(endpoint)
        return (self._cpu_seconds() - before) / (SCRAPES + 1) * 1e3

    def _cpu_seconds(self) -> float:
        seen = self.server.scrape()
        return seen["cpu_seconds_total{user}"] + seen["cpu_seconds_total{system}"]

    def row(self) -> str:
        differences = [a - b for a, b in zip(self.scraped, self.spared, strict=True)]
        found = estimate(differences, 0.95)
        cells = [
            f"{median(times):.2f} / {quantiles(times, n=20)[-1]:.2f}"
            for times in (self.scraped, self.spared)
        ]
        more = (
            "too few"
            if found is None
            else f"{found.middle:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
        )
        return " | ".join([self.name, *cells, more, f"{self.cpu_of_a_scrape():.2f}"])


def _read_all(endpoint: socket.socket) -> None:
    while endpoint.recv(1 << 16):
        pass


@contextlib.contextmanager
def arm(mode: str, checkout: Path) -> Iterator[Arm]:
    with daemon(f"--mode={mode}", cwd=checkout) as server, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((server.host, server.port)))
            for _ in range(CLIENTS)
        ]
        yield Arm(f"{mode}, {checkout.name}", server, clients)


def main(trials: int = 100, *checkouts: Path) -> None:
    """Print one row for each mode and checkout."""
    with contextlib.ExitStack() as stack:
        arms = [
            stack.enter_context(arm(mode, checkout))
            for mode in MODES
            for checkout in (HERE, *checkouts)
        ]
        for _ in range(trials):
            for one in random.sample(arms, len(arms)):
                for scrape in random.sample((True, False), 2):
                    (one.scraped if scrape else one.spared).append(one.trial(scrape=scrape))
        print(f"{CLIENTS} clients, {trials} trials each of {TRIPS} round trips\n")
        print(
            "| mode | longest trip with a scrape, ms: median / p95 | without | difference "
            "| CPU of a scrape, ms |\n|---|---|---|---|---|"
        )
        for one in arms:
            print(f"| {one.row()} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(Path, sys.argv[2:]))
