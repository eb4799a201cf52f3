"""The daemon's own witness: its counters, read over HTTP before and after the measured phase.

Rule: what the server is (its mode, its options) comes from what it exports, never from what
somebody typed. Nothing of `etltd` is imported: its metric names are its public contract.
"""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from loadclient.ledger import ServerSide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client.samples import Sample

PREFIX = "etltd_"
TIMEOUT_SECONDS = 5.0
EQUAL_READINGS_APART = 0.06  # at quiescence two readings at least 50 ms apart are equal
REFUSED = ("too_long", "rate_limited")  # never became messages
TOLD = ("slow_consumer", "bus")  # who missed a copy for these reasons is told; the rest have gone
UNREADABLE = (OSError, HTTPException, ValueError, OverflowError)  # no answer, no HTTP, no figures
Counters: TypeAlias = "dict[str, float | dict[str, float]]"


class ServerUnreadableError(Exception):
    """The server's metrics could not be read; the message says what was tried."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One scrape, without its prefix; counters with a label are a mapping of its values."""

    mode: str = "unknown"
    build: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    counters: Counters = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)

    def since(self, earlier: Reading) -> Counters:
        """Return the growth of every counter; one that began later grew from 0."""
        return {
            name: _difference(value, earlier.counters.get(name, 0))
            for name, value in self.counters.items()
        }

    @property
    def processed(self) -> float:
        """Messages that the server has read, whether it accepted or refused them."""
        return count(self.counters, "messages_received_total") + count(
            self.counters, "messages_discarded_total", *REFUSED
        )

    def restarted_after(self, earlier: Reading) -> bool:
        """Tell whether this is another process than *earlier*'s."""
        born = "start_time_seconds"
        return self.gauges.get(born) != earlier.gauges.get(born)


def read(urls: str) -> Reading:
    """Scrape once; of several servers, with commas between, all that they count is added up.

    Raises ServerUnreadableError.
    """
    first, *more = map(_read, split(urls))
    return together([first, *more]) if more else first


def split(urls: str) -> list[str]:
    """Return the single URLs: a comma ends one only where the next begins."""
    return re.split("(?i),(?=https?://)", urls)


def together(readings: Sequence[Reading]) -> Reading:
    """Return several servers' readings as one's; what they disagree about is listed.

    Each may be several servers' already.
    """
    counters: Counters = {}
    gauges: dict[str, float] = {}
    for reading in readings:
        for name, value in reading.counters.items():
            counters[name] = _sum(counters.get(name, 0), value)
        for name, level in reading.gauges.items():
            gauges[name] = gauges.get(name, 0) + level
    instances = sum(int(one.config.get("instances", "1")) for one in readings)
    return Reading(
        _listed(readings, lambda one: one.mode),
        {name: _listed(readings, _of("build", name)) for name in _names(readings, "build")},
        {name: _listed(readings, _of("config", name)) for name in _names(readings, "config")}
        | {"instances": str(instances)},
        counters,
        gauges,
    )


def _names(readings: Sequence[Reading], record: str) -> set[str]:
    return {name for reading in readings for name in getattr(reading, record)}


def _of(record: str, name: str) -> Callable[[Reading], str]:
    return lambda reading: str(getattr(reading, record).get(name, "nothing"))


def _listed(readings: Sequence[Reading], of: Callable[[Reading], str]) -> str:
    """Return what there is, each once; of several servers' reading a value is such a list."""
    found: set[str] = set()
    for reading in readings:
        value = of(reading)
        found |= set(value.split("/")) if "instances" in reading.config else {value}
    return "/".join(sorted(found))


def _sum(
    one: float | dict[str, float], other: float | dict[str, float]
) -> float | dict[str, float]:
    if isinstance(other, dict):
        mine = one if isinstance(one, dict) else {}
        return {label: mine.get(label, 0) + other.get(label, 0) for label in {**mine, **other}}
    return other + (0 if isinstance(one, dict) else one)


def _read(url: str) -> Reading:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - checked
            reading = parse(answer.read().decode())
    except UNREADABLE as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise ServerUnreadableError(
            f"cannot read the server's metrics at {url}: {reason}"
        ) from error
    if not reading.counters:
        raise ServerUnreadableError(f"{url} exports no {PREFIX} counters: it is not the daemon's")
    return reading


def read_at_rest(url: str, patience_seconds: float, *, processed: float = 0) -> Reading:
    """Scrape until two readings agree on every message, or for *patience_seconds*.

    Two equal readings alone could be a server in the middle of one long tick: it is at rest when it
    has *processed* what is known to be on its way, too.
    """
    deadline = time.monotonic() + patience_seconds
    earlier = read(url)
    while True:
        time.sleep(EQUAL_READINGS_APART)
        later = read(url)
        moved = any(
            value for name, value in later.since(earlier).items() if name.startswith("messages_")
            and any(value.values() if isinstance(value, dict) else (value,))
        )  # fmt: skip
        rests = not moved and later.processed >= processed
        if rests or time.monotonic() > deadline:
            return later
        earlier = later


def parse(text: str) -> Reading:
    """Read an exposition; what is not the daemon's is passed over."""
    reading = Reading()
    mode = reading.mode
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(PREFIX):
            continue
        for sample in family.samples:
            mode = sample.labels.get("mode", mode)
            _file(reading, family.type, sample)
    return Reading(mode, reading.build, reading.config, reading.counters, reading.gauges)


def _file(reading: Reading, kind: str, sample: Sample) -> None:
    name = sample.name.removeprefix(PREFIX)
    labels = {key: value for key, value in sample.labels.items() if key != "mode"}
    if name == "build_info":
        reading.build.update(labels)
    elif name == "config_info":
        reading.config.update(labels)
    elif kind == "gauge":
        reading.gauges[name] = sample.value
    elif name.endswith(("_total", "_count", "_sum", "_bucket")):
        _count(reading.counters, name, labels, sample.value)


def _count(counters: Counters, name: str, labels: Mapping[str, str], value: float) -> None:
    number = int(value) if value == int(value) else value
    if not labels:
        counters[name] = number
        return
    row = counters.setdefault(name, {})
    if isinstance(row, dict):
        row[",".join(labels.values())] = number


def _difference(
    now: float | dict[str, float], then: float | dict[str, float]
) -> float | dict[str, float]:
    if isinstance(now, dict):
        before = then if isinstance(then, dict) else {}
        return {label: value - before.get(label, 0) for label, value in now.items()}
    return now - (0 if isinstance(then, dict) else then)


def count(counters: Mapping[str, float | dict[str, float]], name: str, *labels: str) -> float:
    """Return a counter, or the sum over its labels (over *labels* alone, if any are named)."""
    value = counters.get(name, 0)
    if isinstance(value, dict):
        return sum(number for label, number in value.items() if not labels or label in labels)
    return value


def side(counters: Counters, unread_bytes: int | None) -> ServerSide:
    """Return the counters that the ledger compares."""
    return ServerSide(
        received=int(count(counters, "messages_received_total")),
        refused=int(count(counters, "messages_discarded_total", *REFUSED)),
        enqueued=int(count(counters, "messages_enqueued_total")),
        dropped=int(count(counters, "messages_dropped_total")),
        dropped_and_told=int(count(counters, "messages_dropped_total", *TOLD)),
        unread_bytes=unread_bytes,
        evicted=int(count(counters, "connections_closed_total", "slow_consumer")),
        accepted=int(count(counters, "connections_accepted_total")),
        closed=int(count(counters, "connections_closed_total")),
    )
