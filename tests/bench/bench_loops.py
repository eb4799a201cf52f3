"""Two loops on a bus against one loop: the same clients, the same load.

Usage: python tests/bench/bench_loops.py [PAIRS] [CONNS] [RATE]
Interleaved runs (one two two one …). Two load processes are the parts of each run: with one loop
both load it, with two each loads one, and what one says the other must hear by the bus.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.statistics import estimate, log_ratios
from loadclient.daemon import running_daemon
from loadclient.merge import merge
from loadclient.result import RunResult
from tests.system.nats import NatsServer
from tests.waiting import until

if TYPE_CHECKING:
    from loadclient.daemon import Daemon

SECONDS = 4
LEAD_SECONDS = 8


def one_run(loops: int, conns: int, rate: float) -> dict[str, float]:
    """Return what came of one run, and who used how much of a processor."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        nats = NatsServer(folder)
        stack.callback(nats.kill)
        bus = ["--bus", nats.url] if loops > 1 else []
        daemons = [
            stack.enter_context(running_daemon("et", folder / f"{i}.log", *bus))
            for i in range(loops)
        ]
        if bus:
            until(lambda: all(b"bus joined" in p.read_bytes() for p in folder.glob("?.log")))
        watched = [psutil.Process(pid) for pid in [*(d.pid for d in daemons), nats.process.pid]]
        before = [sum(process.cpu_times()[:2]) for process in watched]
        whole = load(folder, daemons, conns, rate)
        used = [
            sum(process.cpu_times()[:2]) - then
            for process, then in zip(watched, before, strict=True)
        ]
    span = whole.elapsed_seconds + (whole.drain_seconds or 0)
    return {
        "deliveries": whole.messages_received / span,
        "ratio": whole.delivery_ratio or 0.0,
        "loops": sum(used[:-1]) / span,
        "nats": used[-1] / span,
        "client": whole.client["cpu_seconds"] / whole.elapsed_seconds,
    }


def load(folder: Path, daemons: list[Daemon], conns: int, rate: float) -> RunResult:
    start = str(round(time.time() + LEAD_SECONDS, 3))
    files = [folder / f"{k}.json" for k in (1, 2)]
    parts = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "loadclient", "run", "127.0.0.1"),
                *(str(daemons[k % len(daemons)].address[1]), "--part", f"{k}/2"),
                *("--start-at", start, "--run-id", "loops", "--conns", str(conns // 2)),
                *("--rate", str(rate), "--duration", str(SECONDS), "--drain-timeout", "60"),
                *("--quiet", "--json", str(files[k - 1])),
            ],
            stderr=subprocess.DEVNULL,
        )
        for k in (1, 2)
    ]
    for part in parts:
        part.wait()
    return merge([RunResult.from_json(file.read_text()) for file in files])


def main(pairs: int = 6, conns: int = 100, rate: int = 200) -> None:
    """Print every run and the ratio with its 95 % interval."""
    print(
        f"{conns} clients x {rate} msg/s, all to all: {conns * (conns - 1) * rate:,} owed a second"
    )
    found: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(pairs):
        for loops in (1, 2) if pair % 2 == 0 else (2, 1):
            one = one_run(loops, conns, rate)
            found[loops].append(one["deliveries"])
            print(
                f"{loops} loop(s): {one['deliveries']:,.0f} deliveries/s, ratio "
                f"{one['ratio']:.4f}; "
                f"cores: loops {one['loops']:.2f}, NATS {one['nats']:.2f}, "
                f"load {one['client']:.2f}",
                flush=True,
            )
    logs = log_ratios(list(zip(found[2], found[1], strict=True)))
    known = estimate(logs, 0.95) if logs else None
    if known is None:
        print("too few pairs for an interval: six are needed")
        return
    ratio, low, high = map(math.exp, (known.middle, known.low, known.high))
    print(f"two loops against one: {ratio:.2f} (95 % of {pairs} pairs: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
