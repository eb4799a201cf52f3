"""From one run to one slice: the figures that are compared, and the reasons to discard it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadclient.compare.study import MEASURED, Slice
from loadclient.server import count
from loadclient.verdict import BUSY_SHARE, STEAL_SHARE, not_stationary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loadclient.compare.design import Step
    from loadclient.result import RunResult
    from loadclient.server import Counters

LEAST_SENT = 0.99  # of the offered messages: below, the arms were not loaded alike
LEAD_SECONDS = 0.1  # of idling before a measured phase
MOST_LATE = 0.25  # of the frames: more is no hiccup of a shared machine
CLOCKS_DIFFER = 0.02  # of the daemon's processor time, by its word and by the kernel's clock
CLOCKS_APART_SECONDS = 0.005  # a scrape or two, which end after the counters are read
CLIENT = ("version", "commit", "python", "cpu", "kernel", "boot")
CONDITIONS = ("steal_share", "cpu_pressure_seconds", "load_average")


@dataclass(frozen=True, slots=True)
class Sights:
    """What was seen of a run besides its result."""

    frames: Mapping[str, float] = field(default_factory=dict)  # what an emulated network did
    registered: Mapping[str, int] = field(default_factory=dict)  # by the kernel: et, lt
    cpu_seconds: float | None = None  # of the daemon, by the kernel's clock


NOTHING_ELSE = Sights()


def slice_of(step: Step, result: RunResult, started: float, sights: Sights = NOTHING_ELSE) -> Slice:
    """Return the slice that *step* asked for, from its run."""
    server = result.server or {}
    counters: Counters = server.get("counters", {})
    gates = (
        *_gates(result),
        *_network_gates(sights.frames, result),
        *_clock_gates(sights.cpu_seconds, counters),
    )
    reasons = list(dict.fromkeys((*result.invalid_reasons, *gates)))
    return Slice(
        **_place(step, started),
        mode=result.mode,
        valid=not reasons,
        reasons=reasons,
        warnings=result.warnings,
        seconds=result.elapsed_seconds,
        offered=result.messages_offered,
        sent=result.messages_sent,
        expected=result.messages_expected,
        received=result.messages_received,
        lost=result.lost_by_reason,
        outcomes=_outcomes(result, counters),
        syscalls=_row(counters, "syscalls_total"),
        eagain=_row(counters, "syscall_eagain_total"),
        epoll_ctl=_row(counters, "epoll_ctl_total"),
        epoll_events=_row(counters, "epoll_events_total"),
        revisits=count(counters, "revisits_total"),
        registered=dict(sights.registered),
        kernel_cpu_seconds=sights.cpu_seconds,
        heard_by_bus=count(counters, "bus_received_batches_total"),
        churn=result.churn,
        wakeup_events=_buckets(_row(counters, "wakeup_events_bucket")),
        batch_messages=_buckets(_row(counters, "batch_messages_bucket")),
        latency=result.histograms.get("latency", {}),
        build=server.get("build", {}),
        config=server.get("config", {}),
        client={name: result.environment.get(name) for name in CLIENT},
        conditions=_conditions(result, sights.frames),
    )


def slice_of_the_dead(step: Step, started: float, error: Exception) -> Slice:
    """Return the slice of a daemon that ended before it was measured: it is not forgotten."""
    return Slice(**_place(step, started), reasons=[f"the daemon ended by itself: {error}"])


def _place(step: Step, started: float) -> dict[str, Any]:
    """Return the fields that say where in the plan a slice stands."""
    return {
        "index": step.index,
        "cell": step.cell,
        "pair": step.pair,
        "arm": step.arm,
        "started": started,
    }


def _conditions(result: RunResult, frames: Mapping[str, float]) -> dict[str, Any]:
    return {
        **{name: result.environment.get(name) for name in CONDITIONS},
        "client_cpu_share": result.client.get("busiest_cpu_share"),
        **({"network": dict(frames)} if frames else {}),
    }


def _gates(result: RunResult) -> Iterator[str]:
    """Yield what makes a run that is valid by itself no fair slice."""
    if result.server is None:
        yield "the daemon's counters were not joined"
    if result.messages_sent < LEAST_SENT * result.messages_offered:
        yield "less than 99 % of the offered messages were sent"
    if result.saturated:
        yield (
            f"saturated: {result.message_rate:,.1f} of {result.offered_rate:,.1f} messages/s "
            "offered were sent in time"
        )
    if sentence := not_stationary(result.latency_windows_seconds):
        yield sentence
    share = result.client.get("busiest_cpu_share")
    if isinstance(share, float) and share > BUSY_SHARE:
        yield f"a worker of the client used {share:.0%} of a core"
    steal = result.environment.get("steal_share")
    if isinstance(steal, float) and steal > STEAL_SHARE:
        yield f"the hypervisor took {steal:.0%} of the processors' time"


def _network_gates(frames: Mapping[str, float], result: RunResult) -> Iterator[str]:
    """Yield what makes our own forwarder, and not the network it stands for, the limit."""
    seconds, forwarded = frames.get("seconds"), frames.get("frames_forwarded")
    if not seconds or not forwarded:
        return
    share = frames["cpu_seconds"] / max(seconds - LEAD_SECONDS, result.elapsed_seconds)
    if share > BUSY_SHARE:
        yield f"the network's forwarder used {share:.0%} of a core"
    late = frames["frames_late"] / forwarded
    if late > MOST_LATE:
        yield f"the network's forwarder delivered {late:.0%} of the frames more than 1 ms late"


def _clock_gates(by_kernel: float | None, counters: Counters) -> Iterator[str]:
    """Yield what makes the daemon's word about its own processor time no measure of it."""
    if by_kernel is None or not counters:
        return
    said = count(counters, "cpu_seconds_total")
    if abs(said - by_kernel) > CLOCKS_DIFFER * by_kernel + CLOCKS_APART_SECONDS:
        yield (
            f"the daemon says that it used {said:.3f} s of processor time, and by the kernel's "
            f"clock it was {by_kernel:.3f} s"
        )


def _outcomes(result: RunResult, counters: Counters) -> dict[str, float | None]:
    messages = result.messages_sent
    latency = result.latency_seconds or {}
    wakeups = count(counters, "epoll_wakeups_total")
    figures = {
        "cpu_ns_per_delivery": _over(
            count(counters, "cpu_seconds_total") * 1e9, result.messages_received
        ),
        "latency_p50_seconds": latency.get("p50"),
        "latency_p99_seconds": latency.get("p99"),
        "deliveries_per_second": result.deliveries_per_second,
        "wakeups_per_message": _over(wakeups, messages),
        "syscalls_per_message": _over(count(counters, "syscalls_total"), messages),
        "eagain_reads_per_message": _over(
            count(counters, "syscall_eagain_total", "recvfrom"), messages
        ),
        "mods_per_message": _over(count(counters, "epoll_ctl_total", "mod"), messages),
        "events_per_wakeup": _over(count(counters, "epoll_events_total"), wakeups),
        "messages_per_batch": _over(
            count(counters, "batch_messages_sum"), count(counters, "batch_messages_count")
        ),
    }
    return {outcome.name: figures[outcome.name] for outcome in MEASURED}


def _over(amount: float, divisor: float) -> float | None:
    return amount / divisor if divisor else None


def _row(counters: Mapping[str, Any], name: str) -> dict[str, float]:
    row = counters.get(name, {})
    return dict(row) if isinstance(row, dict) else {}


def _buckets(cumulative: Mapping[str, float]) -> dict[str, float]:
    """Return how many are in each bucket, by its upper edge, from how many are up to it."""
    below = 0.0
    own: dict[str, float] = {}
    for edge, number in sorted(cumulative.items(), key=lambda item: float(item[0])):
        if number > below:
            own[edge] = number - below
        below = number
    return own
