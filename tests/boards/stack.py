"""The whole thing, live: both daemons, the same load on each, the probe, and a Prometheus."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from tests.boards.drawing import ask, running
from tests.system.rig import DaemonProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODES = ("lt", "et")
SERVING = re.compile(r"http://(127\.0\.0\.1:\d+)/metrics")
LOAD = ("--conns", "20", "--rate", "10", "--warmup", "1", "--duration", "600", "--quiet")
MEASURED_SECONDS = 30  # of the load, seen by Prometheus, before anybody looks
PATIENCE_SECONDS = 180.0
RULES = ("recording.yaml", "alerts.yaml")


@contextmanager
def stack(folder: Path, rules: Path) -> Iterator[str]:
    """Run everything while the block runs; yields the address of Prometheus when it has seen load.

    The load would go on for ten minutes; it ends with the block.
    """
    with ExitStack() as exits:
        daemons = {}
        for mode in MODES:
            daemons[mode] = DaemonProcess(mode, log=folder / f"{mode}.log")
            exits.callback(_end, daemons[mode].process)
            daemons[mode].wait_until_listening()
        jobs = {
            "etltd": [daemon.scrape_address for daemon in daemons.values()],
            "etlt-probe": [exits.enter_context(_probe(folder, daemons))],
            "loadclient": [
                exits.enter_context(_load(mode, daemon)) for mode, daemon in daemons.items()
            ],
        }
        config = folder / "prometheus.yml"
        config.write_text(_config(jobs, rules))
        address = exits.enter_context(running(config, folder / "live"))
        _await_measurements(address)
        yield address


def _await_measurements(address: str) -> None:
    """Wait until there is something to see; ask seldom, because asking is load, too."""
    deadline = monotonic() + PATIENCE_SECONDS
    while _measured(address) < MEASURED_SECONDS:
        assert monotonic() < deadline, f"no {MEASURED_SECONDS} s of load"
        threading.Event().wait(1)


def _measured(address: str) -> float:
    """Return for how many seconds both loads have been in their measured phase."""
    found = ask(address, 'sum by (mode) (sum_over_time(etlt_load_phase{phase="measure"}[10m]))')
    return min(found.values()) if len(found) == len(MODES) else 0


def _config(jobs: dict[str, list[str]], rules: Path) -> str:
    """Return a Prometheus configuration; JSON is YAML."""
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in jobs.items()
    ]
    seconds = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    files = [str(rules / name) for name in RULES]
    return json.dumps({"global": seconds, "scrape_configs": scrapes, "rule_files": files})


@contextmanager
def _probe(folder: Path, daemons: dict[str, DaemonProcess]) -> Iterator[str]:
    log = folder / "probe.log"
    pids = [word for daemon in daemons.values() for word in ("--pid", str(daemon.pid))]
    command = [sys.executable, "-m", "ebpf", "--port", "0", "--stats", *pids]
    with log.open("wb") as sink, subprocess.Popen(command, stderr=sink) as process:
        try:
            until(lambda: SERVING.search(log.read_text()) or process.poll() is not None, 60)
            found = SERVING.search(log.read_text())
            assert found, log.read_text()
            yield found[1]
        finally:
            _end(process)


@contextmanager
def _load(mode: str, daemon: DaemonProcess) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    host, chat = daemon.address
    options = [*LOAD, "--metrics-port", port, "--run-id", f"run-{mode}"]
    options += ["--server-metrics", f"http://{daemon.scrape_address}/metrics"]
    command = [sys.executable, "-m", "loadclient", "run", host, str(chat), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
