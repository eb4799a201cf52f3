"""What the probe costs a busy daemon: CPU per delivered message, interleaved with the bare daemon.

Run it: ``python tests/bench/bench_probe_server.py MODE [CONNS RATE BLOCKS]``. Needs bpf(2). One
daemon under one steady load; in every block each arm has a window of 0.7 s, in a new order.
The effect is the Hodges-Lehmann estimate over blocks of arm / bare, with its exact interval of
95 %: a block's neighbours share the machine's mood. The programs are compiled before the load and
are attached for their windows only: a compiler beside the load would delay it.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from ebpf.loader import Build, Probe
from loadclient.compare.statistics import estimate, log_ratios
from tests.probes.test_daemon import Daemon, total

if TYPE_CHECKING:
    from collections.abc import Iterator

MODE = sys.argv[1]
CONNS, RATE, BLOCKS = (*map(int, sys.argv[2:]), 500, 50, 31)[:3] if sys.argv[2:] else (500, 50, 31)
WINDOW_SECONDS = 0.7
SETTLE_SECONDS = 0.2
BUILDS = {"lite": Build(lite=True), "full": Build()}
ARMS = ("bare", *BUILDS)


def detach(probe: Probe) -> None:
    for name in probe.programs():
        probe._bpf.detach_raw_tracepoint(name.encode())


@contextmanager
def attached(probe: Probe | None) -> Iterator[None]:
    """Attach what `detach` detached; the targets assigned remain."""
    if probe is None:
        yield
        return
    for function in probe._bpf.funcs.values():
        place = function.name.decode().rsplit("__", 1)[-1]
        probe._bpf.attach_raw_tracepoint(place.encode(), function.name)
    yield
    detach(probe)


def window(daemon: Daemon) -> tuple[float, float]:
    """Return (CPU ns per delivered message, system calls per delivered message)."""
    before = daemon.scrape()
    delivered = 0.0

    def grown(name: str) -> float:
        return total(after, name) - total(before, name)

    while not delivered:  # a tick of a machine that is busy may outlast the window
        time.sleep(WINDOW_SECONDS)
        after = daemon.scrape()
        delivered = grown("etltd_messages_delivered_total")
    cpu, calls = grown("etltd_cpu_seconds_total"), grown("etltd_syscalls_total")
    return cpu / delivered * 1e9, calls / delivered


def measure(daemon: Daemon, probe: Probe | None) -> tuple[float, float]:
    with attached(probe):
        time.sleep(SETTLE_SECONDS)
        return window(daemon)


def report(blocks: list[dict[str, tuple[float, float]]]) -> None:
    print(f"{MODE}, {CONNS} connections x {RATE} msg/s, {len(blocks)} interleaved blocks")
    for arm in ARMS:
        cost = statistics.median(block[arm][0] for block in blocks)
        calls = statistics.median(block[arm][1] for block in blocks)
        line = f"{arm:5} {cost:8.1f} ns per delivered message, {calls:.4f} calls per message"
        ratios = log_ratios([(block[arm][0], block["bare"][0]) for block in blocks])
        found = estimate(ratios or [], 0.95)
        if arm != "bare" and found:
            low, middle, high = (math.exp(x) - 1 for x in (found.low, found.middle, found.high))
            line += f", {middle:+.1%} ({low:+.1%} to {high:+.1%})"
        print(line)


def main() -> None:
    daemon = Daemon(MODE)
    host, port = daemon.address
    seconds = int(BLOCKS * len(ARMS) * (WINDOW_SECONDS + SETTLE_SECONDS + 0.5) + 10)
    with ExitStack() as stack:
        probes: dict[str, Probe | None] = {"bare": None}
        for arm, build in BUILDS.items():
            probe = probes[arm] = stack.enter_context(Probe(build))
            probe.assign(0, 0, daemon.process.pid)
            detach(probe)
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
                {arm: measure(daemon, probes[arm]) for arm in random.sample(ARMS, len(ARMS))}
                for _ in range(BLOCKS)
            ]
        finally:
            load.terminate()
            load.wait()
            daemon.stop()
    report(blocks)


if __name__ == "__main__":
    main()
