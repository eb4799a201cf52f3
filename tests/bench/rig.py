"""Real daemons and the real load client, as the benchmarks drive them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP_SECONDS = 30


@dataclass(frozen=True)
class Server:
    """A running daemon."""

    process: subprocess.Popen[str]
    host: str
    port: int
    metrics: str

    def scrape(self) -> dict[str, float]:
        """Return its metrics; one with labels is keyed ``name{value}`` by its last label."""
        with urllib.request.urlopen(self.metrics, timeout=60) as answer:  # noqa: S310 - loopback
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return {_key(sample.name, sample.labels): sample.value for sample in samples}


def _key(name: str, labels: dict[str, str]) -> str:
    values = [value for label, value in labels.items() if label != "mode"]
    return f"{name.removeprefix('etltd_')}{'{' + values[-1] + '}' if values else ''}"


@contextlib.contextmanager
def daemon(*options: str, cwd: Path | None = None) -> Iterator[Server]:
    """Run a daemon on free ports, of the checkout *cwd*; stop it by its pid at the end."""
    command = [sys.executable, "-m", "etltd", "--port=0", "--metrics-port=0", "--log-format=json"]
    process = subprocess.Popen(
        [*command, "--grace-seconds=0.5", *options], stderr=subprocess.PIPE, text=True, cwd=cwd
    )
    assert process.stderr is not None
    try:
        listening = json.loads(process.stderr.readline())
        host, _, port = listening["chat"].rpartition(":")
        yield Server(process, host, int(port), listening["metrics"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_SECONDS)


def load(server: Server, folder: Path, *options: str) -> dict[str, Any]:
    """Run the load client against *server*; return its result, {} if it came to none."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "loadclient", "run", server.host, str(server.port)]
    subprocess.run(
        [*command, "--quiet", f"--json={result}", f"--server-metrics={server.metrics}", *options],
        check=False,
        capture_output=True,
    )
    loaded: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    return loaded
