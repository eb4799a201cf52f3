"""Kernel: the probe's view of any epoll server, etltd or another, by the name of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import Query
from dashboards.queries import mean, mean_run_seconds, over, quantile, rate

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

OWN = 'job=~"$probe_job", instance=~"$probe_instance"'
TARGETS = f'{OWN}, comm=~"$comm"'
WHO = "{{comm}}"


def board() -> Dashboard:
    """Return the board."""
    empty = panels.board(
        "etlt-kernel", "What etlt-probe counts from the kernel's side, for any epoll server."
    )
    for variable in (
        panels.datasource_variable(),
        panels.probe_job_variable(),
        panels.choice(
            "probe_instance",
            'label_values(etlt_probe_collect_seconds{job=~"$probe_job"}, instance)',
        ),
        panels.choice(
            "comm", f"label_values(etlt_probe_target_up{{{OWN}}}, comm)", label="Process"
        ),
    ):
        empty = empty.with_variable(variable)
    for add in (_now, _waits, _calls, _probe):
        empty = add(empty)
    return empty


def _blocked() -> str:
    """Return the share of the time that the loop threads slept in epoll_wait."""
    threads = f"sum by (comm) (etlt_probe_loop_threads{{{TARGETS}}})"
    return over(rate(f"etlt_probe_epoll_blocked_seconds_total{{{TARGETS}}}", "comm"), threads)


def _now(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("Now"))
        .with_panel(
            panels.number(
                "Processes",
                units.Short,
                "Watched processes of this name that are alive.",
                Query(f"sum by (comm) (etlt_probe_target_up{{{TARGETS}}})", WHO),
                span=6,
            )
        )
        .with_panel(
            panels.number(
                "Loop threads",
                units.Short,
                "Threads that are counted: those that have entered epoll_wait since the probe "
                "came.",
                Query(f"sum by (comm) (etlt_probe_loop_threads{{{TARGETS}}})", WHO),
                span=6,
            )
        )
        .with_panel(
            panels.number(
                "System calls",
                units.OpsPerSecond,
                "System calls that the loop threads completed.",
                Query(rate(f"etlt_probe_syscalls_total{{{TARGETS}}}", "comm"), WHO),
                span=6,
            )
        )
        .with_panel(
            panels.number(
                "Events missed",
                units.Short,
                "Program runs that the kernel skipped, calls that were not counted for lack of "
                "room, processes not watched. Above nought, everything here is too low.",
                Query(f"sum(increase(etlt_probe_missed_runs_total{{{OWN}}}[$__range]))", "skipped"),
                Query(
                    f"sum(increase(etlt_probe_untracked_calls_total{{{OWN}}}[$__range]))",
                    "untracked",
                ),
                Query(f"sum(etlt_probe_targets_unwatched{{{OWN}}})", "unwatched"),
                span=6,
            )
        )
    )


def _waits(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("epoll_wait"))
        .with_panel(
            panels.graph(
                "Waits, by outcome",
                units.OpsPerSecond,
                "wakeup: it slept, then events; ready: events at once; timeout: it slept, none; "
                "empty: none, without sleeping (polling); interrupted: by a signal; failed.",
                Query(
                    rate(f"etlt_probe_epoll_waits_total{{{TARGETS}}}", "comm, outcome"),
                    "{{comm}} {{outcome}}",
                ),
                kinds=("wakeup", "ready", "timeout", "empty", "interrupted", "failed"),
                span=12,
                legend=panels.RIGHT_OF_IT,
            ).height(11)
        )
        .with_panel(
            panels.graph(
                "Events per wait",
                units.Short,
                "Mean over the waits that returned any.",
                Query(mean("etlt_probe_epoll_events_per_wait", TARGETS, "comm"), WHO),
                span=6,
            ).height(11)
        )
        .with_panel(
            panels.graph(
                "Blocked",
                units.PercentUnit,
                "Share of the time that the loop threads sleep in epoll_wait; the rest they are "
                "busy, or wait elsewhere.",
                Query(_blocked(), WHO),
                span=6,
            ).height(11)
        )
        .with_panel(
            panels.graph(
                "Events per wait, p50 and p99",
                units.Short,
                "Quantiles over the waits that returned any.",
                *(
                    Query(
                        quantile(
                            q, f"etlt_probe_epoll_events_per_wait_bucket{{{TARGETS}}}", "comm"
                        ),
                        f"{WHO} {name}",
                    )
                    for q, name in ((0.5, "p50"), (0.99, "p99"))
                ),
                kinds=("p50", "p99"),
            )
        )
        .with_panel(
            panels.graph(
                "epoll_ctl, by operation",
                units.OpsPerSecond,
                "Changes of what is waited for. A level-triggered server that is held up modifies.",
                Query(
                    rate(f"etlt_probe_epoll_ctl_total{{{TARGETS}}}", "comm, op"), "{{comm}} {{op}}"
                ),
                kinds=("add", "mod", "del", "other"),
            )
        )
        .with_panel(
            panels.graph(
                "Context switches",
                units.OpsPerSecond,
                "Times a loop thread left the CPU: of its own accord, or because it had to.",
                Query(
                    rate(f"etlt_probe_context_switches_total{{{TARGETS}}}", "comm, kind"),
                    "{{comm}} {{kind}}",
                ),
                kinds=("voluntary", "involuntary"),
            )
        )
    )


def _calls(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("System calls of the loop threads"))
        .with_panel(
            panels.graph(
                "Calls, by kind",
                units.OpsPerSecond,
                "Completed system calls.",
                Query(
                    rate(f"etlt_probe_syscalls_total{{{TARGETS}}}", "comm, syscall"),
                    "{{comm}} {{syscall}}",
                ),
                span=12,
                kinds=panels.SYSTEM_CALLS,
                legend=panels.RIGHT_OF_IT,
            ).height(14)
        )
        .with_panel(
            panels.graph(
                "Errors, by errno",
                units.OpsPerSecond,
                "Failed system calls. EAGAIN is how an edge-triggered drain ends.",
                Query(
                    rate(f"etlt_probe_syscall_errors_total{{{TARGETS}}}", "comm, syscall, errno"),
                    "{{comm}} {{syscall}} {{errno}}",
                ),
                span=12,
                kinds=panels.SYSTEM_CALLS,
                legend=panels.RIGHT_OF_IT,
            ).height(14)
        )
        .with_panel(
            panels.graph(
                "Duration of I/O calls, p99",
                units.Seconds,
                "From the entry of a read or write to its return. Not with --lite.",
                Query(
                    quantile(
                        0.99,
                        f"etlt_probe_syscall_duration_seconds_bucket{{{TARGETS}}}",
                        "comm, syscall",
                    ),
                    "{{comm}} {{syscall}}",
                ),
                span=12,
                kinds=panels.SYSTEM_CALLS,
                legend=panels.RIGHT_OF_IT,
            )
        )
        .with_panel(
            panels.graph(
                "Bytes, by direction",
                units.BytesPerSecondIEC,
                "Bytes moved by reads and writes.",
                Query(
                    rate(f"etlt_probe_io_bytes_total{{{TARGETS}}}", "comm, direction"),
                    "{{comm}} {{direction}}",
                ),
                span=12,
                kinds=("receive", "transmit"),
                legend=panels.RIGHT_OF_IT,
            )
        )
    )


def _probe(board: Dashboard) -> Dashboard:
    return (
        board.with_row(Row("The probe itself"))
        .with_panel(
            panels.graph(
                "Time to answer a scrape",
                units.Seconds,
                "Time taken to read the maps and prepare the answer.",
                Query(f"etlt_probe_collect_seconds{{{OWN}}}", "{{instance}}"),
            )
        )
        .with_panel(
            panels.bars(
                "Time per program run",
                units.Seconds,
                "Mean, sampled since the probe started (etlt-probe --stats). Each system call pays "
                "for two.",
                Query(mean_run_seconds(OWN), "{{program}}"),
                empty=panels.NEEDS_STATS,
                span=8,
            )
        )
        .with_panel(
            panels.graph(
                "Not counted",
                units.OpsPerSecond,
                "Program runs that the kernel skipped, calls without room in the tables, and "
                "returns whose entry was not seen (one per thread that was in a call when the "
                "probe came).",
                Query(rate(f"etlt_probe_missed_runs_total{{{OWN}}}", "program"), "{{program}}"),
                Query(
                    rate(f"etlt_probe_untracked_calls_total{{{TARGETS}}}", "comm"),
                    "{{comm}} untracked",
                ),
                Query(
                    rate(f"etlt_probe_unmatched_exits_total{{{TARGETS}}}", "comm"),
                    "{{comm}} unmatched",
                ),
                kinds=("sys_enter", "sys_exit", "sched_switch", "untracked", "unmatched"),
            )
        )
    )
