"""The real command in a process of its own, and clients that talk TCP to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import psutil

from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

COMMAND = [sys.executable, "-m", "etltd"]
SERIES = re.compile(r"etltd_(\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
GOODBYE = b"[etltd] server is stopping\n"
DROPPED = re.compile(rb"\[etltd\] (\d+) messages dropped\n")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without options of the daemon, and *variables*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETLTD_")}
    return kept | variables


class Client:
    """A peer that queues what it says and keeps what it hears; see `Crowd`."""

    def __init__(self, address: tuple[str, int] | str, rcvbuf: int = 0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(PATIENCE_SECONDS)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self.outgoing = b""
        self.inbox = bytearray()
        self.reads = True
        self.at_end = False
        self.was_reset = False

    def say(self, data: bytes) -> None:
        self.outgoing += data

    def lines(self) -> list[bytes]:
        """Return the messages heard, without the notices."""
        return [line for line in self._all_lines() if not line.startswith(b"[etltd] ")]

    def missed(self) -> int:
        """Return how many messages the server said were dropped."""
        return sum(int(number) for number in DROPPED.findall(bytes(self.inbox)))

    def _all_lines(self) -> list[bytes]:
        return bytes(self.inbox).splitlines(keepends=True)

    def interest(self) -> int:
        mask = select.POLLIN if self.reads and not self.at_end else 0
        return mask | (select.POLLOUT if self.outgoing else 0)

    def step(self) -> None:
        """Send and receive what is possible now."""
        try:
            if self.outgoing:
                self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing = b""  # the server is gone; what it said is still to be read
        if not self.reads or self.at_end:
            return
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.was_reset, data = True, b""
        self.inbox += data
        self.at_end = not data


class Crowd:
    """Clients served by one thread."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self.clients = list(clients)

    def step(self, milliseconds: int = 10) -> None:
        poll = select.poll()
        by_fd = {}
        for client in self.clients:
            if client.interest():
                poll.register(client.sock, client.interest())
                by_fd[client.sock.fileno()] = client
        for fd, _ in poll.poll(milliseconds):
            by_fd[fd].step()

    def until(self, predicate: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = monotonic() + seconds
        while not predicate():
            assert monotonic() < deadline, f"not so within {seconds} s"
            self.step()

    def until_end(self) -> None:
        self.until(lambda: all(client.at_end for client in self.clients))


class Endpoint:
    """A daemon that runs somewhere: where it is reached, and who talks to it."""

    address: tuple[str, int]
    scrape_address: str

    def __init__(self) -> None:
        self._clients: list[Client] = []

    # -- clients ---------------------------------------------------------------------------------

    def dial(self, rcvbuf: int = 0) -> Client:
        self._clients.append(Client(self.address, rcvbuf))
        return self._clients[-1]

    def crowd(self, count: int, rcvbuf: int = 0) -> Crowd:
        """Return *count* clients that the daemon has taken in."""
        before = self.metrics()["connections"]
        crowd = Crowd(self.dial(rcvbuf) for _ in range(count))
        until(lambda: self.metrics()["connections"] == before + count)
        return crowd

    # -- the scrape port -------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.scrape_address, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Return every series by name and label values but the mode's: ``syscalls_total close``."""
        found = {}
        for name, labels, value in SERIES.findall(self.get("/metrics")[1]):
            others = [text for label, text in LABEL.findall(labels) if label != "mode"]
            found[" ".join([name, *others])] = float(value)
        return found

    def quiet_metrics(self) -> dict[str, float]:
        """Return the metrics of a moment at which nothing moves."""
        moving = ("received_bytes_total", "sent_bytes_total", "connections")
        found: dict[str, float] = {}

        def nothing_moved() -> bool:
            nonlocal found
            before, found = found, self.metrics()
            return all(found[name] == before.get(name) for name in moving)

        until(nothing_moved)
        return found

    def hang_up(self) -> None:
        """Close all clients' connections."""
        for client in self._clients:
            client.sock.close()


class DaemonProcess(Endpoint):
    """``python -m etltd``; made when it has said that it listens."""

    def __init__(
        self,
        mode: str,
        *options: str,
        log: Path,
        prefix: Iterable[str] = (),
        ports: tuple[str, ...] = ("--port", "0", "--metrics-port", "0"),
        variables: Mapping[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*prefix, *COMMAND, "--mode", mode, *ports, "--log-format", "json", *options],
                stderr=stderr,
                stdout=stderr,
                env=environment(**(variables or {})),
                pass_fds=pass_fds,
            )
        self.pid = self.process.pid

    def wait_until_listening(self) -> None:
        until(lambda: self.events("listening") or self.process.poll() is not None)
        assert self.process.poll() is None, self._log.read_text()
        listening = self.events("listening")[0]
        host, port = listening["chat"].rsplit(":", 1)
        self.address = (host, int(port))
        self.scrape_address = listening["metrics"].split("/")[2]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        lines = self._log.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line[0] == "{" and line[-1] == "\n"]
        return [event for event in found if event["event"] == name]

    def output(self) -> str:
        return self._log.read_text()

    def without_descriptors(self) -> tuple[int, int]:
        """Take away every descriptor that it does not use now; return the limits it had."""
        scrape_port = int(self.scrape_address.rsplit(":", 1)[1])
        process = psutil.Process(self.pid)

        def is_being_scraped() -> bool:
            found = process.net_connections(kind="tcp")
            return any(c.laddr[1] == scrape_port and c.raddr for c in found)

        until(lambda: not is_being_scraped())  # its descriptor would be free in a moment
        used = {int(entry.name) for entry in Path(f"/proc/{self.pid}/fd").iterdir()}
        lowest_free = min(set(range(len(used) + 1)) - used)
        limits = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        return limits

    # -- the end ---------------------------------------------------------------------------------

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def stopped(self) -> dict[str, Any]:
        """Wait for the end; return what the last log line says."""
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.output()
        (event,) = self.events("stopped")
        return event

    def close(self) -> None:
        """End it, in good order if it can (its coverage is written then), else by force."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def total(metrics: Mapping[str, float], name: str) -> float:
    """Return the sum of *name* over its labels."""
    return sum(value for key, value in metrics.items() if key.split(" ")[0] == name)


def assert_ledger(metrics: Mapping[str, float]) -> None:
    """Check what must agree at every quiet moment."""
    assert metrics["messages_enqueued_total"] == (
        metrics["messages_delivered_total"]
        + total(metrics, "messages_dropped_total")
        + metrics["outbox_messages"]
    )
    assert total(metrics, "epoll_events_total") == metrics["wakeup_events_sum"]
    assert metrics["epoll_wakeups_total"] == metrics["wakeup_events_count"]
    assert metrics["messages_received_total"] == metrics["batch_messages_sum"]
    assert metrics["connections"] == metrics["connections_accepted_total"] - total(
        metrics, "connections_closed_total"
    )
    assert metrics["connections"] <= metrics["connections_high_water"]
    assert metrics["epoll_waits_total"] == (
        metrics["epoll_wakeups_total"] + metrics["epoll_timeouts_total"]
    )
