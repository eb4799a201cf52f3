"""The load that both were built for: 500 clients x 50 msg/s x 64 B, all to all, all receiving.

12.5 million copies a second are owed, about 0.9 GB/s. Needs the two cores for itself: where others
take a core the client is late, says so, and its run is invalid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.rig import daemon, load

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL_SECONDS = 1 / 50


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_every_copy_of_500_times_50_messages_a_second_arrives(mode: str, tmp_path: Path) -> None:
    with daemon("--mode", mode) as server:
        result = load(server, tmp_path, "--conns=500", "--rate=50", "--duration=8", "--warmup=2")

    lag = result["schedule_lag_seconds"]["p99"]
    copies = result["messages_received"] / result["elapsed_seconds"]
    print(
        f"\n{mode}: {copies / 1e6:.2f} M copies/s, ratio {result['delivery_ratio']:.6f}, "
        f"p99 {result['latency_seconds']['p99'] * 1e3:.1f} ms, schedule lag p99 {lag * 1e3:.1f} ms"
    )
    assert result["invalid_reasons"] == []
    assert result["messages_sent"] == result["messages_offered"] == 200_000
    assert result["messages_received"] == 200_000 * 499
    assert lag < INTERVAL_SECONDS
