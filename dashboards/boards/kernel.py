"""Kernel: the probe's view of any epoll server, etltd or another, by the name of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import Look, Query
from dashboards.queries import PROBE, mean, over, rate

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import stat, timeseries
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panels

TARGETS = f'{PROBE}, comm=~"$comm"'
# The probe times the waits, too, beside which every transfer would lie on the axis.
TRANSFERS = 'syscall!~"epoll_.+|accept4?|close|shutdown"'
BY = "comm"
WHO = panels.named(BY)


def board() -> Dashboard:
    """Return the board."""
    return panels.board(
        "etlt-kernel",
        "What etlt-probe counts from the kernel's side, for any epoll server. Processes of one "
        "name are summed over the chosen probes: choose one instance to see its host alone.",
        variables=(
            panels.datasource_variable(),
            panels.probe_job_variable(),
            panels.probe_instance_variable(),
            panels.choice(
                "comm", f"label_values(etlt_probe_target_up{{{PROBE}}}, comm)", label="Process"
            ),
        ),
        rows={
            "Now": (*_now(), _missed()),
            "epoll_wait": (*_waits(), *_loop()),
            "System calls of the loop threads": (*_calls(), *_transfers()),
            "The probe itself": (
                _answering(),
                panels.program_times("Time per program run", PROBE, span=8),
                _not_counted(),
            ),
        },
    )


def _of(metric: str) -> str:
    return f"etlt_probe_{metric}{{{TARGETS}}}"


def _rates(
    title: str, unit: str, description: str, metric: str, by: str, **look: Unpack[Look]
) -> timeseries.Panel:
    return panels.rates(title, unit, description, _of(metric), by, **look)


def _threads() -> str:
    return f"sum by ({BY}) ({_of('loop_threads')})"


def _blocked() -> str:
    """Return the share of the time that the loop threads slept in epoll_wait."""
    return over(rate(_of("epoll_blocked_seconds_total"), BY), _threads())


def _now() -> Panels:
    return (
        panels.number(
            "Processes",
            units.Short,
            "Watched processes of this name that are alive.",
            Query(f"sum by ({BY}) ({_of('target_up')})", WHO),
            span=6,
        ),
        panels.number(
            "Loop threads",
            units.Short,
            "Threads that are counted: those that have entered epoll_wait since the probe came.",
            Query(_threads(), WHO),
            span=6,
        ),
        panels.number(
            "System calls",
            units.OpsPerSecond,
            "System calls that the loop threads completed.",
            panels.rate_of(_of("syscalls_total"), BY),
            span=6,
        ),
    )


def _missed() -> stat.Panel:
    return panels.number(
        "Events missed",
        units.Short,
        "Program runs that the kernel skipped, calls that were not counted for lack of "
        "room, processes not watched. Above nought, everything here is too low.",
        Query(f"sum(increase(etlt_probe_missed_runs_total{{{PROBE}}}[$__range]))", "skipped"),
        Query(f"sum(increase(etlt_probe_untracked_calls_total{{{PROBE}}}[$__range]))", "untracked"),
        Query(f"sum(etlt_probe_targets_unwatched{{{PROBE}}})", "unwatched"),
        span=6,
    )


def _waits() -> Panels:
    return (
        _rates(
            "Waits, by outcome",
            units.OpsPerSecond,
            "wakeup: it slept, then events; ready: events at once; timeout: it slept, none; "
            "empty: none, without sleeping (polling); interrupted: by a signal; failed.",
            "epoll_waits_total",
            f"{BY}, outcome",
            kinds=("wakeup", "ready", "timeout", "empty", "interrupted", "failed"),
            span=12,
            height=11,
            legend=panels.RIGHT_OF_IT,
        ),
        panels.graph(
            "Events per wait",
            units.Short,
            "Mean over the waits that returned any.",
            Query(mean("etlt_probe_epoll_events_per_wait", TARGETS, BY), WHO),
            span=6,
            height=11,
        ),
        panels.graph(
            "Blocked",
            units.PercentUnit,
            "Share of the time that the loop threads sleep in epoll_wait; the rest they are "
            "busy, or wait elsewhere.",
            Query(_blocked(), WHO),
            span=6,
            height=11,
        ),
    )


def _loop() -> Panels:
    return (
        panels.quantiles(
            "Events per wait, p50 and p99",
            units.Short,
            "Quantiles over the waits that returned any.",
            _of("epoll_events_per_wait_bucket"),
            BY,
        ),
        _rates(
            "epoll_ctl, by operation",
            units.OpsPerSecond,
            "Changes of what is waited for. A level-triggered server that is held up modifies.",
            "epoll_ctl_total",
            f"{BY}, op",
            kinds=("add", "mod", "del", "other"),
        ),
        _rates(
            "Context switches",
            units.OpsPerSecond,
            "Times a loop thread left the CPU: of its own accord, or because it had to.",
            "context_switches_total",
            f"{BY}, kind",
            kinds=("voluntary", "involuntary"),
        ),
    )


def _calls() -> Panels:
    look = Look(span=12, height=18, kinds=panels.SYSTEM_CALLS, legend=panels.RIGHT_OF_IT)
    return (
        _rates(
            "Calls, by kind",
            units.OpsPerSecond,
            "Completed system calls.",
            "syscalls_total",
            f"{BY}, syscall",
            **look,
        ),
        _rates(
            "Errors, by errno",
            units.OpsPerSecond,
            "Failed system calls. EAGAIN is how an edge-triggered drain ends.",
            "syscall_errors_total",
            f"{BY}, syscall, errno",
            **look,
        ),
    )


def _transfers() -> Panels:
    return (
        panels.graph(
            "Duration of I/O calls, p99",
            units.Seconds,
            "From the entry of a read or write to its return. Not with --lite.",
            panels.p99_of(
                f"etlt_probe_syscall_duration_seconds_bucket{{{TARGETS}, {TRANSFERS}}}",
                f"{BY}, syscall",
            ),
            span=12,
            kinds=panels.SYSTEM_CALLS,
            legend=panels.RIGHT_OF_IT,
        ),
        _rates(
            "Bytes, by direction",
            units.BytesPerSecondIEC,
            "Bytes moved by reads and writes.",
            "io_bytes_total",
            f"{BY}, direction",
            span=12,
            kinds=("receive", "transmit"),
            legend=panels.RIGHT_OF_IT,
        ),
    )


def _answering() -> timeseries.Panel:
    return panels.graph(
        "Time to answer a scrape",
        units.Seconds,
        "Time taken to read the maps and prepare the answer.",
        Query(f"etlt_probe_collect_seconds{{{PROBE}}}", "{{instance}}"),
    )


def _not_counted() -> timeseries.Panel:
    return panels.graph(
        "Not counted",
        units.OpsPerSecond,
        "Program runs that the kernel skipped, calls without room in the tables, and "
        "returns whose entry was not seen: one of each thread that was in a call when the probe "
        "came, and one of each that began since. etltd has a new thread for every scrape.",
        panels.rate_of(f"etlt_probe_missed_runs_total{{{PROBE}}}", "program"),
        panels.rate_of(_of("untracked_calls_total"), BY, "untracked"),
        panels.rate_of(_of("unmatched_exits_total"), BY, "unmatched"),
        kinds=("sys_enter", "sys_exit", "sched_switch", "untracked", "unmatched"),
    )
