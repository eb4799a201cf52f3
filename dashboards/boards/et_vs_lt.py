"""ET vs LT, the home page: what a delivered message costs on either side, and whether it counts.

Left and right are a mode or a run each. The verdict comes first, with the gates beside it: when one
fails, the difference above shows nothing. Then rate, mechanism, latency, and what observing costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import DIFFERENCE, Query, sides
from dashboards.queries import (
    CLIENT,
    DAEMON,
    LEFT,
    OFFERED_TOLERANCE,
    PROBE,
    PROBES,
    RANGE,
    RIGHT,
    RUNS,
    WHOLE_DELIVERY,
    WHOLE_SCRAPES,
    WITNESS_TOLERANCE,
    is_comparable,
    of_targets,
    offered_ratios,
    over,
    quantile,
    rate,
    scrapes,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import stat, table
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panels

EAGAINS = 'etltd_syscall_eagain_total{syscall!="accept4"}'
READS = 'etltd_syscall_eagain_total{syscall="recvfrom"}'
LATENCY = "etlt_load_delivery_latency_seconds"
UNCORRECTED = "etlt_load_delivery_latency_uncorrected_seconds"
DELIVERED = "etltd_messages_delivered_total"
COMPARED = 'mode=~"$left|$right"'
PER_MESSAGE = (
    "Per copy that was delivered, while the load was measured; without a client that says when "
    "that was, over the whole time range."
)
WITHOUT_A_PROBE = (
    "Without a probe, or with one that was down for the whole time range, there is no second "
    "witness, and nothing is shown of it."
)


def board() -> Dashboard:
    """Return the board."""
    return panels.board(
        "etlt-et-vs-lt",
        "Edge- against level-triggered epoll under the same load: the daemon, the load client and "
        "the kernel as three witnesses.",
        variables=(
            panels.datasource_variable(),
            panels.job_variable(),
            panels.probe_job_variable(),
            panels.client_job_variable(),
            panels.instance_variable(),
            panels.probe_instance_variable(),
            panels.choice(
                "run", f"label_values(etlt_load_connections{{{CLIENT}}}, run_id)", label="Run"
            ),
            panels.side_variable(LEFT, "lt"),
            panels.side_variable(RIGHT, "et"),
        ),
        annotations=(panels.runs(), panels.restarts()),
        rows={
            "Verdict: what one delivered message costs": (*_verdicts(), _comparable(), *_gates()),
            "Rate": _rate(),
            "Mechanism": (*_wakeups(), *_calls()),
            "Latency": _latency(),
            "Cost of observing": (*_observing(), *_disturbing()),
            "Runs in this time range": (_runs(),),
        },
    )


def _verdicts() -> Panels:
    return (
        panels.verdict(
            "Wakeups per message",
            units.Short,
            f"Returns of epoll_wait with at least one event. {PER_MESSAGE}",
            lambda side: side.per_delivered("etltd_epoll_wakeups_total"),
        ),
        panels.verdict(
            "System calls per message",
            units.Short,
            f"All system calls of the loop. {PER_MESSAGE}",
            lambda side: side.per_delivered("etltd_syscalls_total"),
        ),
        panels.verdict(
            "CPU time per message",
            units.Seconds,
            f"User and system time of the process, by getrusage. {PER_MESSAGE}",
            lambda side: side.per_delivered("etltd_cpu_seconds_total"),
        ),
        panels.verdict(
            "EAGAINs per message",
            units.Short,
            "Reads and writes that found nothing to do: what ET pays to know that a socket is "
            f"empty. {PER_MESSAGE}",
            lambda side: side.per_delivered(EAGAINS),
            third=DIFFERENCE,
        ),
        panels.verdict(
            "Latency, p99",
            units.Seconds,
            "From the moment a message was due to its arrival at another client, over the runs "
            "in the time range.",
            lambda side: side.client_total_quantile(0.99, LATENCY),
        ),
    )


def _comparable() -> stat.Panel:
    return panels.yes_or_no(
        "Is it comparable?",
        "Every gate below must hold, for both sides. A difference shown while one does not "
        "is no evidence. One run per side shows no difference in times either: "
        "`loadclient compare` does that. The choice of a Run narrows the table below and not the "
        "verdict: for that, take its name as Left or Right.",
        ("comparable", "not comparable"),
        Query(is_comparable(), "verdict"),
        span=8,
    )


def _gates() -> Panels:
    offered = (1 - OFFERED_TOLERANCE, 1 + OFFERED_TOLERANCE)
    agreed = (1 - WITNESS_TOLERANCE, 1 + WITNESS_TOLERANCE)
    return (
        panels.gate(
            "Gate: offered load, right over left",
            "Messages that came due, connections, and bytes per message: both sides must be "
            "offered the same.",
            offered,
            *(Query(ratio, name) for name, ratio in offered_ratios().items()),
            span=6,
        ),
        panels.gate(
            "Gate: delivery ratio",
            "Copies that the client received over the copies it was owed. A server that does "
            "not deliver is cheap.",
            (WHOLE_DELIVERY, 1.001),
            *sides(lambda side: side.delivery_ratio()),
            span=6,
        ),
        panels.gate(
            "Gate: kernel count over daemon count",
            "Returns of epoll_wait as the probe counted them, over the daemon's own count. "
            f"{WITHOUT_A_PROBE} Of several hosts, choose daemons and probes that belong together.",
            agreed,
            *sides(lambda side: side.witness_ratio()),
            span=6,
        ),
        panels.gate(
            "Gate: scrape health",
            "Lowest share of scrapes that worked, over the targets of the daemons and the "
            f"probes. Counters of what was not scraped are guesses. {WITHOUT_A_PROBE}",
            (WHOLE_SCRAPES, 1.001),
            Query(scrapes("etltd_build_info", DAEMON), "daemons"),
            Query(scrapes(PROBES, PROBE), "probes"),
            span=6,
        ),
    )


def _rate() -> Panels:
    return (
        panels.graph(
            "Messages offered",
            units.MessagesPerSecond,
            "Messages that came due by the clients' schedules: the load, whatever the server does.",
            *sides(lambda side: side.client_rate("etlt_load_messages_offered_total")),
        ),
        panels.graph(
            "Messages delivered",
            units.MessagesPerSecond,
            "Copies handed to the kernel by the daemon, and copies received by the client.",
            *sides(lambda side: side.rate(DELIVERED), "daemon"),
            *sides(lambda side: side.client_rate("etlt_load_messages_received_total"), "client"),
            kinds=("daemon", "client"),
        ),
        panels.graph(
            "CPU",
            units.PercentUnit,
            "CPU seconds per second of the daemon; the loop has one core.",
            *sides(lambda side: side.rate("etltd_cpu_seconds_total")),
        ),
    )


def _wakeups() -> Panels:
    return (
        panels.graph(
            "Wakeups",
            units.OpsPerSecond,
            "Returns of epoll_wait with events: by the daemon, and by the kernel (waits that "
            "slept, and waits that found events at once).",
            *sides(lambda side: side.rate("etltd_epoll_wakeups_total"), "daemon"),
            *sides(
                lambda side: side.rate(
                    'etlt_probe_epoll_waits_total{outcome=~"wakeup|ready"}', PROBE
                ),
                "kernel",
            ),
            kinds=("daemon", "kernel"),
        ),
        panels.graph(
            "Events per wakeup",
            units.Short,
            "Mean number of events that one wakeup brings, by the daemon and by the kernel.",
            *sides(lambda side: side.recent_mean("etltd_wakeup_events"), "daemon"),
            *sides(
                lambda side: side.recent_mean("etlt_probe_epoll_events_per_wait", PROBE),
                "kernel",
            ),
            kinds=("daemon", "kernel"),
        ),
        panels.graph(
            "Messages per batch",
            units.Short,
            "Mean number of messages read in one tick that read any. A larger batch is cheaper "
            "to fan out: a difference here explains one in CPU.",
            *sides(lambda side: side.recent_mean("etltd_batch_messages")),
        ),
    )


def _calls() -> Panels:
    return (
        panels.bars(
            "System calls per message, by kind",
            units.Short,
            f"System calls of the loop. {PER_MESSAGE}",
            *sides(
                lambda side: _nonzero(side.per_delivered("etltd_syscalls_total", by="syscall")),
                "{{syscall}}",
            ),
            span=8,
            height=12,
            pixels=panels.MANY_BARS,
        ),
        panels.bars(
            "epoll_ctl per message, by operation",
            units.Short,
            "LT asks for EPOLLOUT when a peer is behind and takes it back (mod); ET never does. "
            f"{PER_MESSAGE}",
            *sides(lambda side: side.per_delivered("etltd_epoll_ctl_total", by="op"), "{{op}}"),
            span=8,
            height=12,
        ),
        panels.graph(
            "Reads that found nothing",
            units.OpsPerSecond,
            "recvfrom calls that returned EAGAIN: the end of a drain under ET, never seen "
            "under LT.",
            *sides(lambda side: side.rate(READS)),
            height=12,
        ),
    )


def _nonzero(expression: str) -> str:
    """Leave out the kinds that are nought: there are more of them than there is room for bars."""
    return f"({expression}) > 0"


def _latency() -> Panels:
    return (
        panels.graph(
            "Delivery latency",
            units.Seconds,
            "From the moment a message was due (corrected for a client that is late), p50 and p99.",
            *sides(lambda side: side.client_quantile(0.5, LATENCY), "p50"),
            *sides(lambda side: side.client_quantile(0.99, LATENCY), "p99"),
            kinds=("p50", "p99"),
        ),
        panels.graph(
            "Delivery latency since sent, p99",
            units.Seconds,
            "From the moment a message was really sent. Where it is lower than the corrected "
            "one, the client was held up.",
            *sides(lambda side: side.client_quantile(0.99, UNCORRECTED)),
        ),
        panels.graph(
            "Tick duration, p99",
            units.Seconds,
            "From the return of epoll_wait to the end of the tick: how long a peer waits for "
            "its turn.",
            *sides(lambda side: side.quantile(0.99, "etltd_tick_seconds")),
        ),
    )


def _observing() -> Panels:
    return (
        panels.program_times("Probe: time per program run", PROBE, span=6),
        panels.graph(
            "Scrape duration",
            units.Seconds,
            "How long Prometheus waited for an answer. A scrape holds the daemon's interpreter "
            "lock for a part of it, equally in both modes.",
            Query(_scrape_seconds("etltd_build_info", DAEMON), "daemons"),
            Query(_scrape_seconds(PROBES, PROBE), "probes"),
            span=6,
        ),
    )


def _disturbing() -> Panels:
    return (
        panels.graph(
            "System calls of other threads",
            units.OpsPerSecond,
            "System calls of the daemons outside the loop: what answering scrapes costs them.",
            Query(
                rate(f"etlt_probe_other_thread_syscalls_total{{{PROBE}, {COMPARED}}}", "mode"),
                "{{mode}}",
            ),
            span=6,
        ),
        panels.graph(
            "Client: schedule lag, p99",
            units.Seconds,
            "How late the client itself sent. Near the latency, the client is what was measured.",
            Query(
                quantile(0.99, f"etlt_load_schedule_lag_seconds_bucket{{{RUNS}}}", "mode"),
                "{{mode}}",
            ),
            span=6,
        ),
    )


def _scrape_seconds(metric: str, matchers: str) -> str:
    return f"max({of_targets(f'scrape_duration_seconds{{{matchers}}}', metric, matchers)})"


def _runs() -> table.Panel:
    def total(metric: str, labels: str = "run_id") -> str:
        return f"sum by ({labels}) (max_over_time({metric}{{{RUNS}}}[{RANGE}]))"

    received = total("etlt_load_messages_received_total")
    lost = total("etlt_load_messages_lost_total")
    p99 = (
        "histogram_quantile(0.99, sum by (run_id, le) "
        f"(max_over_time({LATENCY}_bucket{{{RUNS}}}[{RANGE}]))) >= 0"
    )
    offered = total("etlt_load_messages_offered_total", "run_id, mode")
    columns = (
        (Query(offered, "", "A"), "offered", units.Short),
        (Query(total("etlt_load_messages_sent_total"), "", "B"), "sent", units.Short),
        (Query(received, "", "C"), "copies received", units.Short),
        (Query(lost, "", "D"), "copies lost", units.Short),
        (Query(over(received, f"({received} + {lost})"), "", "E"), "delivered", units.PercentUnit),
        (Query(p99, "", "F"), "latency p99", units.Seconds),
    )
    return panels.rows_by(
        "run_id",
        "Runs",
        "What the client counted in each run, exact once the run is settled. Take a run's name "
        "as left or right to see it against another.",
        columns,
    )
