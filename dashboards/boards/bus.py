"""Bus: several instances that are one chat, each by itself and all of a mode together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.models import units

from dashboards import panels
from dashboards.panels import Query, rate_of
from dashboards.queries import RANGE, gauge, of_daemons, over, quantile, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.builders import timeseries
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panels

BY = "mode, instance"
WHO = panels.named(BY)
ALL = "all"
EACH_AND_ALL = ("each", ALL)


def board() -> Dashboard:
    """Return the board."""
    return panels.board(
        "etlt-bus",
        "Instances of etltd on a bus: what each does, what all of a mode do together, what passes "
        "between them and what is lost. Without --bus there is nothing to see in the lower rows.",
        variables=(
            panels.datasource_variable(),
            panels.job_variable(),
            panels.instance_variable(),
        ),
        annotations=(panels.restarts(),),
        rows={
            "Now": _now(),
            "Each instance, and all of a mode": _each_and_all(),
            "What passes between them": (*_passing(), *_how_it_passes()),
            "What is lost": _lost(),
            "What a shared port costs": _accepting(),
        },
    )


def _now() -> Panels:
    missed = f"sum by ({BY}) (increase({of_daemons('bus_lost_messages_total')}[{RANGE}]))"
    return (
        panels.yes_or_no(
            "On the bus",
            "Whether the instance is connected to NATS. It serves its own clients all the same.",
            ("connected", "ALONE"),
            Query(gauge("bus_connected", BY), WHO),
            span=8,
            height=5,
        ),
        panels.number(
            "Other instances heard of",
            units.Short,
            "Within five seconds. Instances of one subject should all show the same number.",
            Query(gauge("bus_peers", BY), WHO),
            span=8,
        ),
        panels.number(
            "Messages missed, in this time range",
            units.Short,
            "What others said and this instance's clients did not hear; each of them was told.",
            Query(f"round({missed})", WHO),
            span=8,
        ),
    )


def _each_and_all() -> Panels:
    return (
        panels.graph(
            "Connections",
            units.Short,
            "Peers connected to each instance, and to all of a mode.",
            Query(gauge("connections", BY), WHO),
            Query(gauge("connections", "mode"), f"{{{{mode}}}} {ALL}"),
            kinds=EACH_AND_ALL,
        ),
        _rates(
            "Delivered",
            units.MessagesPerSecond,
            "Copies handed to the kernel.",
            "messages_delivered_total",
        ),
        _rates(
            "CPU",
            units.PercentUnit,
            "CPU seconds per second, the bus's thread included. Each loop has one core.",
            "cpu_seconds_total",
        ),
    )


def _rates(title: str, unit: str, description: str, metric: str) -> timeseries.Panel:
    """Return a counter's rate for every instance, and summed over a mode's."""
    return panels.graph(title, unit, description, *_both_rates(metric), kinds=EACH_AND_ALL)


def _wide_rates(title: str, unit: str, description: str, metric: str) -> timeseries.Panel:
    """Return the same with room for the names."""
    return _wide(title, unit, description, *_both_rates(metric), kinds=EACH_AND_ALL)


def _both_rates(metric: str) -> tuple[Query, Query]:
    return rate_of(of_daemons(metric), BY), rate_of(of_daemons(metric), "mode", ALL)


def _passing() -> Panels:
    messages, batches = (
        rate(of_daemons(f"bus_published_{what}_total"), BY) for what in ("messages", "batches")
    )
    return (
        _wide_rates(
            "Messages out",
            units.MessagesPerSecond,
            "Said by an instance's clients and handed to NATS.",
            "bus_published_messages_total",
        ),
        _wide_rates(
            "Messages in",
            units.MessagesPerSecond,
            "Heard from others: what one says, every other one of its mode hears.",
            "bus_received_messages_total",
        ),
        _wide_rates(
            "Bytes out",
            units.BytesPerSecondIEC,
            "Handed to NATS, signs of life included.",
            "bus_published_bytes_total",
        ),
        _wide_rates(
            "Bytes in",
            units.BytesPerSecondIEC,
            "Heard from others, signs of life included.",
            "bus_received_bytes_total",
        ),
        _wide(
            "Messages per envelope",
            units.Short,
            "One tick is one envelope: the more a tick has to say, the cheaper the bus.",
            Query(over(messages, batches), WHO),
        ),
        _wide(
            "Bytes waiting",
            units.BytesIEC,
            "For NATS (out), and from NATS for the loop (in). At --bus-buffer-bytes messages are "
            "given up.",
            Query(gauge("bus_outgoing_bytes", BY), f"{WHO} out"),
            Query(gauge("bus_incoming_bytes", BY), f"{WHO} in"),
            kinds=("out", "in"),
        ),
    )


def _how_it_passes() -> Panels:
    return (
        _lag("Lag, p50", 0.5),
        _lag("Lag, p99", 0.99),
        _wide_rates(
            "Reconnects",
            units.OpsPerSecond,
            "Connections to NATS after the first.",
            "bus_reconnects_total",
        ),
        _wide_rates(
            "Failures to connect",
            units.OpsPerSecond,
            "Connections to NATS that could not be made.",
            "bus_connect_failures_total",
        ),
    )


def _lag(title: str, q: float) -> timeseries.Panel:
    buckets = of_daemons("bus_lag_seconds_bucket")
    return _wide(
        title,
        units.Seconds,
        "From the tick in which a batch was read there to the one in which it is delivered here, "
        "by two hosts' clocks: it is as true as these agree.",
        Query(quantile(q, buckets, BY), WHO),
        Query(quantile(q, buckets, "mode"), f"{{{{mode}}}} {ALL}"),
        kinds=EACH_AND_ALL,
    )


def _wide(
    title: str, unit: str, description: str, *queries: Query, kinds: Sequence[str] = ()
) -> timeseries.Panel:
    """Return lines with room for the names of two for every instance."""
    half, beside = panels.WIDTH // 2, panels.RIGHT_OF_IT
    return panels.graph(title, unit, description, *queries, kinds=kinds, span=half, legend=beside)


def _lost() -> Panels:
    return (
        _wide_rates(
            "Missed",
            units.MessagesPerSecond,
            "Messages of others that never came, wherever they were lost.",
            "bus_lost_messages_total",
        ),
        _wide_rates(
            "Gaps",
            units.OpsPerSecond,
            "How often the numbers of another instance's messages left some out.",
            "bus_gaps_total",
        ),
        _wide(
            "Late messages, strangers",
            units.OpsPerSecond,
            "Messages that came twice or after they were given up; and what came over the subject "
            "and is nobody's of us.",
            rate_of(of_daemons("bus_late_messages_total"), "mode", "late"),
            rate_of(of_daemons("bus_foreign_envelopes_total"), "mode", "strangers"),
            kinds=("late", "strangers"),
        ),
        _wide(
            "Given up, by reason",
            units.MessagesPerSecond,
            "Messages that this side could not pass on: no room for NATS or for the loop, a line "
            "over the server's limit, or a stop without NATS.",
            rate_of(of_daemons("bus_dropped_messages_total"), "mode, reason"),
            kinds=("outgoing_full", "too_large", "unsent", "incoming_full"),
        ),
    )


def _accepting() -> Panels:
    return (
        _accepts(
            "Accepting, each instance",
            "How often a loop was told that somebody waits, whom it accepted, and its accept4 "
            "calls that found nobody: the last of every turn, so there is one for each event.",
            BY,
        ),
        _accepts(
            "Accepting, all of a mode",
            "The same of all loops. Where they share one socket (--listener shared), more events "
            "than connections are loops that were woken for what another one took.",
            "mode",
        ),
    )


def _accepts(title: str, description: str, by: str) -> timeseries.Panel:
    return _wide(
        title,
        units.OpsPerSecond,
        description,
        rate_of(of_daemons('epoll_events_total{kind="accept"}'), by, "events"),
        rate_of(of_daemons("connections_accepted_total"), by, "accepted"),
        rate_of(of_daemons('syscall_eagain_total{syscall="accept4"}'), by, "found nobody"),
        kinds=("events", "accepted", "found nobody"),
    )
