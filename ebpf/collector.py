"""Prometheus metrics from a snapshot: names as in the design, closed label sets, exact edges.

Rule: a series is either true or absent. What a --lite probe does not time and what was not sampled
are left out rather than exported as nought. What every epoll server calls is exported from the
beginning, at nought, which is true: a rate knows nothing of what a series was born with.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from ebpf.decode import DIRECTIONS, IO_CALLS, CallCounts, Histogram
from ebpf.doubts import REASONS, doubts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ebpf.watch import Group, Snapshot

LABELS = ["mode", "comm"]
USUAL_CALLS = ("accept4", "close", "epoll_ctl", "epoll_wait", "recvfrom", "sendmsg", "sendto")
NON_BLOCKING = ("accept4", "recvfrom", "sendmsg", "sendto")  # they find nothing, or no room
SECOND_NS = 1e9
EVENT_SLOTS = (1, 13)  # 1 to 8191 events; the daemon's wakeup_events has the same
DURATION_SLOTS = (7, 36)  # 127 ns to 68.7 s
NOTHING = Histogram((0,) * (DURATION_SLOTS[1] + 1), 0)


class ProbeCollector:
    """Turns snapshots into metrics; a `prometheus_client` custom collector."""

    def __init__(self, snapshot: Callable[[], Snapshot], *, lite: bool, stats: bool) -> None:
        self._snapshot = snapshot
        self._lite = lite
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not read the maps."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        started = time.perf_counter()
        snapshot = self._snapshot()
        yield from _calls(snapshot.groups)
        if not self._lite:
            yield _durations(snapshot.groups)
        yield from _epoll(snapshot.groups)
        yield from _tasks(snapshot.groups)
        yield from _targets(snapshot)
        yield _doubts(snapshot)
        yield from _own_health(snapshot, stats=self._stats)
        yield GaugeMetricFamily(
            "etlt_probe_collect_seconds",
            "Time taken to read the maps and prepare this answer.",
            value=time.perf_counter() - started,
        )


def cumulative(
    histogram: Histogram, slots: tuple[int, int], scale: float = 1
) -> list[tuple[str, float]]:
    """Return (le, count) pairs, `+Inf` last; *scale* is units of the histogram per exported unit.

    A division, not a multiplication: 8191 / 1e9 prints as 8.191e-06, 8191 * 1e-9 need not.
    """
    inner = [(_le(edge / scale), float(below)) for edge, below in histogram.buckets(*slots)]
    return [*inner, ("+Inf", float(histogram.count))]


def _le(edge: float) -> str:
    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]


def _labels(group: Group) -> list[str]:
    return [group.label.mode, group.label.comm]


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"etlt_probe_{name}", text, labels=[*LABELS, *labels])


def _usual_and_seen(group: Group) -> dict[str, CallCounts]:
    usual = {
        name: CallCounts(name, 0, {"EAGAIN": 0} if name in NON_BLOCKING else {}, NOTHING)
        for name in USUAL_CALLS
    }
    seen = {
        name: replace(call, errors={**usual[name].errors, **call.errors}) if name in usual else call
        for name, call in group.counts.calls.items()
    }
    return usual | seen


def _calls(groups: Iterable[Group]) -> Iterator[Metric]:
    calls = _counter("syscalls", "System calls the loop threads completed.", "syscall")
    errors = _counter(
        "syscall_errors",
        "System calls that failed, by errno; EAGAIN is how an edge-triggered drain ends.",
        "syscall",
        "errno",
    )
    moved = _counter(
        "io_bytes", "Bytes moved by reads and writes of the loop threads.", "syscall", "direction"
    )
    for group in groups:
        for name, call in _usual_and_seen(group).items():
            calls.add_metric([*_labels(group), name], call.calls)
            for error, count in call.errors.items():
                errors.add_metric([*_labels(group), name, error], count)
            if call.transferred is not None:
                moved.add_metric([*_labels(group), name, DIRECTIONS[name]], call.transferred)
    yield from (calls, errors, moved)


def _durations(groups: Iterable[Group]) -> Metric:
    family = HistogramMetricFamily(
        "etlt_probe_syscall_duration_seconds",
        "Time from the entry of a system call to its return, I/O calls only.",
        labels=[*LABELS, "syscall"],
    )
    for group in groups:
        for name, call in _usual_and_seen(group).items():
            if name in IO_CALLS:
                family.add_metric(
                    [*_labels(group), name],
                    buckets=cumulative(call.durations, DURATION_SLOTS, SECOND_NS),
                    sum_value=call.durations.total / SECOND_NS,
                )
    return family


def _epoll(groups: Iterable[Group]) -> Iterator[Metric]:
    waits = _counter(
        "epoll_waits",
        "Returns of epoll_wait: wakeup (slept, events), ready (events without sleeping), timeout "
        "(slept, none), empty (none, without sleeping), interrupted (by a signal), failed.",
        "outcome",
    )
    operations = _counter("epoll_ctl", "Calls of epoll_ctl by operation.", "op")
    events = HistogramMetricFamily(
        "etlt_probe_epoll_events_per_wait",
        "Events returned by the waits that returned any; the sum is the number of events.",
        labels=LABELS,
    )
    blocked = _counter(
        "epoll_blocked_seconds",
        "Time inside epoll waits that slept, the present one included; the rest is busy time.",
    )
    threads = GaugeMetricFamily(
        "etlt_probe_loop_threads",
        "Threads that are counted: those that have entered epoll_wait since the probe came.",
        labels=LABELS,
    )
    for group in groups:
        for outcome, count in group.counts.outcomes.items():
            waits.add_metric([*_labels(group), outcome], count)
        for operation, count in group.counts.operations.items():
            operations.add_metric([*_labels(group), operation], count)
        events.add_metric(
            _labels(group),
            buckets=cumulative(group.counts.events, EVENT_SLOTS),
            sum_value=group.counts.events.total,
        )
        blocked.add_metric(_labels(group), group.counts.blocked_ns / SECOND_NS)
        threads.add_metric(_labels(group), group.counts.loop_threads)
    yield from (waits, operations, events, blocked, threads)


def _tasks(groups: Iterable[Group]) -> Iterator[Metric]:
    switches = _counter("context_switches", "Times a loop thread left the CPU.", "kind")
    others = _counter(
        "other_thread_syscalls",
        "System calls of the targets' other threads (a metrics server, say); counted nowhere else.",
    )
    unmatched = _counter(
        "unmatched_exits",
        "System call returns whose entry was not seen: in flight when the probe came, and one for "
        "each new thread.",
    )
    untracked = _counter(
        "untracked_calls",
        "System calls not counted because the thread table was full or the number is unknown.",
    )
    for group in groups:
        for kind, count in group.counts.switches.items():
            switches.add_metric([*_labels(group), kind], count)
        others.add_metric(_labels(group), group.counts.other_threads)
        unmatched.add_metric(_labels(group), group.counts.unmatched)
        untracked.add_metric(_labels(group), group.counts.untracked)
    yield from (switches, others, unmatched, untracked)


def _targets(snapshot: Snapshot) -> Iterator[Metric]:
    info = InfoMetricFamily("etlt_probe_target", "A watched process.", labels=[*LABELS, "pid"])
    up = GaugeMetricFamily(
        "etlt_probe_target_up", "Watched processes with this name that are alive.", labels=LABELS
    )
    for group in snapshot.groups:
        for pid in group.pids:
            info.add_metric([*_labels(group), str(pid)], {})
        up.add_metric(_labels(group), len(group.pids))
    for comm in snapshot.absent:
        up.add_metric(["unknown", comm], 0)
    yield from (info, up)
    yield GaugeMetricFamily(
        "etlt_probe_targets_unwatched",
        "Processes that match but are not counted, for lack of room or of reach.",
        value=snapshot.unwatched,
    )


def _doubts(snapshot: Snapshot) -> Metric:
    family = GaugeMetricFamily(
        "etlt_probe_doubts",
        "How much speaks against the completeness of the counts, by reason; nought is complete.",
        labels=["reason"],
    )
    found = dict.fromkeys(REASONS, 0)
    for doubt in doubts(snapshot):
        found[doubt.reason] += doubt.count
    for reason, count in found.items():
        family.add_metric([reason], count)
    return family


def _own_health(snapshot: Snapshot, *, stats: bool) -> Iterator[Metric]:
    missed = CounterMetricFamily(
        "etlt_probe_missed_runs",
        "Times the kernel skipped a program of the probe; above nought, counts are low.",
        labels=["program"],
    )
    runs = CounterMetricFamily(
        "etlt_probe_bpf_runs", "Program runs while they were sampled.", labels=["program"]
    )
    seconds = CounterMetricFamily(
        "etlt_probe_bpf_run_seconds",
        "Time in the program while it was sampled; divide by the runs.",
        labels=["program"],
    )
    for name, program in snapshot.programs.items():
        if program.missed is not None:
            missed.add_metric([name], program.missed)
        runs.add_metric([name], program.runs)
        seconds.add_metric([name], program.run_ns / SECOND_NS)
    yield missed
    if stats:
        yield from (runs, seconds)
