"""The run second by second, as CSV. Pure: snapshots in, text out."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from loadclient.totals import all_lag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadclient.histogram import Histogram
    from loadclient.protocol import Latencies, Snapshot
    from loadclient.totals import Frames

COLUMNS = (
    "unix_time", "seconds", "offered", "sent", "received", "received_bytes", "unsent_bytes",
    "connections", "latency_p50_seconds", "latency_p99_seconds", "schedule_lag_p99_seconds",
)  # fmt: skip


def as_csv(looks: Sequence[tuple[float, Snapshot]], start_ns: int, frames: Frames) -> str:
    """Return one row per look: totals so far, percentiles of the time since the look before."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    earlier: Latencies | None = None
    for unix_time, total in looks:
        latencies = total.latencies
        if latencies is None:
            continue
        latency, lag = latencies.corrected, all_lag(latencies)
        if earlier is not None:
            latency, lag = latency.since(earlier.corrected), lag.since(all_lag(earlier))
        earlier = latencies
        writer.writerow((
            f"{unix_time:.3f}",
            f"{(total.now_ns - start_ns) / 1e9:.3f}",
            total.offered,
            total.sent,
            frames.messages(total),
            total.received_bytes,
            total.unsent_bytes,
            total.connections,
            _seconds(latency, 0.5),
            _seconds(latency, 0.99),
            _seconds(lag, 0.99),
        ))  # fmt: skip
    return text.getvalue()


def _seconds(histogram: Histogram, fraction: float) -> str:
    value = histogram.percentile(fraction)
    return "" if value is None else f"{value / 1e9:.9f}"
