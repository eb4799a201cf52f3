"""What every expression of boards, rules and alerts must answer, by the exporters' own figures.

Written by hand and not derived from the expressions: which counters, by which labels, over what.
The expressions are asked with rates over a whole run, from rest to rest; a rate is then what a
counter rose by, over the seconds. Levels are compared in the midst of the load, and what only goes
wrong in trouble when there was some.

Slack: Prometheus extrapolates to the ends of the range from samples a second apart, and looks at
another moment than we do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ebpf.decode import DIRECTIONS
from tests.boards.rig import CONNECTIONS, MODES, RATE
from tests.boards.witnesses import DURING, END, TROUBLE, Values, View

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRAPOLATION = 0.08  # of a rate over some twenty samples or more
IDLE_COUNTS = 3.0  # calls of an idle loop between our look and Prometheus'
MEASURED = 0.25  # by which most of the phase may differ from all of it; exactly: test_verdict.py
FAILED = 0.3  # of the scrapes, on a busy machine
FLAPS = 4  # by which two of them show
QUANTILE = 0.3  # of a bucket, which is as wide as it is high
NONE: frozenset[tuple[str, str]] = frozenset()
Value = Callable[[View], Values]


@dataclass(frozen=True)
class Truth:
    """What one expression yields at one moment, and how nearly."""

    of: Value
    at: str = END
    rel: float = EXTRAPOLATION
    slack: float = 0.0
    leaves_out_nought: bool = False
    newborn: bool = False  # series may be born within the run: a rate misses what with

    def faults(self, view: View, answer: Values, slack: float = 1) -> Iterator[str]:
        """Yield what is wrong with *answer*, with so many times the usual *slack*."""
        wanted = self.of(view)
        if self.leaves_out_nought:
            least = {k: 0 if k in answer else self.slack for k in wanted}
            wanted = {labels: value for labels, value in wanted.items() if value > least[labels]}
        if self.newborn:  # in the last second: there is no rate of one sample
            born = set(wanted) - set(self.of(view.reborn()))
            wanted = {k: v for k, v in wanted.items() if k in answer or k not in born}
        if set(answer) != set(wanted):
            yield f"of {_told(set(answer))}, not of {_told(set(wanted))}"
            return
        for labels, value in answer.items():
            if self.newborn and value <= wanted[labels] and labels not in self.of(view.reborn()):
                continue
            near = {"rel_tol": slack * self.rel, "abs_tol": slack * self.slack}
            if not math.isclose(value, wanted[labels], **near):
                yield f"{value:g}, not {wanted[labels]:g}, of {_told({labels})}"


def _told(found: set[frozenset[tuple[str, str]]]) -> str:
    return " ".join(
        sorted("{" + ",".join(f"{k}={v}" for k, v in sorted(one)) + "}" for one in found)
    )


# -- forms ----------------------------------------------------------------------------------------


def rate(name: str, *by: str, at: str = END, counts: float = IDLE_COUNTS, **where: str) -> Truth:
    """Return a counter's rate."""

    def of(view: View) -> Values:
        return {k: v / view.seconds for k, v in view.rise(name, *by, **where).items()}

    return Truth(of, at, slack=counts / 20)


def rise(name: str, *by: str, **where: str) -> Truth:
    """Return by how much a counter rose, which `increase` extrapolates as `rate` does."""
    return Truth(lambda view: view.rise(name, *by, **where))


def level(
    name: str, *by: str, at: str = DURING, times: float = 1, rel: float = 0, **where: str
) -> Truth:
    """Return a gauge."""

    def of(view: View) -> Values:
        return {k: v * times for k, v in view.level(name, *by, **where).items()}

    return Truth(of, at, rel)


def total(name: str, *by: str, **where: str) -> Truth:
    """Return where a counter has come to; it began at nought."""
    return level(name, *by, at=END, **where)


def over(upper: Truth, lower: Truth, rel: float | None = None) -> Truth:
    """Return a quotient; a lower one without labels divides all."""

    def of(view: View) -> Values:
        below = lower.of(view)
        only = below.get(NONE)
        return {k: v / (below[k] if only is None else only) for k, v in upper.of(view).items()}

    slack = max(upper.rel, lower.rel)
    return Truth(of, upper.at, slack if rel is None else rel)


def less(upper: Truth, lower: Truth) -> Truth:
    """Return a difference of two single values."""
    return replace(upper, of=lambda view: {NONE: upper.of(view)[NONE] - lower.of(view)[NONE]})


def quantile(
    q: float, buckets: str, *by: str, at: str = END, rel: float = QUANTILE, **where: str
) -> Truth:
    """Return a quantile of a histogram."""
    return Truth(lambda view: view.quantile(q, buckets, *by, **where), at, rel)


def mean(histogram: str, *by: str, **where: str) -> Truth:
    """Return the mean of what a histogram counted."""
    return over(rate(f"{histogram}_sum", *by, **where), rate(f"{histogram}_count", *by, **where))


def plain(value: float, at: str = END, rel: float = 0, slack: float = 0) -> Truth:
    """Return a single value that is known beforehand."""
    return Truth(lambda _: {NONE: value}, at, rel, slack)


def each(name: str, *by: str, value: float = 1, at: str = DURING, slack: float = 0) -> Truth:
    """Return one value for each of the targets that have a series."""
    return Truth(lambda view: dict.fromkeys(view.level(name, *by), value), at, 0, slack)


def sides(of: Callable[[str], Truth]) -> list[Truth]:
    """Return the left side's truth and the right side's."""
    return [of(mode) for mode in MODES]


def compared(of: Callable[[str], Truth]) -> list[Truth]:
    """Return left, right, and right over left."""
    left, right = sides(of)
    return [left, right, over(right, left, rel=2 * max(left.rel, right.rel))]


# -- the boards -----------------------------------------------------------------------------------

WHO = ("mode", "instance")
CPU_SECONDS = 0.4  # what answering scrapes costs meanwhile
DAEMON = {
    "Scraped": [each("etltd_build_info", "job", "instance")],
    "Ready": [each("etltd_build_info", *WHO)],
    "Up since": [level("etltd_start_time_seconds", *WHO, times=1000, rel=1e-9)],
    "Connections, of the limit": [
        over(
            Truth(
                lambda v: dict.fromkeys(v.level("etltd_build_info", *WHO), CONNECTIONS), DURING, 0
            ),
            level("etltd_max_connections", *WHO),
            rel=1e-9,
        )
    ],
    "Descriptors, of the limit": [
        over(level("etltd_open_fds", *WHO), level("etltd_max_fds", *WHO), rel=0.2)
    ],
    "Received": [rate("etltd_messages_received_total", *WHO)],
    "Delivered": [rate("etltd_messages_delivered_total", *WHO)],
    "Tick duration": [quantile(q, "etltd_tick_seconds_bucket", "mode") for q in (0.5, 0.99)],
    "Dropped copies, by reason": [
        rate("etltd_messages_dropped_total", "mode", "reason", at=TROUBLE, counts=0.1)
    ],
    "Discarded input, by reason": [
        rate("etltd_messages_discarded_total", "mode", "reason", at=TROUBLE, counts=0.1)
    ],
    "Peers behind": [level("etltd_outbox_connections", *WHO, at=TROUBLE)],
    "Bytes owed": [level("etltd_outbox_bytes", *WHO, at=TROUBLE)],
    "Copies waiting": [level("etltd_outbox_messages", *WHO, at=TROUBLE)],
    "CPU": [replace(rate("etltd_cpu_seconds_total", "mode", "cpu_mode", counts=CPU_SECONDS))],
    "Loop busy": [rate("etltd_tick_seconds_sum", *WHO, counts=0.1)],
    "Memory": [level("etltd_resident_memory_bytes", *WHO, rel=0.05)],
    "Context switches": [rate("etltd_context_switches_total", "mode", "kind", counts=200)],
    "Ticks": [rate("etltd_epoll_waits_total", *WHO)],
    "Events per wakeup": [mean("etltd_wakeup_events", *WHO)],
    "Bytes": [rate("etltd_received_bytes_total", "mode"), rate("etltd_sent_bytes_total", "mode")],
    "System calls, by kind": [rate("etltd_syscalls_total", "mode", "syscall")],
    "Connections": [
        Truth(lambda v: dict.fromkeys(v.level("etltd_build_info", *WHO), CONNECTIONS), DURING, 0),
        level("etltd_connections_high_water", *WHO),
    ],
    "Accepted and closed, by reason": [
        rate("etltd_connections_accepted_total", "mode", at=TROUBLE, counts=0.1),
        rate("etltd_connections_closed_total", "mode", "reason", at=TROUBLE, counts=0.1),
    ],
    "Refused, by reason": [
        rate("etltd_connections_rejected_total", "mode", "reason", at=TROUBLE, counts=0.1)
    ],
}
DELIVERED, LATENCY = "etltd_messages_delivered_total", "etlt_load_delivery_latency_seconds"
OFFERED, RECEIVED = "etlt_load_messages_offered_total", "etlt_load_messages_received_total"
WAITS = "etlt_probe_epoll_waits_total"


SCRAPE_SECONDS = 1.0  # after which it would have been given up
# Counted for one second in thirty, since the probe began: what a look at other moments may differ.
PROGRAM_SECONDS = over(
    total("etlt_probe_bpf_run_seconds_total", "program"),
    total("etlt_probe_bpf_runs_total", "program"),
    rel=0.5,
)


def _per_delivered(name: str, mode: str, *by: str, rel: float = MEASURED, **where: str) -> Truth:
    def spent(name: str, *by: str, **where: str) -> Truth:
        return Truth(lambda view: view.spent(name, *by, mode=mode, **where), rel=rel)

    return over(spent(name, *by, **where), spent(DELIVERED))


def _eagains(mode: str) -> Truth:
    """Return what hardly depends on how many messages a tick brings: one for each that is read."""
    return _per_delivered("etltd_syscall_eagain_total", mode, rel=0.05, syscall="!accept4")


HOME = {
    "Wakeups per message": compared(lambda m: _per_delivered("etltd_epoll_wakeups_total", m)),
    "System calls per message": compared(lambda m: _per_delivered("etltd_syscalls_total", m)),
    "CPU time per message": compared(
        lambda m: _per_delivered("etltd_cpu_seconds_total", m, rel=0.25)
    ),
    "EAGAINs per message": [*sides(_eagains), less(_eagains("et"), _eagains("lt"))],
    "Latency, p99": compared(lambda m: quantile(0.99, f"{LATENCY}_bucket", mode=m, rel=1e-6)),
    "Gate: offered load, right over left": [plain(1), plain(1), plain(1, rel=0.01)],
    "Gate: delivery ratio": [plain(1), plain(1)],
    "Gate: kernel count over daemon count": sides(
        # Rates over all of the load, at moments within it, are of one scrape more or less.
        lambda m: over(rate(WAITS, mode=m), rate("etltd_epoll_waits_total", mode=m), rel=MEASURED)
    ),
    "Gate: scrape health": [plain(1, rel=FAILED), plain(1, rel=FAILED)],
    "Is it comparable?": [plain(1, slack=1)],  # by its gates: test_equal_runs_are_comparable
    "Scrape duration": [plain(0, slack=SCRAPE_SECONDS), plain(0, slack=SCRAPE_SECONDS)],
    "Probe: time per program run": [PROGRAM_SECONDS],
    "Messages offered": sides(lambda m: rate(OFFERED, mode=m)),
    "Messages delivered": [
        *sides(lambda m: rate(DELIVERED, mode=m)),
        *sides(lambda m: rate(RECEIVED, mode=m)),
    ],
    "CPU": sides(lambda m: rate("etltd_cpu_seconds_total", mode=m, counts=CPU_SECONDS)),
    "Wakeups": [
        *sides(lambda m: rate("etltd_epoll_wakeups_total", mode=m)),
        *sides(lambda m: rate(WAITS, mode=m, outcome="wakeup|ready")),
    ],
    "Events per wakeup": [
        *sides(lambda m: mean("etltd_wakeup_events", mode=m)),
        *sides(lambda m: mean("etlt_probe_epoll_events_per_wait", mode=m)),
    ],
    "Messages per batch": sides(lambda m: mean("etltd_batch_messages", mode=m)),
    "System calls per message, by kind": [
        replace(one, leaves_out_nought=True, slack=1e-2)  # sendto is rare, and comes in clusters
        for one in sides(lambda m: _per_delivered("etltd_syscalls_total", m, "syscall", rel=0.3))
    ],
    "epoll_ctl per message, by operation": [
        replace(one, slack=1e-2)  # connections are made before anything is measured
        for one in sides(lambda m: _per_delivered("etltd_epoll_ctl_total", m, "op"))
    ],
    "Reads that found nothing": sides(
        lambda m: rate("etltd_syscall_eagain_total", mode=m, syscall="recvfrom")
    ),
    "Delivery latency": [
        truth
        for q in (0.5, 0.99)
        for truth in sides(lambda m, q=q: quantile(q, f"{LATENCY}_bucket", mode=m))  # type: ignore[misc]
    ],
    "Delivery latency since sent, p99": sides(
        lambda m: quantile(0.99, "etlt_load_delivery_latency_uncorrected_seconds_bucket", mode=m)
    ),
    "Tick duration, p99": sides(lambda m: quantile(0.99, "etltd_tick_seconds_bucket", mode=m)),
    "System calls of other threads": [
        rate("etlt_probe_other_thread_syscalls_total", "mode", counts=200)
    ],
    "Client: schedule lag, p99": [quantile(0.99, "etlt_load_schedule_lag_seconds_bucket", "mode")],
    "Runs": [
        total(OFFERED, "run_id", "mode"),
        total("etlt_load_messages_sent_total", "run_id"),
        total(RECEIVED, "run_id"),
        total("etlt_load_messages_lost_total", "run_id"),
        each(RECEIVED, "run_id", at=END),
        quantile(0.99, f"{LATENCY}_bucket", "run_id", rel=1e-6),
    ],
}

P = "etlt_probe_"
TRANSFERS = "|".join(DIRECTIONS)  # the probe's own list of what moves bytes
BY_CALL, BY_ERROR = ("comm", "syscall"), ("comm", "syscall", "errno")
THREADS = level(f"{P}loop_threads", "comm", at=END)
KERNEL = {
    "Processes": [each(f"{P}target_info", "comm")],
    "Loop threads": [each(f"{P}target_info", "comm")],
    "System calls": [rate(f"{P}syscalls_total", "comm")],
    "Events missed": [
        plain(0),
        plain(0),
        plain(0),
    ],
    "Waits, by outcome": [rate(WAITS, "comm", "outcome")],
    "Events per wait": [mean(f"{P}epoll_events_per_wait", "comm")],
    "Blocked": [over(rate(f"{P}epoll_blocked_seconds_total", "comm"), THREADS)],
    "Events per wait, p50 and p99": [
        quantile(q, f"{P}epoll_events_per_wait_bucket", "comm") for q in (0.5, 0.99)
    ],
    "epoll_ctl, by operation": [rate(f"{P}epoll_ctl_total", "comm", "op")],
    "Context switches": [rate(f"{P}context_switches_total", "comm", "kind", counts=200)],
    "Calls, by kind": [replace(rate(f"{P}syscalls_total", *BY_CALL), newborn=True)],
    "Errors, by errno": [replace(rate(f"{P}syscall_errors_total", *BY_ERROR), newborn=True)],
    "Duration of I/O calls, p99": [
        quantile(0.99, f"{P}syscall_duration_seconds_bucket", *BY_CALL, syscall=TRANSFERS)
    ],
    "Bytes, by direction": [rate(f"{P}io_bytes_total", "comm", "direction")],
    "Time to answer a scrape": [
        each(f"{P}collect_seconds", "job", "instance", value=0, slack=SCRAPE_SECONDS)
    ],
    "Time per program run": [PROGRAM_SECONDS],
    "Not counted": [
        rate(f"{P}missed_runs_total", "program"),
        rate(f"{P}untracked_calls_total", "comm"),
        rate(f"{P}unmatched_exits_total", "comm"),
    ],
}
B = "etltd_bus_"
SIGN_BYTES = 3 * 100  # signs of life between our look and Prometheus'
EACH_AND_ALL = (WHO, ("mode",))


def accepting(*by: str) -> list[Truth]:
    """Return how often a listener was reported, who was accepted, and who was not there."""
    return [
        rate("etltd_epoll_events_total", *by, at=TROUBLE, counts=0.1, kind="accept"),
        rate("etltd_connections_accepted_total", *by, at=TROUBLE, counts=0.1),
        rate("etltd_syscall_eagain_total", *by, at=TROUBLE, counts=0.1, syscall="accept4"),
    ]


# Without a bus there are no such series, and the panels are empty: as true, and of no worth.
BUS = {
    "On the bus": [level(f"{B}connected", *WHO, at=TROUBLE)],
    "Other instances heard of": [level(f"{B}peers", *WHO, at=END)],
    "Messages missed, in this time range": [
        replace(rise(f"{B}lost_messages_total", *WHO), slack=0.5)  # it is rounded
    ],
    "Connections": [level("etltd_connections", *by) for by in EACH_AND_ALL],
    "Delivered": [rate(DELIVERED, *by) for by in EACH_AND_ALL],
    "CPU": [rate("etltd_cpu_seconds_total", *by, counts=CPU_SECONDS) for by in EACH_AND_ALL],
    "Messages out": [rate(f"{B}published_messages_total", *by) for by in EACH_AND_ALL],
    "Messages in": [rate(f"{B}received_messages_total", *by) for by in EACH_AND_ALL],
    "Bytes out": [rate(f"{B}published_bytes_total", *by, counts=SIGN_BYTES) for by in EACH_AND_ALL],
    "Bytes in": [rate(f"{B}received_bytes_total", *by, counts=SIGN_BYTES) for by in EACH_AND_ALL],
    "Messages per envelope": [
        over(rate(f"{B}published_messages_total", *WHO), rate(f"{B}published_batches_total", *WHO))
    ],
    "Lag, p50": [quantile(0.5, f"{B}lag_seconds_bucket", *by) for by in EACH_AND_ALL],
    "Lag, p99": [quantile(0.99, f"{B}lag_seconds_bucket", *by) for by in EACH_AND_ALL],
    "Bytes waiting": [
        level(f"{B}{way}_bytes", *WHO, at=TROUBLE) for way in ("outgoing", "incoming")
    ],
    "Reconnects": [rate(f"{B}reconnects_total", *by, at=TROUBLE) for by in EACH_AND_ALL],
    "Failures to connect": [
        rate(f"{B}connect_failures_total", *by, at=TROUBLE) for by in EACH_AND_ALL
    ],
    "Missed": [rate(f"{B}lost_messages_total", *by) for by in EACH_AND_ALL],
    "Gaps": [rate(f"{B}gaps_total", *by, counts=0) for by in EACH_AND_ALL],
    "Late messages, strangers": [
        rate(f"{B}{what}_total", "mode", counts=0)
        for what in ("late_messages", "foreign_envelopes")
    ],
    "Given up, by reason": [rate(f"{B}dropped_messages_total", "mode", "reason", counts=0)],
    "Accepting, each instance": accepting(*WHO),
    "Accepting, all of a mode": accepting("mode"),
}
BOARDS = {
    "etlt / Daemon": DAEMON,
    "etlt / ET vs LT": HOME,
    "etlt / Kernel": KERNEL,
    "etlt / Bus": BUS,
}

# -- rules and alerts -----------------------------------------------------------------------------


def share(part: str, rest: str) -> Truth:
    """Return a part of what is made of two counters, by mode; of nothing there is none."""

    def of(view: View) -> Values:
        found, other = view.rise(part, "mode"), view.rise(rest, "mode")
        whole = {mode: value + other[mode] for mode, value in found.items()}
        return {mode: value / whole[mode] for mode, value in found.items() if whole[mode]}

    return Truth(of)


def _by_delivered(name: str, rel: float = EXTRAPOLATION, **where: str) -> list[Truth]:
    spent = replace(rate(name, "mode", **where), rel=rel)
    return [over(spent, rate(DELIVERED, "mode"))]


RECORDINGS = {
    "mode:etltd_messages_delivered:rate1m": [rate(DELIVERED, "mode")],
    "mode:etltd_wakeups_per_delivered:ratio_rate1m": _by_delivered("etltd_epoll_wakeups_total"),
    "mode:etltd_syscalls_per_delivered:ratio_rate1m": _by_delivered("etltd_syscalls_total"),
    "mode:etltd_cpu_seconds_per_delivered:ratio_rate1m": _by_delivered(
        "etltd_cpu_seconds_total", rel=0.25
    ),
    "mode:etltd_eagains_per_delivered:ratio_rate1m": _by_delivered(
        "etltd_syscall_eagain_total", syscall="!accept4"
    ),
    "mode:etltd_events_per_wakeup:ratio_rate1m": [mean("etltd_wakeup_events", "mode")],
    "mode:etlt_load_messages_offered:rate1m": [rate(OFFERED, "mode")],
    "mode:etlt_load_delivery_latency_seconds:p99_rate1m": [
        quantile(0.99, f"{LATENCY}_bucket", "mode")
    ],
    "mode:etlt_load_delivery:ratio": [each(RECEIVED, "mode", at=END)],
    "mode:etlt_load_steady:last30s": [
        level("etlt_load_phase", "mode", phase="measure")  # both are, in the midst of the load
    ],
    "mode:etlt_probe_waits_per_daemon_wait:ratio_rate1m": [
        over(rate(WAITS, "mode"), rate("etltd_epoll_waits_total", "mode"))
    ],
    "mode:etltd_bus_lag_seconds:p99_rate1m": [quantile(0.99, f"{B}lag_seconds_bucket", "mode")],
    "mode:etltd_bus_missed:ratio_rate1m": [
        share(f"{B}lost_messages_total", f"{B}received_messages_total")
    ],
}
TARGET = ("job", "instance", "mode")
SLOW = "slow_consumer|evicted"
BOTH = plain(len(MODES), at=DURING)
ALIKE = plain(0, at=DURING, slack=1e-9)
SENT = rate("etlt_load_sent_bytes_total", "mode")
UNREAD = replace(  # each of two greater figures that are hardly the same
    SENT,
    of=lambda view: {
        k: v - rate("etltd_received_bytes_total", "mode").of(view)[k]
        for k, v in SENT.of(view).items()
    },
    slack=EXTRAPOLATION * CONNECTIONS * RATE * 64,
)


def answering(name: str) -> list[Truth]:
    """Return that targets which have a series are up, how often they were, and how often not."""
    known = ((1, 0), (1, FAILED), (0, FLAPS))
    return [each(name, "job", "instance", value=value, slack=slack) for value, slack in known]


# Of an alert, what is compared with a limit, in its order.
ALERTS = {
    "EtltdDown": answering("etltd_build_info"),
    "EtltProbeDown": answering(f"{P}collect_seconds"),
    "EtltdLoopStalled": [rate("etltd_epoll_waits_total", *TARGET)],
    "EtltdInputUnread": [UNREAD],
    "EtltdOutputStuck": [
        level("etltd_outbox_bytes", *TARGET, at=TROUBLE),
        rate("etltd_sent_bytes_total", *TARGET),
    ],
    "EtltdNotReady": [each("etltd_build_info", *TARGET)],
    "EtltdSlowConsumersDropping": [
        rate("etltd_messages_dropped_total", *WHO, at=TROUBLE, counts=0.1, reason=SLOW)
    ],
    "EtltdConnectionsNearLimit": [
        over(level("etltd_connections", *TARGET), level("etltd_max_connections", *TARGET))
    ],
    "EtltdDescriptorsNearLimit": [
        over(level("etltd_open_fds", *TARGET), level("etltd_max_fds", *TARGET), rel=0.2)
    ],
    "EtltdBusDown": [level(f"{B}connected", *TARGET, at=TROUBLE)],
    "EtltdBusMissing": [rate(f"{B}lost_messages_total", *WHO)],
    "EtltdBusLagging": [quantile(0.99, f"{B}lag_seconds_bucket", *WHO)],
    "EtltdBusStrangers": [rise(f"{B}foreign_envelopes_total", *WHO)],
    "EtltProbeLosingEvents": [
        each(f"{P}collect_seconds", "instance", value=0, at=END) for _ in range(3)
    ],
    "EtltComparisonInvalid": [
        plain(0, at=DURING, slack=0.3),  # offered lately: clients tell once a second
        BOTH,
        plain(0),  # offered in all
        plain(len(MODES)),  # both linger
        ALIKE,  # connections
        BOTH,
        plain(0, at=DURING, slack=0.01),  # bytes per message
        BOTH,
        plain(0),  # lost
        plain(len(MODES)),
        plain(0, slack=EXTRAPOLATION),  # the kernel's count
        BOTH,
        ALIKE,  # processes
        BOTH,  # that are watched
        BOTH,
    ],
}
