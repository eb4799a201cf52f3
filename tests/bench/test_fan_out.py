"""What batching buys: deliveries per CPU-second, `--fan-out batch` against `--fan-out message`.

Both daemons are offered the same 500 x 50 msg/s x 64 B, all to all, every client reading. The one
that writes message by message cannot keep up, so its run is cut off; what it delivered, and the CPU
it spent on that, are its own counters' word over the same phase.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from tests.bench.rig import daemon, load

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = 3
TARGET = 15


def deliveries_per_cpu_second(mode: str, fan_out: str, folder: Path) -> float:
    """Run one daemon under the load and return its efficiency."""
    with daemon("--mode", mode, "--fan-out", fan_out) as server:
        before = server.scrape()
        load(server, folder, "--conns=500", "--rate=50", "--duration=3", "--warmup=0",
             "--drain-timeout=1")  # fmt: skip
        after = server.scrape()
    delivered = after["messages_delivered_total"] - before["messages_delivered_total"]
    cpu_seconds = sum(
        after[f"cpu_seconds_total{{{kind}}}"] - before[f"cpu_seconds_total{{{kind}}}"]
        for kind in ("user", "system")
    )
    return delivered / cpu_seconds


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_batching_delivers_many_times_more_per_cpu_second(mode: str, tmp_path: Path) -> None:
    ratios = []
    for pair in range(PAIRS):
        order = ["batch", "message"] if pair % 2 else ["message", "batch"]
        speed = {kind: deliveries_per_cpu_second(mode, kind, tmp_path) for kind in order}
        ratios.append(speed["batch"] / speed["message"])

    shown = ", ".join(f"{ratio:.0f}" for ratio in ratios)
    middle = statistics.median(ratios)
    print(f"\n{mode}: batch / message, deliveries per CPU-second: {shown}; median {middle:.0f}")
    assert middle >= TARGET
