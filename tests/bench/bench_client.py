"""How far one core of the load client goes: the figures of BENCH.md.

Usage: python tests/bench/bench_client.py [ROUNDS]
One worker against the C server, which costs less than the client does, at loads that it can carry;
what a core could do is the load over the CPU that the worker took for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.rivals import RIVALS, running

SHAPES = {
    "all-to-all, 500 x 10 msg/s": "--conns=500 --rate=10",
    "all-to-all, 200 x 10 msg/s, every line parsed": "--conns=200 --rate=10 --verify=full",
    "100 x 20 msg/s x 512 B": "--conns=100 --rate=20 --msg-bytes=512",
    "one to 500, 500 msg/s": "--conns=501 --senders=1 --rate=500",
    "one to one, 2,000 msg/s": "--conns=2 --senders=1 --rate=2000",
}


def measured(options: str) -> dict[str, Any]:
    """Return the result of one run."""
    with running(RIVALS["C et"]) as (_, port), tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(port), "--quiet"]
        more = ["--no-burst", "--duration=3", "--warmup=1", f"--json={result}"]
        subprocess.run([*command, *more, *options.split()], check=False, capture_output=True)
        run: dict[str, Any] = json.loads(result.read_text())
        return run


def row(name: str, runs: list[dict[str, Any]]) -> str:
    seconds = [run["client"]["cpu_seconds"] for run in runs]
    sent = median(run["messages_sent"] / cpu for run, cpu in zip(runs, seconds, strict=True))
    heard = median(run["messages_received"] / cpu for run, cpu in zip(runs, seconds, strict=True))
    share = median(run["client"]["busiest_cpu_share"] for run in runs)
    ratio = min(run["delivery_ratio"] for run in runs)
    return f"| {name} | {ratio:.3f} | {share:.2f} | {sent:,.0f} | {heard:,.0f} |"


def main(rounds: int = 3) -> None:
    """Print one row for each shape."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SHAPES}
    for _ in range(rounds):
        for name, options in SHAPES.items():
            runs[name].append(measured(options))
    print("| load | delivered | cores | messages sent per core and second | copies heard |")
    print("|---|---|---|---|---|")
    for name, found in runs.items():
        print(row(name, found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
