"""Daemon: what an operator on call needs. RED for messages, USE for the process, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import Look, Query
from dashboards.queries import DAEMON, gauge, mean, of_daemons, of_targets, over

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, timeseries
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panels

BY = "mode, instance"
WHO = panels.named(BY)


def board() -> Dashboard:
    """Return the board."""
    return panels.board(
        "etlt-daemon",
        "One or more etltd, for whoever is on call. What is split by a kind or a reason is summed "
        "over the chosen daemons of a mode: choose one instance to see it alone, and one job where "
        "two scrape the same daemons.",
        variables=(
            panels.datasource_variable(),
            panels.job_variable(),
            panels.instance_variable(),
        ),
        annotations=(panels.restarts(),),
        rows={
            "Now": (*_is_up(), *_limits()),
            "Messages: rate, errors, duration": (*_messages(), *_errors()),
            "Slow consumers": _slow(),
            "Process: utilisation, saturation, errors": _process(),
            "Loop": (*_loop(), _calls()),
            "Connections": _connections(),
        },
    )


def _levels(
    title: str, unit: str, description: str, metric: str, **look: Unpack[Look]
) -> timeseries.Panel:
    """Return a gauge of every daemon."""
    return panels.graph(title, unit, description, Query(gauge(metric, BY), WHO), **look)


def _rates(
    title: str, unit: str, description: str, metric: str, by: str = BY, **look: Unpack[Look]
) -> timeseries.Panel:
    return panels.rates(title, unit, description, of_daemons(metric), by, **look)


def _is_up() -> Panels:
    return (
        panels.yes_or_no(
            "Scraped",
            "Whether Prometheus gets an answer. The daemon may live all the same.",
            ("up", "DOWN"),
            Query(of_targets(f"up{{{DAEMON}}}", "etltd_build_info", DAEMON), "{{instance}}"),
            span=4,
            height=5,
        ),
        panels.yes_or_no(
            "Ready",
            "What /readyz says: the loop ticks, and new peers are taken in.",
            ("ready", "NOT READY"),
            Query(f"min by ({BY}) ({of_daemons('ready')})", WHO),
            span=4,
            height=5,
        ),
        panels.number(
            "Up since",
            units.DateTimeFromNow,
            "When the daemon started.",
            Query(f"max by ({BY}) ({of_daemons('start_time_seconds')}) * 1000", WHO),
            pixels=16,
        ),
    )


def _limits() -> Panels:
    return (
        _share(
            "Connections, of the limit",
            "At the limit new peers are told so and turned away.",
            ("connections", "max_connections"),
        ),
        _share(
            "Descriptors, of the limit",
            "Without descriptors it pauses accepting.",
            ("open_fds", "max_fds"),
        ),
    )


def _share(title: str, description: str, metrics: tuple[str, str]) -> bargauge.Panel:
    taken, limit = (gauge(metric, BY) for metric in metrics)
    return panels.share(title, description, Query(over(taken, limit), WHO), warn=0.7, bad=0.9)


def _messages() -> Panels:
    return (
        _rates(
            "Received",
            units.MessagesPerSecond,
            "Whole lines accepted from peers.",
            "messages_received_total",
        ),
        _rates(
            "Delivered",
            units.MessagesPerSecond,
            "Copies whose last byte the kernel took.",
            "messages_delivered_total",
        ),
        panels.quantiles(
            "Tick duration",
            units.Seconds,
            "From the return of epoll_wait to the end of the tick: how long the slowest peer "
            "of a tick waits for its turn.",
            of_daemons("tick_seconds_bucket"),
            "mode",
        ),
    )


def _errors() -> Panels:
    return (
        _rates(
            "Dropped copies, by reason",
            units.MessagesPerSecond,
            "Copies that a peer did not get: it was slow (and is told so), was evicted, "
            "closed, the daemon stopped, or the bus lost it.",
            "messages_dropped_total",
            "mode, reason",
            span=12,
            kinds=("slow_consumer", "evicted", "closed", "shutdown", "bus"),
        ),
        _rates(
            "Discarded input, by reason",
            units.MessagesPerSecond,
            "Input that never became a message: lines too long, beyond the rate limit, or cut "
            "off by the end of input.",
            "messages_discarded_total",
            "mode, reason",
            span=12,
            kinds=("too_long", "rate_limited", "truncated"),
        ),
    )


def _slow() -> Panels:
    return (
        _levels(
            "Peers behind",
            units.Short,
            "Peers that are owed bytes because their sockets are full.",
            "outbox_connections",
        ),
        _levels(
            "Bytes owed",
            units.BytesIEC,
            "Bytes in outboxes. One peer may be owed the high water mark and one tick's batch; "
            "outboxes share the bytes.",
            "outbox_bytes",
        ),
        _levels(
            "Copies waiting",
            units.Short,
            "Copies not yet wholly handed to the kernel: enqueued, less delivered and dropped.",
            "outbox_messages",
        ),
    )


def _process() -> Panels:
    return (
        _rates(
            "CPU",
            units.PercentUnit,
            "CPU seconds per second. The loop has one core: at 100 % it is full.",
            "cpu_seconds_total",
            "mode, cpu_mode",
            span=6,
            kinds=("user", "system"),
        ),
        _rates(
            "Loop busy",
            units.PercentUnit,
            "Share of the time spent within ticks, waits excluded: how saturated the loop is.",
            "tick_seconds_sum",
            span=6,
        ),
        _levels(
            "Memory",
            units.BytesIEC,
            "Resident memory.",
            "resident_memory_bytes",
            span=6,
        ),
        _rates(
            "Context switches",
            units.OpsPerSecond,
            "Involuntary ones say that the process wanted to go on and had to share its core.",
            "context_switches_total",
            "mode, kind",
            span=6,
            kinds=("voluntary", "involuntary"),
        ),
    )


def _loop() -> Panels:
    return (
        _rates(
            "Ticks",
            units.OpsPerSecond,
            "Calls of epoll_wait. A healthy loop ticks at least once a second, even when idle.",
            "epoll_waits_total",
        ),
        panels.graph(
            "Events per wakeup",
            units.Short,
            "Mean number of events that one wakeup brings.",
            Query(mean("etltd_wakeup_events", DAEMON, BY), WHO),
        ),
        panels.graph(
            "Bytes",
            units.BytesPerSecondIEC,
            "Bytes read from peers, and bytes that the kernel took for them.",
            panels.rate_of(of_daemons("received_bytes_total"), "mode", "in"),
            panels.rate_of(of_daemons("sent_bytes_total"), "mode", "out"),
            kinds=("in", "out"),
        ),
    )


def _calls() -> timeseries.Panel:
    return _rates(
        "System calls, by kind",
        units.OpsPerSecond,
        "System calls of the loop.",
        "syscalls_total",
        "mode, syscall",
        span=24,
        height=12,
        kinds=panels.SYSTEM_CALLS,
        legend=panels.RIGHT_OF_IT,
    )


def _connections() -> Panels:
    return (
        panels.graph(
            "Connections",
            units.Short,
            "Peers connected now, and the most there were at one time.",
            Query(gauge("connections", BY), f"{WHO} now"),
            Query(gauge("connections_high_water", BY), f"{WHO} high water"),
            kinds=("now", "high water"),
            height=11,
        ),
        panels.graph(
            "Accepted and closed, by reason",
            units.OpsPerSecond,
            "Connections admitted, and why connections ended.",
            panels.rate_of(of_daemons("connections_accepted_total"), "mode", "accepted"),
            panels.rate_of(of_daemons("connections_closed_total"), "mode, reason"),
            kinds=(
                *("accepted", "eof", "idle", "timeout"),
                *("slow_consumer", "reset", "error", "shutdown"),
            ),
            height=11,
        ),
        _rates(
            "Refused, by reason",
            units.OpsPerSecond,
            "Connections refused at a limit; no_descriptors counts pauses of accepting.",
            "connections_rejected_total",
            "mode, reason",
            kinds=("max_connections", "max_connections_per_ip", "no_descriptors"),
            height=11,
        ),
    )
