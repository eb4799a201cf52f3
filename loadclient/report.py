"""A result in words and figures, for people. Pure: a record in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.server import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.result import RunResult, Seconds

NO_FIGURE = "-"


def summary(result: RunResult) -> str:
    """Return the text that ends a run."""
    return "\n".join(_lines(result))


def _lines(result: RunResult) -> Iterator[str]:
    yield f"run {result.run_id}  mode {result.mode}  {result.connections} connections"
    yield from _load_lines(result)
    yield from _time_lines(result)
    share = result.client.get("busiest_cpu_share")
    yield _row(
        "client", NO_FIGURE if share is None else f"{share:.0%} of a core in its busiest process"
    )
    yield from _server_lines(result)
    yield from (_row("warning", text) for text in result.warnings)
    for threshold in result.thresholds:
        state = "holds" if threshold.holds else "FAILED"
        measured = (
            "not measured" if threshold.measured is None else f"measured {threshold.measured}"
        )
        yield _row(state, f"{threshold.name} {threshold.limit:g}, {measured}")
    if result.valid:
        yield _row("valid", "every message is accounted for")
    yield from (_row("INVALID", reason) for reason in result.invalid_reasons)


def _load_lines(result: RunResult) -> Iterator[str]:
    yield _row(
        "sent",
        f"{result.messages_sent:,} of {result.messages_offered:,} messages offered, "
        f"achieved {result.message_rate:,.1f} of {result.offered_rate:,.1f}/s, "
        f"{result.bytes_per_second / 1e6:,.2f} MB/s for {result.elapsed_seconds:.1f} s",
    )
    ratio = NO_FIGURE if result.delivery_ratio is None else f"{result.delivery_ratio:.6f}"
    yield _row(
        "delivered",
        f"{result.messages_received:,} of {result.messages_expected:,} copies owed, "
        f"ratio {ratio}, {result.deliveries_per_second:,.0f}/s, drained in "
        f"{duration(result.drain_seconds)}",
    )
    if result.lost or result.duplicated or result.reordered or result.damaged:
        by_reason = ", ".join(f"{n:,} {why}" for why, n in result.lost_by_reason.items() if n)
        yield _row(
            "not so",
            f"lost {result.lost:,} ({by_reason or 'none'}); of those looked at "
            f"({result.verify}): duplicated {result.duplicated:,}, reordered "
            f"{result.reordered:,}, damaged {result.damaged:,}",
        )
    if result.churn is not None:
        churn = result.churn
        yield _row(
            "came and went",
            f"{churn['connected']:,} connections received {churn['received']:,} copies; the server "
            f"owed them {figure(churn.get('owed'))} and {figure(churn.get('left_behind'))} were "
            "still under way to them when they went",
        )


def _time_lines(result: RunResult) -> Iterator[str]:
    yield _row("latency", _spread(result.latency_seconds, result.latency_absent_because))
    if result.merged is not None:
        error = result.merged["clock_uncertainty_seconds"]
        by = (
            "an unknown time: not all of their clocks are set" if error is None else duration(error)
        )
        yield _row("", f"of {result.merged['parts']} parts, whose clocks may differ by up to {by}")
    yield _row("uncorrected", _spread(result.latency_uncorrected_seconds))
    yield _row("schedule lag", _spread(result.schedule_lag_seconds))
    yield _row("connect", _spread(result.connect_seconds))


def _server_lines(result: RunResult) -> Iterator[str]:
    costs = server_costs(result)
    if costs is None:
        return
    yield _row(
        "server",
        f"{figure(costs['cpu_ns_per_delivery'])} ns CPU per delivered message; "
        f"per message sent: {figure(costs['wakeups_per_message'])} wakeups, "
        f"{figure(costs['syscalls_per_message'])} system calls",
    )
    kinds = (result.server or {}).get("counters", {}).get("syscalls_total", {})
    if result.messages_sent and isinstance(kinds, dict):
        each = (f"{kind} {figure(n / result.messages_sent)}" for kind, n in kinds.items() if n)
        yield _row("", ", ".join(each))


def server_costs(result: RunResult) -> dict[str, float | None] | None:
    """Return what a message cost the server; None without its counters."""
    if result.server is None:
        return None
    counters = result.server["counters"]
    copies = result.messages_received or count(counters, "messages_delivered_total")
    messages = result.messages_sent
    cpu = count(counters, "cpu_seconds_total")
    return {
        "cpu_ns_per_delivery": cpu * 1e9 / copies if copies else None,
        "wakeups_per_message": (
            count(counters, "epoll_wakeups_total") / messages if messages else None
        ),
        "syscalls_per_message": count(counters, "syscalls_total") / messages if messages else None,
    }


def _spread(seconds: Seconds | None, otherwise: str | None = None) -> str:
    if seconds is None:
        return f"{NO_FIGURE} {otherwise or ''}".strip()
    return "  ".join(f"{name} {duration(value)}" for name, value in seconds.items())


def _row(name: str, text: str) -> str:
    return f"  {name:<13} {text}"


def duration(seconds: float | None) -> str:
    """Return a time with three digits and its unit."""
    if seconds is None:
        return NO_FIGURE
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def spoken(seconds: float) -> str:
    """Return a length of time as people say it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole / 3600:.1f} h"


def figure(number: float | None) -> str:
    """Return a number with three digits."""
    if number is None:
        return NO_FIGURE
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
