"""Daemon: what an operator on call needs. RED for messages, USE for the process, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import Query
from dashboards.queries import DAEMON, mean, of_targets, over, quantile, rate

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

WHO = "{{mode}} {{instance}}"
BY = "mode, instance"


def board() -> Dashboard:
    """Return the board."""
    empty = panels.board(
        "etlt-daemon",
        "One or more etltd, for whoever is on call. What is split by a kind or a reason is summed "
        "over the chosen daemons of a mode: choose one instance to see it alone.",
    )
    for variable in (
        panels.datasource_variable(),
        panels.job_variable(),
        panels.instance_variable(),
    ):
        empty = empty.with_variable(variable)
    empty = empty.annotation(panels.restarts())
    for add in (_now, _messages, _slow, _process, _loop, _connections):
        empty = add(empty)
    return empty


def _gauge(metric: str) -> str:
    return f"sum by ({BY}) ({metric}{{{DAEMON}}})"


def _now(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Now"))
        .with_panel(
            panels.yes_or_no(
                "Scraped",
                "Whether Prometheus gets an answer. The daemon may live all the same.",
                ("up", "DOWN"),
                Query(of_targets(f"up{{{DAEMON}}}", "etltd_build_info", DAEMON), "{{instance}}"),
                span=4,
                height=5,
            )
        )
        .with_panel(
            panels.yes_or_no(
                "Ready",
                "What /readyz says: the loop ticks, and new peers are taken in.",
                ("ready", "NOT READY"),
                Query(_gauge("etltd_ready"), WHO),
                span=4,
                height=5,
            )
        )
        .with_panel(
            panels.number(
                "Up since",
                units.DateTimeFromNow,
                "When the daemon started.",
                Query(f"{_gauge('etltd_start_time_seconds')} * 1000", WHO),
                pixels=16,
            )
        )
        .with_panel(
            panels.share(
                "Connections, of the limit",
                "At the limit new peers are told so and turned away.",
                Query(over(_gauge("etltd_connections"), _gauge("etltd_max_connections")), WHO),
                warn=0.7,
                bad=0.9,
            )
        )
        .with_panel(
            panels.share(
                "Descriptors, of the limit",
                "Without descriptors it pauses accepting.",
                Query(over(_gauge("etltd_open_fds"), _gauge("etltd_max_fds")), WHO),
                warn=0.7,
                bad=0.9,
            )
        )
    )


def _messages(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Messages: rate, errors, duration"))
        .with_panel(
            panels.graph(
                "Received",
                units.MessagesPerSecond,
                "Whole lines accepted from peers.",
                Query(rate(f"etltd_messages_received_total{{{DAEMON}}}", BY), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Delivered",
                units.MessagesPerSecond,
                "Copies whose last byte the kernel took.",
                Query(rate(f"etltd_messages_delivered_total{{{DAEMON}}}", BY), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Tick duration",
                units.Seconds,
                "From the return of epoll_wait to the end of the tick: how long the slowest peer "
                "of a tick waits for its turn.",
                *(
                    Query(
                        quantile(q, f"etltd_tick_seconds_bucket{{{DAEMON}}}", "mode"),
                        f"{{{{mode}}}} {name}",
                    )
                    for q, name in ((0.5, "p50"), (0.99, "p99"))
                ),
                kinds=("p50", "p99"),
            )
        )
        .with_panel(
            panels.graph(
                "Dropped copies, by reason",
                units.MessagesPerSecond,
                "Copies that a peer did not get: it was slow (and is told so), was evicted, "
                "closed, or the daemon stopped.",
                Query(
                    rate(f"etltd_messages_dropped_total{{{DAEMON}}}", "mode, reason"),
                    "{{mode}} {{reason}}",
                ),
                span=12,
                kinds=("slow_consumer", "evicted", "closed", "shutdown"),
            )
        )
        .with_panel(
            panels.graph(
                "Discarded input, by reason",
                units.MessagesPerSecond,
                "Input that never became a message: lines too long, beyond the rate limit, or cut "
                "off by the end of input.",
                Query(
                    rate(f"etltd_messages_discarded_total{{{DAEMON}}}", "mode, reason"),
                    "{{mode}} {{reason}}",
                ),
                span=12,
                kinds=("too_long", "rate_limited", "truncated"),
            )
        )
    )


def _slow(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Slow consumers"))
        .with_panel(
            panels.graph(
                "Peers behind",
                units.Short,
                "Peers that are owed bytes because their sockets are full.",
                Query(_gauge("etltd_outbox_connections"), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Bytes owed",
                units.BytesIEC,
                "Bytes in outboxes. One peer may be owed the high water mark and one tick's batch; "
                "outboxes share the bytes.",
                Query(_gauge("etltd_outbox_bytes"), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Copies waiting",
                units.Short,
                "Copies not yet wholly handed to the kernel: enqueued, less delivered and dropped.",
                Query(_gauge("etltd_outbox_messages"), WHO),
            )
        )
    )


def _process(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Process: utilisation, saturation, errors"))
        .with_panel(
            panels.graph(
                "CPU",
                units.PercentUnit,
                "CPU seconds per second. The loop has one core: at 100 % it is full.",
                Query(
                    rate(f"etltd_cpu_seconds_total{{{DAEMON}}}", "mode, cpu_mode"),
                    "{{mode}} {{cpu_mode}}",
                ),
                span=6,
                kinds=("user", "system"),
            )
        )
        .with_panel(
            panels.graph(
                "Loop busy",
                units.PercentUnit,
                "Share of the time spent within ticks, waits excluded: how saturated the loop is.",
                Query(rate(f"etltd_tick_seconds_sum{{{DAEMON}}}", BY), WHO),
                span=6,
            )
        )
        .with_panel(
            panels.graph(
                "Memory",
                units.BytesIEC,
                "Resident memory.",
                Query(_gauge("etltd_resident_memory_bytes"), WHO),
                span=6,
            )
        )
        .with_panel(
            panels.graph(
                "Context switches",
                units.OpsPerSecond,
                "Involuntary ones say that the process wanted to go on and had to share its core.",
                Query(
                    rate(f"etltd_context_switches_total{{{DAEMON}}}", "mode, kind"),
                    "{{mode}} {{kind}}",
                ),
                span=6,
                kinds=("voluntary", "involuntary"),
            )
        )
    )


def _loop(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Loop"))
        .with_panel(
            panels.graph(
                "Ticks",
                units.OpsPerSecond,
                "Calls of epoll_wait. A healthy loop ticks at least once a second, even when idle.",
                Query(rate(f"etltd_epoll_waits_total{{{DAEMON}}}", BY), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Events per wakeup",
                units.Short,
                "Mean number of events that one wakeup brings.",
                Query(mean("etltd_wakeup_events", DAEMON, BY), WHO),
            )
        )
        .with_panel(
            panels.graph(
                "Bytes",
                units.BytesPerSecondIEC,
                "Bytes read from peers, and bytes that the kernel took for them.",
                Query(rate(f"etltd_received_bytes_total{{{DAEMON}}}", "mode"), "{{mode}} in"),
                Query(rate(f"etltd_sent_bytes_total{{{DAEMON}}}", "mode"), "{{mode}} out"),
                kinds=("in", "out"),
            )
        )
        .with_panel(
            panels.graph(
                "System calls, by kind",
                units.OpsPerSecond,
                "System calls of the loop.",
                Query(
                    rate(f"etltd_syscalls_total{{{DAEMON}}}", "mode, syscall"),
                    "{{mode}} {{syscall}}",
                ),
                span=24,
                kinds=panels.SYSTEM_CALLS,
                legend=panels.RIGHT_OF_IT,
            ).height(12)
        )
    )


def _connections(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Connections"))
        .with_panel(
            panels.graph(
                "Connections",
                units.Short,
                "Peers connected now, and the most there were at one time.",
                Query(_gauge("etltd_connections"), f"{WHO} now"),
                Query(_gauge("etltd_connections_high_water"), f"{WHO} high water"),
                kinds=("now", "high water"),
            ).height(11)
        )
        .with_panel(
            panels.graph(
                "Accepted and closed, by reason",
                units.OpsPerSecond,
                "Connections admitted, and why connections ended.",
                Query(
                    rate(f"etltd_connections_accepted_total{{{DAEMON}}}", "mode"),
                    "{{mode}} accepted",
                ),
                Query(
                    rate(f"etltd_connections_closed_total{{{DAEMON}}}", "mode, reason"),
                    "{{mode}} {{reason}}",
                ),
                kinds=("accepted", "eof", "idle", "slow_consumer", "reset", "error", "shutdown"),
            ).height(11)
        )
        .with_panel(
            panels.graph(
                "Refused, by reason",
                units.OpsPerSecond,
                "Connections refused at a limit; no_descriptors counts pauses of accepting.",
                Query(
                    rate(f"etltd_connections_rejected_total{{{DAEMON}}}", "mode, reason"),
                    "{{mode}} {{reason}}",
                ),
                kinds=("max_connections", "max_connections_per_ip", "no_descriptors"),
            ).height(11)
        )
    )
