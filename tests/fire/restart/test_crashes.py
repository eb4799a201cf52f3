"""SIGKILL of each part in turn: the others go on, and say what is missing.

A part that is killed says nothing any more. So what it took along must be seen by somebody else:
the client names what it could not send or did not get, the daemon what peers did not get, and both
Prometheus and the record of a comparison have a gap where there was no witness.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from loadclient.kernel import KernelWitness
from tests.boards.rig import free_port
from tests.probes.rig import Exporter
from tests.system.rig import assert_ledger
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.rig import Crowd, DaemonProcess

    Start = Callable[..., DaemonProcess]

INVALID = 4
CONNECTIONS = 20
DRAIN_SECONDS = 5
NEVER_READS = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
time.sleep(3600)
"""


class Load:
    """``loadclient run`` on a daemon, until it ends by itself or is killed."""

    def __init__(self, daemon: DaemonProcess, folder: Path, *options: str) -> None:
        self._result = folder / "result.json"
        host, port = daemon.address
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "loadclient", "run", host, str(port), "--quiet"),
                *("--conns", str(CONNECTIONS), "--rate", "50", "--duration", "3"),
                *("--warmup", "0.2", "--drain-timeout", str(DRAIN_SECONDS)),
                *("--json", str(self._result), *options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Load]]:
    started: list[Load] = []

    def begin(daemon: DaemonProcess, *options: str) -> Load:
        started.append(Load(daemon, tmp_path, *options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


def is_measuring(daemon: DaemonProcess) -> bool:
    """Tell whether the load is well beyond its greetings and its warm-up."""
    return daemon.metrics()["messages_received_total"] > 40 * CONNECTIONS


# -- the daemon ----------------------------------------------------------------------------------


def test_a_killed_daemon_is_told_by_its_client(
    start: Start, load: Callable[..., Load], mode: str
) -> None:
    """Whatever was offered is sent or unsent, whatever was owed came or is lost by a reason."""
    daemon = start(mode)
    client = load(daemon, "--server-metrics", f"http://{daemon.scrape_address}/metrics")
    until(lambda: is_measuring(daemon))
    daemon.signal(signal.SIGKILL)

    assert client.process.wait(60) == INVALID
    found = client.result()
    reasons = " | ".join(found["invalid_reasons"])
    assert found["valid"] is False
    assert f"{CONNECTIONS} of {CONNECTIONS} connections were ended by the server" in reasons
    assert "cannot read the server's metrics" in reasons
    assert f"{found['messages_offered'] - found['messages_sent']} of " in reasons
    assert found["server"] is None
    lost = found["messages_expected"] - found["messages_received"]
    assert sum(found["lost_by_reason"].values()) == lost
    if lost:
        assert found["lost_by_reason"]["closed"] == lost
    assert found["duplicated"] == found["reordered"] == found["damaged"] == 0


def test_a_daemon_that_came_back_is_not_taken_for_the_old_one(
    start: Start, load: Callable[..., Load]
) -> None:
    """Its counters began anew: joined with the old ones they would look like a loss, or a gain."""
    ports = ("--port", str(free_port()), "--metrics-port", str(free_port()))
    daemon = start("et", ports=ports)
    client = load(daemon, "--server-metrics", f"http://{daemon.scrape_address}/metrics")
    until(lambda: is_measuring(daemon))
    daemon.signal(signal.SIGKILL)
    daemon.process.wait(PATIENCE_SECONDS)
    start("et", ports=ports)

    assert client.process.wait(60) == INVALID
    reasons = client.result()["invalid_reasons"]
    assert "the server was restarted during the run" in reasons
    assert any("connections were ended by the server" in reason for reason in reasons)


# -- the client ----------------------------------------------------------------------------------


def test_what_a_killed_client_did_not_get_is_counted_by_the_daemon(
    start: Start, load: Callable[..., Load], mode: str
) -> None:
    """Its peers stay, and hear the last whole line that it said; nobody hears half a line."""
    daemon = start(mode)
    crowd = daemon.crowd(2)
    client = load(daemon, "--procs", "2")  # its workers must not live on, and go on speaking
    crowd.until(lambda: is_measuring(daemon))
    client.process.kill()
    client.process.wait()
    crowd.until(lambda: leave_taken(daemon, crowd))

    metrics = daemon.quiet_metrics()
    assert_ledger(metrics)
    assert metrics["connections"] == 2
    closed = {
        name.split()[1]: count
        for name, count in metrics.items()
        if name.startswith("connections_closed_total")
    }
    assert closed["eof"] + closed["reset"] == CONNECTIONS
    assert all(line.startswith(b"[USER") for one in crowd.clients for line in one.lines())
    assert not any(one.at_end for one in crowd.clients)
    talker, hearer = crowd.clients
    talker.say(b"who is still here?\n")
    crowd.until(lambda: hearer.inbox.endswith(b"] who is still here?\n"))


def leave_taken(daemon: DaemonProcess, crowd: Crowd) -> bool:
    """Tell whether the killed client's connections are gone: something must be sent to notice."""
    if not crowd.clients[0].outgoing:
        crowd.clients[0].say(b"anybody?\n")
    return daemon.metrics()["connections"] == len(crowd.clients)


# -- the probe -----------------------------------------------------------------------------------


@pytest.mark.kernel
def test_a_killed_probe_is_a_witness_less_in_the_record(start: Start) -> None:
    """No counts, and the record says why: half of them must not pass for all."""
    daemon = start("et")
    with KernelWitness(daemon.pid) as witness:
        assert witness.unavailable == ""
        crowd = daemon.crowd(2)
        assert witness._process is not None
        witness._process.kill()
        crowd.clients[0].say(b"hello\n")
        crowd.until(lambda: crowd.clients[1].inbox)

    assert witness.report is None
    assert witness.unavailable == "etlt-probe: it ended without a report"
    assert_ledger(daemon.quiet_metrics())


@pytest.mark.kernel
def test_a_probe_that_came_back_counts_on_from_nought(start: Start) -> None:
    """What happened without it is missing, in full view: its counters began anew."""
    daemon = start("et")
    crowd = daemon.crowd(2)

    def counted(exporter: Exporter) -> float:
        calls = [
            count
            for (name, labels), count in exporter.samples().items()
            if name == "syscalls_total" and ("syscall", "sendto") in labels
        ]
        return sum(calls)

    def say(exporter: Exporter, lines: int) -> None:
        before = counted(exporter)
        for _ in range(lines):
            heard = len(crowd.clients[1].inbox)
            crowd.clients[0].say(b"hello\n")
            crowd.until(lambda: len(crowd.clients[1].inbox) > heard)
        until(lambda: counted(exporter) == before + lines)

    first = Exporter("--pid", str(daemon.pid))
    say(first, 23)
    first.process.kill()
    first.process.wait()
    assert first.process.stderr is not None
    first.process.stderr.close()
    crowd.clients[0].say(b"unseen\n")
    crowd.until(lambda: b"unseen" in crowd.clients[1].inbox)
    second = Exporter("--pid", str(daemon.pid))
    say(second, 17)

    assert counted(second) == 17
    assert daemon.metrics()["syscalls_total sendto"] == 23 + 1 + 17
    assert second.stop() == 0


# -- Prometheus ----------------------------------------------------------------------------------


class Prometheus:
    """A real one that scrapes a daemon twice a second, and is started again on its old data."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        (folder / "prometheus.yaml").write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f"scrape_configs: [{{job_name: etltd, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.start()

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder}/prometheus.yaml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, query: str) -> float | None:
        """Return the value of *query*, None if it has none or nobody answers yet."""
        url = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                return float(json.loads(answer.read())["data"]["result"][0]["value"][1])
        except (OSError, ValueError, IndexError):
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus (make test)")
def test_a_killed_prometheus_loses_a_gap_and_no_count(start: Start, tmp_path: Path) -> None:
    """The daemon's counters are sums since its start: the next scrape has what came in the gap."""
    daemon = start("lt")
    crowd = daemon.crowd(2)
    prometheus = Prometheus(tmp_path, daemon.scrape_address)
    series = "etltd_messages_received_total"

    def say(lines: int) -> None:
        before = len(crowd.clients[1].lines())
        crowd.clients[0].say(b"hello\n" * lines)
        crowd.until(lambda: len(crowd.clients[1].lines()) == before + lines)

    try:
        say(23)
        until(lambda: prometheus.ask(series) == 23)
        scraped = prometheus.ask(f"count_over_time({series}[1h])")
        prometheus.kill()
        say(17)
        prometheus.start()
        until(lambda: prometheus.ask(series) == 23 + 17)

        assert prometheus.ask(f"resets({series}[1h])") == 0
        assert prometheus.ask(f"min_over_time({series}[1h])") == 23, "what it had is still there"
        assert (prometheus.ask(f"count_over_time({series}[1h])") or 0) > (scraped or 0)
        assert_ledger(daemon.quiet_metrics())
    finally:
        prometheus.kill()


def test_the_daemon_counts_what_its_killed_peers_were_owed(start: Start, mode: str) -> None:
    """Bytes in an outbox go with their peer, and become drops with a reason."""
    daemon = start(mode, "--sndbuf", "4096")
    talker = daemon.crowd(1)
    reader = subprocess.Popen(
        [
            *(sys.executable, "-c", NEVER_READS),
            *map(str, daemon.address),
        ]
    )
    try:
        until(lambda: daemon.metrics()["connections"] == 2)

        def is_owed() -> object:
            if not talker.clients[0].outgoing:
                talker.clients[0].say((b"x" * 1000 + b"\n") * 50)
            return daemon.metrics()["outbox_messages"]

        talker.until(is_owed)
        talker.until(lambda: not talker.clients[0].outgoing)
    finally:
        reader.kill()
        reader.wait()
    until(lambda: daemon.metrics()["connections"] == 1)

    metrics = daemon.quiet_metrics()
    assert_ledger(metrics)
    assert metrics["outbox_messages"] == 0
    assert metrics["messages_dropped_total closed"] > 0
