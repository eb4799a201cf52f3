"""What the exporters themselves said at the moments of a scene, and sums over it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.probes.test_daemon import read_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.probes.test_daemon import Samples

Labels = frozenset[tuple[str, str]]
Values = dict[Labels, float]

BEFORE, DURING, END, TROUBLE = "before", "during", "end", "trouble"
INFINITY = "+Inf"
KINDS = {"epoll_ctl_total": "op"}  # what a ledger tells apart, if not system calls


def look(
    targets: Mapping[str, Iterable[str]], without: str = "", at: Mapping[str, str] | None = None
) -> Samples:
    """Scrape every target once, as Prometheus does, and label the samples as it does.

    Where it has other addresses for them than we, *at* says ours.
    """
    ours = at or {}
    return [
        (name, {**labels, "job": job, "instance": address}, value)
        for job, addresses in targets.items()
        if job != without
        for address in addresses
        for name, labels, value in read_samples(f"http://{ours.get(address, address)}/metrics")
    ]


def while_measured(ledgers: Mapping[str, Mapping[str, Any]]) -> Samples:
    """Return by how much the daemons' counters rose in the measured phase, as the runs tell it."""
    return [
        (f"etltd_{name}", {"mode": mode, **labels}, value)
        for mode, ledger in ledgers.items()
        for name, told in ledger["server"]["counters"].items()
        for labels, value in _kinds(KINDS.get(name, "syscall"), told)
    ]


def _kinds(label: str, told: Any) -> list[tuple[dict[str, str], float]]:
    return [({label: k}, v) for k, v in told.items()] if isinstance(told, dict) else [({}, told)]


@dataclass(frozen=True)
class View:
    """The exporters' own figures at one moment, and since the beginning."""

    before: Samples
    now: Samples
    seconds: float
    measured: Samples = field(default_factory=list)  # rises in the phase, if known

    def reborn(self) -> View:
        """Return the beginning, seen from itself: what there was by then."""
        return View(self.before, self.before, self.seconds)

    def level(self, name: str, *by: str, **where: str) -> Values:
        """Return the sums of a series now, by labels."""
        return summed(self.now, name, by, where)

    def rise(self, name: str, *by: str, **where: str) -> Values:
        """Return by how much a counter has risen; one that was not there stood at nought."""
        then = summed(self.before, name, by, where)
        return {
            key: value - then.get(key, 0) for key, value in self.level(name, *by, **where).items()
        }

    def spent(self, name: str, *by: str, **where: str) -> Values:
        """Return by how much a counter rose while it was measured, or in all, as the boards do."""
        if not self.measured:
            return self.rise(name, *by, **where)
        return summed(self.measured, name, by, where)

    def quantile(self, q: float, buckets: str, *by: str, **where: str) -> Values:
        """Return a quantile of what a histogram has counted since, as PromQL defines it."""
        found: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
        for key, count in self.rise(buckets, *by, "le", **where).items():
            le = dict(key)["le"]
            bound = math.inf if le == INFINITY else float(le)
            found[key - {("le", le)}].append((bound, count))
        return {
            key: _quantile(q, sorted(counts)) for key, counts in found.items() if max(counts)[1]
        }


def summed(samples: Samples, name: str, by: tuple[str, ...], where: Mapping[str, str]) -> Values:
    """Return sums by labels; *where* names values that a series must have, `!x` must not."""
    found: Values = defaultdict(float)
    for series, labels, value in samples:
        if series == name and all(_matches(labels.get(k, ""), v) for k, v in where.items()):
            found[frozenset((label, labels[label]) for label in by if label in labels)] += value
    return dict(found)


def _matches(value: str, wanted: str) -> bool:
    return value != wanted[1:] if wanted.startswith("!") else value in wanted.split("|")


def _quantile(q: float, counts: list[tuple[float, float]]) -> float:
    rank = q * counts[-1][1]
    below_bound, below = 0.0, 0.0
    for bound, count in counts:
        if count >= rank:
            if bound == math.inf:
                return below_bound
            share = (rank - below) / (count - below)
            return below_bound + (bound - below_bound) * share
        below_bound, below = bound, count
    raise AssertionError("a rank beyond the count")
