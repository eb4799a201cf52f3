"""Boards to draw, a past that they show, and a real Prometheus that remembers it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
START, SECONDS, STEP = 1_760_000_000, 600, 5  # a past of ten minutes
END = START + SECONDS
WAKEUPS = {"et": 220, "lt": 410}  # per second: odd figures, so that they are not there by chance
MESSAGES = 1000
LISTENING = re.compile(r'msg="?Listening on"? .*address=(\S+:\d+)')


def past() -> str:
    """Return what a Prometheus would have scraped, as OpenMetrics: two modes, exact rates."""
    moments = range(START, END + 1, STEP)
    lines = []
    for metric, rates in (
        ("etltd_epoll_wakeups", WAKEUPS),
        ("etltd_messages_delivered", dict.fromkeys(WAKEUPS, MESSAGES)),
    ):
        lines.append(f"# TYPE {metric} counter")
        for mode, rate in rates.items():
            labels = f'job="etltd",instance="{mode}:9700",mode="{mode}"'
            lines += [f"{metric}_total{{{labels}}} {(at - START) * rate} {at}" for at in moments]
    lines.append("# TYPE etltd_restarts gauge")
    lines += [f"etltd_restarts {int(at == START + 300)} {at}" for at in moments]
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def prometheus(folder: Path, openmetrics: str) -> Iterator[str]:
    """Run a Prometheus over *openmetrics* while the block runs; yields its address."""
    data = folder / "data"
    (folder / "past.om").write_text(openmetrics)
    (folder / "prometheus.yml").write_text("global: {}\n")
    backfill = ["promtool", "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*backfill, str(folder / "past.om"), str(data)], check=True, capture_output=True)
    with running(folder / "prometheus.yml", data) as address:
        yield address


@contextmanager
def running(config: Path, data: Path) -> Iterator[str]:
    """Run a Prometheus on *config* while the block runs; yields its address."""
    log = config.with_suffix(".log")
    command = [
        *("prometheus", f"--config.file={config}", "--web.listen-address=127.0.0.1:0"),
        *(f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=50y"),
    ]
    with log.open("wb") as sink, subprocess.Popen(command, stderr=sink, stdout=sink) as process:
        try:
            until(lambda: LISTENING.search(log.read_text()) or process.poll() is not None)
            found = LISTENING.search(log.read_text())
            assert found, log.read_text()
            address = f"http://{found[1]}"
            until(lambda: _is_ready(address))
            yield address
        finally:
            process.terminate()
            process.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=10):  # noqa: S310 - loopback
            return True
    except OSError:
        return False


def ask(address: str, query: str, at: int | None = None) -> dict[str, float]:
    """Return what Prometheus itself says, by mode; now, or *at* a moment."""
    told = urllib.parse.urlencode({"query": query} | ({"time": at} if at else {}))
    with urllib.request.urlopen(f"{address}/api/v1/query?{told}", timeout=20) as answer:  # noqa: S310
        result = json.load(answer)["data"]["result"]
    return {one["metric"].get("mode", ""): float(one["value"][1]) for one in result}


def target(expr: str, legend: str = "{{mode}}", **more: Any) -> dict[str, Any]:
    return {"expr": expr, "legendFormat": legend, "datasource": SOURCE, "range": True, **more}


def panel(kind: str, title: str, *targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = [{"refId": chr(65 + i), **one} for i, one in enumerate(targets)]
    defaults = more.pop("defaults", {})
    overrides = more.pop("overrides", [])
    return {
        "type": kind,
        "title": title,
        "targets": named,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": {},
        **more,
    }


def board(path: Path, *panels: dict[str, Any], **more: Any) -> Path:
    """Write a board of *panels*, two in a row, to *path*."""
    placed = [
        {"id": i + 1, "gridPos": {"x": 12 * (i % 2), "y": 8 * (i // 2), "w": 12, "h": 8}, **one}
        for i, one in enumerate(panels)
    ]
    datasource = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    variables = [datasource, *more.pop("variables", [])]
    text = {"title": path.stem, "panels": placed, "templating": {"list": variables}, **more}
    path.write_text(json.dumps(text))
    return path


def missing() -> list[str]:
    """Return the programs that drawing needs and this machine has not."""
    needed = ("chromium", "node", "npm", "prometheus", "promtool")
    return [name for name in needed if shutil.which(name) is None]
