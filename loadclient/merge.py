"""One result of the parts of one run. Pure: records in, one record out.

Nothing is averaged: accounts are put side by side and settled as if one process had kept them all,
histograms are added slot by slot, counters of several servers are added. What one part alone could
only compare with the plan is here compared with what the others really sent, and a limit is held
against the whole's figures, not against any part's.

Not merged: `latency_windows_seconds`, because means of windows do not add up without their numbers,
so that whether the load was stationary is said of each part alone; and what is told of one process
on one host (`environment`, `phases`, `config`), which is the first part's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from loadclient.clocks import Clock
from loadclient.histogram import Histogram, merged
from loadclient.ledger import Account, Closed, Profile, join_reasons, settle_deliveries
from loadclient.result import RunResult, judge, quantiles
from loadclient.server import Reading, side, together
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadclient.ledger import Deliveries
    from loadclient.result import Seconds, Threshold
    from loadclient.server import Counters

SAME = ("msg_bytes", "rate", "duration", "senders", "conns", "burst", "verify")
SUMS = (
    *("messages_offered", "messages_sent", "bytes_sent", "bytes_unsent", "offered_rate"),
    *("message_rate", "bytes_per_second", "bytes_received", "duplicated", "reordered", "damaged"),
    *("latency_samples", "connections"),
)


class MergeError(ValueError):
    """These records are not the parts of one run; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a record holds of the part that it is, beside its figures."""

    number: int
    of: int
    start_at: float
    clock: Clock
    prefix_bytes: dict[int, int]
    accounts: list[Account]

    def as_json(self) -> dict[str, Any]:
        """Return it for a record: accounts are rows, in the order of their fields."""
        return {
            "number": self.number,
            "of": self.of,
            "start_at": self.start_at,
            "clock": asdict(self.clock),
            "prefix_bytes": {str(number): size for number, size in self.prefix_bytes.items()},
            "accounts": [[getattr(a, f.name) for f in fields(Account)] for a in self.accounts],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Part:
        """Read what `as_json` returned."""
        return cls(
            stored["number"],
            stored["of"],
            stored["start_at"],
            Clock(**stored["clock"]),
            {int(number): size for number, size in stored["prefix_bytes"].items()},
            [_account(row) for row in stored["accounts"]],
        )


def _account(row: list[Any]) -> Account:
    values = dict(zip((f.name for f in fields(Account)), row, strict=True))
    values["profile"] = Profile(values["profile"])
    values["closed"] = values["closed"] and Closed(values["closed"])
    return Account(**values)


def merge(results: Sequence[RunResult]) -> RunResult:
    """Return the result of the run whose parts *results* are.

    Raises:
        MergeError: they are not all parts of one run.
    """
    parts = [_part(result) for result in results]
    _check(results, parts)
    order = sorted(range(len(parts)), key=lambda i: parts[i].number)
    results, parts = [results[i] for i in order], [parts[i] for i in order]
    accounts = [account for part in parts for account in part.accounts]
    prefixes, config = _prefixes(parts), results[0].config
    voices = Voices.alike(len(prefixes), float(config["rate"]), int(config["msg_bytes"]))
    deliveries = settle_deliveries(accounts, prefixes, voices)
    server = _server(results)
    reasons = _each(parts, results, "invalid_reasons") + list(deliveries.reasons)
    if server is not None:
        known = side(server["counters"], server["unread_bytes"])
        reasons += join_reasons(known, accounts, deliveries, voices)
    load, times = _load(results, deliveries), _times(results)
    return RunResult(
        run_id=results[0].run_id,
        mode=server["mode"] if server else "unknown",
        valid=not reasons,
        invalid_reasons=list(dict.fromkeys(reasons)),
        warnings=[
            *_each(parts, results, "warnings"),
            *_unlike(results),
            *_impossible(times["histograms"]["latency"]),
        ],
        interrupted=any(result.interrupted for result in results),
        thresholds=_thresholds(results, times["latency_seconds"], load["delivery_ratio"]),
        phases=results[0].phases,
        **load,
        **times,
        connections_closed_by_server={
            how.value: sum(account.closed is how for account in accounts) for how in Closed
        },
        client=_client(results),
        config=config,
        environment=results[0].environment,
        server=server,
        merged={
            "parts": len(parts),
            "clock_uncertainty_seconds": clock_uncertainty([part.clock for part in parts]),
        },
    )


def _each(parts: Sequence[Part], results: Sequence[RunResult], name: str) -> list[str]:
    """Return the sentences of every part, with its number."""
    return [
        f"part {part.number}: {sentence}"
        for part, result in zip(parts, results, strict=True)
        for sentence in getattr(result, name)
    ]


def _limits(result: RunResult) -> set[tuple[str, float]]:
    return {(threshold.name, threshold.limit) for threshold in result.thresholds}


def _thresholds(
    results: Sequence[RunResult], latency: Seconds | None, ratio: float | None
) -> list[Threshold]:
    """Hold every limit that any part had against the whole."""
    limits = set().union(*map(_limits, results))
    return [judge(name, limit, latency, ratio) for name, limit in sorted(limits)]


def _unlike(results: Sequence[RunResult]) -> list[str]:
    """Say so if the parts had different limits: all are to have the same options."""
    first, *others = map(_limits, results)
    if all(other == first for other in others):
        return []
    return ["the parts have different thresholds: each of them is held against the whole run"]


def _load(results: Sequence[RunResult], deliveries: Deliveries) -> dict[str, Any]:
    """Return the fields of what was sent and delivered."""
    elapsed = max(result.elapsed_seconds for result in results)
    drains = [r.drain_seconds for r in results if r.drain_seconds is not None]
    span = elapsed + max(drains, default=0.0)
    return {
        **{name: sum(getattr(r, name) for r in results) for name in SUMS},
        "elapsed_seconds": elapsed,
        "saturated": any(result.saturated for result in results),
        "messages_expected": deliveries.expected,
        "messages_received": deliveries.received,
        "deliveries_per_second": deliveries.received / span if span else 0.0,
        "delivery_ratio": (
            deliveries.received / deliveries.expected if deliveries.expected else None
        ),
        "lost": sum(deliveries.lost.values()),
        "lost_by_reason": deliveries.lost,
        "verify": results[0].verify,
        "drain_seconds": max(drains, default=None),
    }


def _times(results: Sequence[RunResult]) -> dict[str, Any]:
    """Return the fields of what took how long: of all parts' histograms, added slot by slot."""
    histograms = {
        name: merged([Histogram.from_json(result.histograms[name]) for result in results])
        for name in results[0].histograms
    }
    lag = merged([histograms["schedule_lag_own"], histograms["schedule_lag_blocked"]])
    return {
        "latency_seconds": quantiles(histograms["latency"]),
        "latency_uncorrected_seconds": quantiles(histograms["latency_uncorrected"]),
        "latency_censored": _censored(results),
        "latency_absent_because": _absent(results, histograms["latency"]),
        "schedule_lag_seconds": quantiles(lag),
        "schedule_lag_own_seconds": quantiles(histograms["schedule_lag_own"]),
        "connect_seconds": quantiles(histograms["connect"]),
        "histograms": {name: histogram.as_json() for name, histogram in histograms.items()},
    }


def _censored(results: Sequence[RunResult]) -> dict[str, float | None]:
    """Return how many samples no part ever had, and the oldest one's age, where that was told."""
    found = [result.latency_censored for result in results]
    ages = [age for one in found if (age := one.get("oldest_age_seconds")) is not None]
    return {
        "samples": sum(one.get("samples") or 0 for one in found),
        "oldest_age_seconds": max(ages, default=None),
    }


def _absent(results: Sequence[RunResult], latency: Histogram) -> str | None:
    """Return why there is no latency, as the first part says; None if any part measured one."""
    if latency.count:
        return None
    return next((why for result in results if (why := result.latency_absent_because)), None)


def _impossible(latencies: dict[str, Any]) -> list[str]:
    """Say how many were heard before they were due: those are recorded as nought."""
    count = latencies["slots"].get("0", 0)
    if not count:
        return []
    warning = f"{count} messages were heard before they were due: the clocks of the hosts differ"
    return [f"{warning} by more than the way takes, and the latencies are wrong by that"]


def _client(results: Sequence[RunResult]) -> dict[str, Any]:
    clients = [result.client for result in results]
    return {
        "procs": sum(client.get("procs", 1) for client in clients),
        "cpu_seconds": sum(client.get("cpu_seconds", 0.0) for client in clients),
        "busiest_cpu_share": max(client.get("busiest_cpu_share") or 0.0 for client in clients),
    }


def clock_uncertainty(clocks: Sequence[Clock]) -> float | None:
    """Return how wrong a latency from one part to another may be; None if nobody knows.

    On one host it is one clock. Else both ends may be wrong, each by its own.
    """
    hosts = {clock.boot_id: clock.max_error_seconds for clock in clocks}
    if len(hosts) == 1:
        return 0.0
    errors = [error for error in hosts.values() if error is not None]
    return sum(sorted(errors)[-2:]) if len(errors) == len(hosts) else None


def _part(result: RunResult) -> Part:
    if result.part is None:
        raise MergeError(f"run {result.run_id} is no part of a run: it had no --part")
    return Part.from_json(result.part)


def _check(results: Sequence[RunResult], parts: Sequence[Part]) -> None:
    numbers = sorted(part.number for part in parts)
    of = parts[0].of
    if (
        len(numbers) != of
        or numbers != list(range(1, of + 1))
        or {part.of for part in parts} != {of}
    ):
        raise MergeError(f"parts 1 to {of} are needed, each once, and these are {numbers}")
    if len({result.run_id for result in results}) > 1:
        names = sorted({result.run_id for result in results})
        raise MergeError(f"these are parts of several runs: {', '.join(names)}")
    if len({part.start_at for part in parts}) > 1:
        raise MergeError("the parts did not start at one time (--start-at)")
    for name in SAME:
        values = {str(result.config.get(name)) for result in results}
        if len(values) > 1:
            raise MergeError(f"the parts differ in {name}: {', '.join(sorted(values))}")


def _prefixes(parts: Sequence[Part]) -> dict[int, int]:
    """Return how long each sender's prefix is, on which all who heard it must agree."""
    found: dict[int, int] = {}
    for part in parts:
        for number, size in part.prefix_bytes.items():
            if found.setdefault(number, size) != size:
                raise MergeError(f"the parts heard sender {number} under names of two lengths")
    return found


def _server(results: Sequence[RunResult]) -> dict[str, Any] | None:
    """Return all servers as one, as a run that joined them all does; None if no part joined any."""
    servers = [result.server for result in results if result.server is not None]
    if not servers:
        return None
    _check_counters([server["counters"] for server in servers])
    first, *more = map(_reading, servers)
    unread = [server["unread_bytes"] for server in servers]
    return {
        **asdict(together([first, *more]) if more else first),
        "unread_bytes": None if None in unread else sum(unread),
    }


def _reading(server: dict[str, Any]) -> Reading:
    """Return what a record holds of its server, or of several that it was joined with."""
    return Reading(**{f.name: server[f.name] for f in fields(Reading) if f.name in server})


def _check_counters(many: Sequence[Counters]) -> None:
    has_labels: dict[str, bool] = {}
    for counters in many:
        for name, value in counters.items():
            known = has_labels.setdefault(name, isinstance(value, dict))
            if known != isinstance(value, dict):
                raise MergeError(f"the counter {name} has labels in one part and none in another")
