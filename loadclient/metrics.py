"""The Prometheus endpoint of a run: the parent's latest totals, on request.

Rule: a scrape reads what the run last said and disturbs nobody. Counters cover the measured phase
alone (they stand at 0 before), so that their last value is the result's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from loadclient.histogram import Histogram
from loadclient.protocol import Latencies, Snapshot
from loadclient.streams import printable
from loadclient.totals import Frames, all_lag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from loadclient.result import RunResult

PREFIX = "etlt_load_"
PHASES = ("connect", "hello", "warmup", "measure", "drain", "settle", "linger")
COUNTED = frozenset({"measure", "drain", "settle", "linger"})
LOST = ("announced", "closed", "unexplained")
BITS = range(14, 36)  # 16 us to 34 s; a slot ends at 2**bits - 1 ns, as everywhere in etlt
LABELS = ("mode", "run_id")


class LiveMetrics(Collector):
    """Collects from the last look at the run; `enter` and `look` make it an observer."""

    def __init__(self, mode: str) -> None:
        self._labels = [printable(mode), ""]  # the server's own word for it
        self._phase = ""
        self._total = Snapshot()
        self._received = 0
        self._lost = dict.fromkeys(LOST, 0)
        none = Histogram()
        self._latencies = Latencies(none, none, none, none)

    def serve(self, host: str, port: int) -> int:
        """Answer on *host* and *port* until the process ends; return the port.

        Raises OSError.
        """
        registry = CollectorRegistry()
        registry.register(self)
        server, _ = start_http_server(port, host, registry)
        return int(server.server_port)

    # What a run tells its observers.

    def begin(self, run_id: str) -> None:
        """Take note of the run's name."""
        self._labels = [self._labels[0], run_id]

    def enter(self, phase: str, _seconds: float | None) -> None:
        """Take note of a phase."""
        self._phase = phase

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Take note of the totals, once they count."""
        if self._phase not in COUNTED:
            self._total = Snapshot(connections=total.connections)
            return
        self._total = total
        self._received = frames.messages(total)
        self._lost["announced"] = total.announced
        if total.latencies is not None:
            self._latencies = total.latencies

    def finish(self, result: RunResult) -> None:
        """Replace estimates by the ledger's figures."""
        self._received = result.messages_received
        self._lost.update(result.lost_by_reason)

    # What a scrape reads.

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return every series of the run."""
        total = self._total
        yield self._gauge("connections", "Open connections.", total.connections)
        for name, text, value in (
            ("messages_offered", "Messages that came due.", total.offered),
            ("messages_sent", "Messages handed to the kernel, whole.", total.sent),
            ("sent_bytes", "Bytes handed to the kernel.", total.sent_bytes),
            (
                "messages_received",
                "Copies received: bytes by the mean frame, exact when the run is settled.",
                self._received,
            ),
            ("received_bytes", "Bytes received.", total.received_bytes),
        ):
            yield self._counter(name, text, value)
        yield self._lost_family()
        yield self._phase_family()
        latencies = self._latencies
        for name, text, histogram in (
            ("delivery_latency_seconds", "Latency since a sample was due.", latencies.corrected),
            (
                "delivery_latency_uncorrected_seconds",
                "Latency since a sample was really sent.",
                latencies.uncorrected,
            ),
            ("schedule_lag_seconds", "Lateness of each send.", all_lag(latencies)),
        ):
            yield self._histogram(name, text, histogram)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _lost_family(self) -> Metric:
        text = "Copies owed and not received, by what explains them."
        family = CounterMetricFamily(PREFIX + "messages_lost", text, labels=(*LABELS, "reason"))
        for reason in LOST:
            family.add_metric([*self._labels, reason], self._lost[reason])
        return family

    def _phase_family(self) -> Metric:
        text = "1 for the phase that the run is in."
        family = GaugeMetricFamily(PREFIX + "phase", text, labels=(*LABELS, "phase"))
        for phase in PHASES:
            family.add_metric([*self._labels, phase], int(phase == self._phase))
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(PREFIX + name, text, labels=LABELS)
        buckets = [(repr(((1 << bits) - 1) / 1e9), histogram.at_most_power(bits)) for bits in BITS]
        buckets.append(("+Inf", histogram.count))
        family.add_metric(self._labels, buckets, sum_value=histogram.sum / 1e9)
        return family
