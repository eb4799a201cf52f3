"""The record of one run: versioned JSON, complete enough to be merged and judged later.

Rule: a figure that was not measured is null, never 0, and a run that proves nothing says so in
`invalid_reasons`. Nothing here reads a clock, a socket or the environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from loadclient.stored import no_constant, record

if TYPE_CHECKING:
    from loadclient.histogram import Histogram

SCHEMA = "etlt.run/1"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
Seconds = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A limit that the user set, and what was measured against it."""

    name: str
    limit: float
    measured: float | None
    holds: bool


def judge(name: str, limit: float, latency: Seconds | None, ratio: float | None) -> Threshold:
    """Hold the *limit* of that name against the latency or the delivery ratio of a run.

    What was not measured, or is not known, does not hold.
    """
    p99 = (latency or {}).get("p99")
    measured = {"max_p99": None if p99 is None else p99 * 1000, "min_delivery_ratio": ratio}
    found = measured.get(name)
    is_least = name.startswith("min_")
    holds = found is not None and (found >= limit if is_least else found <= limit)
    return Threshold(name=name, limit=limit, measured=found, holds=holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run. The fields are the JSON keys."""

    schema: str = SCHEMA
    run_id: str
    mode: str = "unknown"  # as the server's metrics say
    valid: bool = False
    invalid_reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    thresholds: list[Threshold] = field(default_factory=list)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)  # unix start and stop

    messages_offered: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    bytes_unsent: int = 0
    elapsed_seconds: float = 0.0
    offered_rate: float = 0.0  # messages per second, as the schedule asked
    message_rate: float = 0.0  # achieved: whole messages sent by the end of the schedule
    bytes_per_second: float = 0.0  # likewise
    saturated: bool = False  # achieved is more than 1 % below offered

    messages_expected: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    deliveries_per_second: float = 0.0
    delivery_ratio: float | None = None
    lost: int = 0
    lost_by_reason: dict[str, int] = field(default_factory=dict)
    duplicated: int = 0
    reordered: int = 0
    damaged: int = 0
    verify: str = "sampled"  # which messages the three counts above looked at
    drain_seconds: float | None = None

    latency_seconds: Seconds | None = None  # from the due time
    latency_uncorrected_seconds: Seconds | None = None  # from the real time of sending
    latency_samples: int = 0
    latency_censored: dict[str, float | None] = field(default_factory=dict)
    latency_absent_because: str | None = None
    latency_windows_seconds: list[float | None] = field(default_factory=list)  # by due time
    schedule_lag_seconds: Seconds | None = None
    schedule_lag_own_seconds: Seconds | None = None  # of messages whose socket had room
    connect_seconds: Seconds | None = None

    connections: int = 0
    connections_closed_by_server: dict[str, int] = field(default_factory=dict)
    part: dict[str, Any] | None = None  # what `loadclient merge` needs; null: the whole run
    merged: dict[str, Any] | None = None  # of how many parts, and how far their clocks agree
    churn: dict[str, Any] | None = None  # connections that came and went; null: there were none
    client: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] | None = None
    histograms: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record as text, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunResult:
        """Read a stored record; keys that a later version added are passed over.

        Raises ValueError if it is not a run of this schema, and TypeError if it has no name.
        """
        stored = json.loads(text, parse_constant=no_constant)
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            raise ValueError(f'not a result with "schema": "{SCHEMA}"')
        thresholds = [record(Threshold, threshold) for threshold in stored.get("thresholds", ())]
        return record(cls, stored, thresholds=thresholds)


def quantiles(histogram: Histogram) -> Seconds | None:
    """Return the percentiles and the maximum in seconds; None if nothing was recorded."""
    if not histogram.count:
        return None
    seconds: Seconds = {}
    for name, fraction in QUANTILES.items():
        value = histogram.percentile(fraction)
        seconds[name] = None if value is None else value / 1e9
    seconds["max"] = histogram.max / 1e9
    return seconds
