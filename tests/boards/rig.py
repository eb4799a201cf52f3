"""Real parts on loopback: daemons, a load client each, the probe if it may, Prometheus servers."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards.queries import PACE, RUN_RATE
from tests.boards.asking import Prometheus, Span
from tests.boards.witnesses import BEFORE, DURING, END, TROUBLE, View, look, while_measured
from tests.bpf import refusal
from tests.busy import besides_busy
from tests.probes.rig import Exporter
from tests.system.rig import DaemonProcess, Endpoint, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.probes.test_daemon import Samples

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "dashboards" / "rules"
SERVERS = ("prometheus", "prometheus-3")
MODES = ("lt", "et")
JOBS = ("etltd", "etlt-probe", "loadclient")
CONNECTIONS, RATE, SECONDS, LINGER_SECONDS = 24, 5, 15, 60
PATIENCE_SECONDS = 60.0
PORTS = range(15000, 32768)
SMEAR_SECONDS = 5  # what a rate takes together; so long after the load it is wholly in the sums
CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [RULES/recording.yaml, RULES/alerts.yaml]
scrape_configs:
"""


def available() -> list[str]:
    """Return the Prometheus servers that are here."""
    return [name for name in SERVERS if shutil.which(name)]


def free_port() -> int:
    """Return a port that nobody has, nor is given by the kernel, which gives higher ones."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", secrets.choice(PORTS)))
            return int(sock.getsockname()[1])


class Targets:
    """Whom Prometheus scrapes: files that it watches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._addresses: dict[str, list[str]] = {job: [] for job in JOBS}
        for job in JOBS:
            self._write(job)

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Return who is scraped, by job."""
        return self._addresses

    def add(self, job: str, address: str) -> None:
        self._addresses[job].append(address)
        self._write(job)

    def config(self) -> str:
        """Return the configuration of a Prometheus."""
        jobs = (
            f"  - job_name: {job}\n    file_sd_configs:\n      - files: [{self._path(job)}]\n"
            "        refresh_interval: 1s\n"
            for job in JOBS
        )
        return CONFIG.replace("RULES", str(RULES)) + "".join(jobs)

    def _path(self, job: str) -> Path:
        return self.folder / f"{job}.json"

    def _write(self, job: str) -> None:
        fresh = self.folder / f"{job}.new"
        fresh.write_text(json.dumps([{"targets": self._addresses[job]}]))
        fresh.replace(self._path(job))


@contextlib.contextmanager
def serving(name: str, folder: Path, targets: Targets) -> Iterator[Prometheus]:
    """Run a Prometheus of its own until the end of the block."""
    folder.mkdir()
    (folder / "prometheus.yaml").write_text(targets.config())
    address = f"127.0.0.1:{free_port()}"
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                name,
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stderr=stderr,
            stdout=stderr,
        )
    prometheus = Prometheus(f"http://{address}")
    try:
        until(lambda: answers(prometheus) or process.poll() is not None, PATIENCE_SECONDS)
        assert process.poll() is None, log.read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def answers(prometheus: Prometheus) -> bool:
    """Tell whether it serves queries yet."""
    try:
        prometheus.get("query", query="1")
    except (OSError, ValueError):
        return False
    return True


class Load:
    """One `loadclient run`, which stays to be scraped until it is told to go."""

    def __init__(self, daemon: DaemonProcess, mode: str, folder: Path, port: int) -> None:
        self.mode = mode
        self.run_id = f"run-{mode}"
        self._json = folder / f"{mode}.json"
        self._log = folder / f"{mode}.log"
        host, chat = daemon.address
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "loadclient", "run", host, str(chat), "--quiet"),
                    *("--conns", str(CONNECTIONS), "--rate", str(RATE), "--warmup", "1"),
                    *("--duration", str(SECONDS), "--run-id", self.run_id),
                    *("--server-metrics", f"http://{daemon.scrape_address}/metrics"),
                    *("--metrics-port", str(port), "--linger", str(LINGER_SECONDS)),
                    *("--json", str(self._json)),
                ],
                stdout=stderr,
                stderr=stderr,
            )

    def output(self) -> str:
        return self._log.read_text()

    def ledger(self) -> dict[str, Any]:
        """Return the result, once it is there."""
        until(self._json.exists, PATIENCE_SECONDS)
        result: dict[str, Any] = json.loads(self._json.read_text())
        return result

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)


@dataclass
class Scene:
    """What there is to ask about, after two equal runs."""

    servers: dict[str, Prometheus]
    daemons: dict[str, DaemonProcess]
    probes: dict[str, Exporter]  # by mode; one for each daemon, as on two hosts; or none
    ledgers: dict[str, dict[str, Any]]
    addresses: dict[str, list[str]]
    span: Span  # of both runs, from rest to rest
    during: Span  # until both had been measured for a while
    trouble: Span  # until a peer of each daemon had stopped reading
    spent: dict[str, dict[str, float]]  # how much each daemon's counters rose in the span
    said: dict[str, Samples]  # by all exporters, by moment
    alerts: list[dict[str, Any]]  # of all servers, at the end of the span

    @property
    def has_probe(self) -> bool:
        """Tell whether the kernel let us watch."""
        return bool(self.probes)

    @property
    def has_stats(self) -> bool:
        """Tell whether the kernel measured the probe's programs."""
        return self.has_probe

    @property
    def spans(self) -> dict[str, Span]:
        """Return from rest to each moment."""
        return {DURING: self.during, END: self.span, TROUBLE: self.trouble}

    @property
    def slack(self) -> float:
        """Return how much less exact it is than scrapes a second apart."""
        return 1

    def view(self, moment: str) -> View:
        """Return what the exporters said at a moment, and since the beginning."""
        span = self.spans[moment]
        measured = while_measured(self.ledgers)
        return View(self.said[BEFORE], self.said[moment], span.end - span.start, measured)


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Run everything: a restart of a daemon, then both loads at one time, then trouble."""
    with contextlib.ExitStack() as stack:
        targets = Targets(folder)
        servers = {
            name: stack.enter_context(serving(name, folder / name, targets)) for name in available()
        }
        history = time.time()
        daemons = {mode: _daemon(stack, mode, folder, targets) for mode in MODES}
        _wait_for(servers, "count(up{job='etltd'} == 1)", len(MODES))
        daemons["lt"] = _restarted(stack, daemons["lt"], folder)
        probes = (
            {} if refusal() else {mode: _probe(stack, daemons[mode], targets) for mode in MODES}
        )
        _wait_for(servers, "count(changes(etltd_start_time_seconds[1m]) > 0)", 1)
        # A new target may be taken up 5 s late: the clients' are told of before they come.
        for _ in MODES:
            targets.add("loadclient", f"127.0.0.1:{free_port()}")
        _wait_for(servers, "count(min_over_time(up[3s]) == 1)", len(MODES) + len(probes))
        _wait_for(servers, "count(up{job='loadclient'} == 0)", len(MODES))

        # What a daemon spends on starting is in rates for as long as they look back.
        recently = f"changes(etltd_start_time_seconds[{RUN_RATE}]) > 0"
        _wait_for(servers, f"absent({recently})", 1)
        before = {mode: daemon.quiet_metrics() for mode, daemon in daemons.items()}
        start, said = time.time(), {BEFORE: look(targets.addresses, without="loadclient")}
        _wait_for(servers, f"count(timestamp(etltd_epoll_waits_total) > {start})", len(MODES))
        loads = [_load(stack, daemons[mode], mode, folder, targets) for mode in MODES]
        during = _last_look_at_the_load(servers)
        said[DURING] = look(targets.addresses)
        ledgers = {load.mode: load.ledger() for load in loads}
        for ledger in ledgers.values():
            assert besides_busy(ledger["invalid_reasons"]) == []
        after = {mode: daemon.quiet_metrics() for mode, daemon in daemons.items()}
        end = _settled(servers, ledgers, after)
        said[END] = look(targets.addresses)
        alerts = [one for server in servers.values() for one in server.get("alerts")["alerts"]]

        for mode, daemon in daemons.items():
            trouble(daemon, lines=1 + MODES.index(mode))
        troubled = _seen(servers, "etltd_messages_dropped_total")
        said[TROUBLE] = look(targets.addresses)
        smeared = Span(start, end, rate_interval=f"{SMEAR_SECONDS}s", history=history)
        yield Scene(
            servers,
            daemons,
            probes,
            ledgers,
            targets.addresses,
            smeared,
            Span(start, during, history=history),
            Span(start, troubled, history=history),
            {mode: _risen(before[mode], after[mode]) for mode in MODES},
            said,
            alerts,
        )


def trouble(daemon: Endpoint, lines: int) -> None:
    """Have a peer say *lines* that are too long and half a line, and another read nothing.

    The second is owed bytes from then on, and is denied some, until the daemon ends.
    """
    limit = 8192
    bad = daemon.crowd(1)
    (speaker,) = bad.clients
    speaker.say((b"x" * limit + b"\n") * lines + b"half a line")
    bad.until(lambda: not speaker.outgoing)
    speaker.sock.shutdown(socket.SHUT_WR)
    until(lambda: total(daemon.metrics(), "messages_discarded_total") == lines + 1)
    deaf, talker = daemon.crowd(1, rcvbuf=4096), daemon.crowd(1)
    assert deaf.clients
    while not daemon.metrics()["messages_dropped_total slow_consumer"]:
        talker.clients[0].say((b"y" * 4000 + b"\n") * 64)
        talker.until(lambda: not talker.clients[0].outgoing)
    daemon.quiet_metrics()


def _probe(stack: contextlib.ExitStack, daemon: DaemonProcess, targets: Targets) -> Exporter:
    probe = Exporter("--pid", str(daemon.pid), "--stats")  # by name it would count everybody's
    stack.callback(probe.stop)
    targets.add("etlt-probe", probe.url.split("/")[2])
    return probe


def _load(
    stack: contextlib.ExitStack, daemon: DaemonProcess, mode: str, folder: Path, targets: Targets
) -> Load:
    port = int(targets.addresses["loadclient"][MODES.index(mode)].rpartition(":")[2])
    load = Load(daemon, mode, folder, port)
    stack.callback(load.stop)
    return load


def _settled(
    servers: dict[str, Prometheus],
    ledgers: dict[str, dict[str, Any]],
    after: dict[str, dict[str, float]],
) -> float:
    """Return a moment at which the servers have all of the runs, also in their rates."""
    for name in ("messages_received", "messages_offered"):
        _wait_for(servers, f"sum(etlt_load_{name}_total)", sum(o[name] for o in ledgers.values()))
    delivered = sum(one["messages_delivered_total"] for one in after.values())
    _wait_for(servers, "sum(etltd_messages_delivered_total)", delivered)
    settled = time.time() + SMEAR_SECONDS + 1
    until(lambda: time.time() > settled)
    return time.time()


def _seen(servers: dict[str, Prometheus], metric: str) -> float:
    """Return a moment at which every server has scraped every daemon twice more."""
    now = time.time()
    _wait_for(
        servers, f"count(min by (instance) (timestamp({metric} offset 2s)) > {now})", len(MODES)
    )
    return time.time()


def _risen(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in after.items()}


def _daemon(
    stack: contextlib.ExitStack, mode: str, folder: Path, targets: Targets
) -> DaemonProcess:
    daemon = DaemonProcess(mode, log=folder / f"etltd-{mode}.log")
    stack.callback(daemon.close)
    daemon.wait_until_listening()
    targets.add("etltd", daemon.scrape_address)
    return daemon


def _restarted(stack: contextlib.ExitStack, daemon: DaemonProcess, folder: Path) -> DaemonProcess:
    ports = (
        *("--port", str(daemon.address[1])),
        *("--metrics-port", daemon.scrape_address.rsplit(":", 1)[1]),
    )
    daemon.close()
    again = DaemonProcess("lt", log=folder / "etltd-lt-again.log", ports=ports)
    stack.callback(again.close)
    again.wait_until_listening()
    return again


def _wait_for(servers: dict[str, Prometheus], expr: str, wanted: float) -> None:
    """Wait until every server answers *expr* with one number, *wanted*."""
    last: dict[str, Any] = {}

    def do_all_agree() -> bool:
        for name, prometheus in servers.items():
            answer = prometheus.instant("", expr, time.time())
            last[name] = [values[-1] for _, values in answer.series] or answer.error
        return all(values == [wanted] for values in last.values())

    try:
        until(do_all_agree, PATIENCE_SECONDS)
    except AssertionError:
        raise AssertionError(f"{expr} is {last}, never {wanted}") from None


def _last_look_at_the_load(servers: dict[str, Prometheus]) -> float:
    """Return a moment at which both runs had been measured for a while and still were."""
    seconds = 4 * PACE + 1  # so that the boards see it, and a scrape
    phase = 'etlt_load_phase{phase="measure"}'
    looks = f"count_over_time({phase}[{seconds}s]) >= {seconds - 1}"
    expr = f"count(min_over_time({phase}[{seconds}s]) == 1 and {looks})"
    _wait_for(servers, expr, len(MODES))
    return time.time()
