"""What the probe costs a busy daemon: CPU per delivered message, interleaved with the bare daemon.

Run it: ``python tests/bench/bench_probe_server.py MODE [CONNS RATE BLOCKS]``. Needs bpf(2). One
daemon under one steady load; in every block each arm has a window of two seconds, in a new order.
The effect is the median over blocks of arm / bare, with its range: a block's neighbours share the
machine's mood.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ebpf import syscalls
from ebpf.loader import Build, Probe
from tests.probes.test_daemon import Daemon, total

MODE = sys.argv[1]
CONNS, RATE, BLOCKS = (*map(int, sys.argv[2:]), 500, 50, 7)[:3] if sys.argv[2:] else (500, 50, 7)
WINDOW_SECONDS = 2.0
ARMS: dict[str, Build | None] = {"bare": None, "lite": Build(lite=True), "full": Build()}
NAMES = syscalls.names(os.uname().machine)


def window(daemon: Daemon) -> tuple[float, float]:
    """Return (CPU ns per delivered message, system calls per delivered message)."""
    before = daemon.scrape()
    time.sleep(WINDOW_SECONDS)
    after = daemon.scrape()

    def grown(name: str) -> float:
        return total(after, name) - total(before, name)

    delivered = grown("etltd_messages_delivered_total")
    cpu, calls = grown("etltd_cpu_seconds_total"), grown("etltd_syscalls_total")
    return cpu / delivered * 1e9, calls / delivered


def measure(daemon: Daemon, build: Build | None) -> tuple[float, float]:
    if build is None:
        return window(daemon)
    with Probe(build) as probe:
        probe.assign(0, 0, daemon.process.pid)
        return window(daemon)


def main() -> None:
    daemon = Daemon(MODE)
    host, port = daemon.address
    seconds = int(BLOCKS * len(ARMS) * (WINDOW_SECONDS + 1) + 10)
    load = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadclient", "run", host, str(port), "--quiet"),
            *("--conns", str(CONNS), "--rate", str(RATE), "--duration", str(seconds)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while total(daemon.scrape(), "etltd_messages_delivered_total") < CONNS * CONNS:
            time.sleep(0.5)
        time.sleep(WINDOW_SECONDS)
        blocks = [
            {arm: measure(daemon, ARMS[arm]) for arm in random.sample(list(ARMS), len(ARMS))}
            for _ in range(BLOCKS)
        ]
    finally:
        load.terminate()
        load.wait()
        daemon.stop()
    print(f"{MODE}, {CONNS} connections x {RATE} msg/s, {BLOCKS} interleaved blocks")
    for arm in ARMS:
        cost = statistics.median(block[arm][0] for block in blocks)
        calls = statistics.median(block[arm][1] for block in blocks)
        ratios = sorted(block[arm][0] / block["bare"][0] - 1 for block in blocks)
        print(
            f"{arm:5} {cost:8.1f} ns per delivered message, {calls:.4f} calls per message, "
            f"{statistics.median(ratios):+.1%} ({ratios[0]:+.1%} to {ratios[-1]:+.1%})"
        )


if __name__ == "__main__":
    main()
