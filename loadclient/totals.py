"""Sums of what the workers report. Pure: snapshots in, one snapshot out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import TYPE_CHECKING

from loadclient.histogram import Histogram, merged
from loadclient.protocol import Latencies, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadclient.voices import Voices

LATEST = ("now_ns", "last_received_ns")


class Rest(Enum):
    """How waiting for the last messages ended."""

    COMPLETE = "nothing is owed"
    WITNESSED = "something is owed, and a witness says that it will not come"
    OVERDUE = "something is owed, and it had not come when the time was over"
    MOVING = "messages were still arriving when the time was over"


def combined(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return the totals over all workers: counts added, times the latest, histograms merged."""
    numbers = [f.name for f in fields(Snapshot) if f.name not in {"notice", "latencies"}]
    totals = {
        name: (max if name in LATEST else sum)(getattr(snapshot, name) for snapshot in snapshots)
        for name in numbers
    }
    notices = [snapshot.notice for snapshot in snapshots if snapshot.notice]
    latencies = [snapshot.latencies for snapshot in snapshots if snapshot.latencies is not None]
    return replace(
        Snapshot(**totals),
        notice=notices[-1] if notices else "",
        latencies=merged_latencies(latencies) if latencies else None,
    )


def merged_latencies(parts: Sequence[Latencies]) -> Latencies:
    """Return the histograms of all workers as one of each kind."""
    return Latencies(
        corrected=merged([part.corrected for part in parts]),
        uncorrected=merged([part.uncorrected for part in parts]),
        lag=merged([part.lag for part in parts]),
        lag_blocked=merged([part.lag_blocked for part in parts]),
    )


def all_lag(latencies: Latencies) -> Histogram:
    """Return the schedule lag of every message, whoever was the cause."""
    return merged([latencies.lag, latencies.lag_blocked])


@dataclass(frozen=True, slots=True)
class Frames:
    """Lengths of the server's frames, as the hellos showed them."""

    shortest: int
    longest: int
    mean: float
    foreign_bytes: int = 0  # that other parts of the run owe every reader, if all goes as planned

    @classmethod
    def of(cls, prefix_bytes: Mapping[int, int], voices: Voices) -> Frames:
        """Return the lengths over all senders; the loud ones count for more in the mean."""
        sizes = [prefix + voices.size(number) for number, prefix in prefix_bytes.items()]
        shortest, longest = (
            min(sizes, default=voices.sizes[0]),
            max(sizes, default=voices.sizes[-1]),
        )
        return cls(shortest, longest, voices.mean_frame(prefix_bytes))

    def messages(self, snapshot: Snapshot) -> int:
        """Return how many messages the received bytes make.

        Exact at the end where frames differ by their prefix alone, else close.
        """
        return round((snapshot.received_bytes - snapshot.notice_bytes) / self.mean)

    def missing(self, snapshot: Snapshot) -> int:
        """Return the bytes that readers are owed and have not received."""
        everybodys = snapshot.frame_bytes + self.foreign_bytes
        owed = snapshot.readers * everybodys - snapshot.own_frame_bytes
        return owed - (snapshot.received_bytes - snapshot.notice_bytes)

    def complete(self, snapshot: Snapshot) -> bool:
        """Tell whether everything due was sent, and is received or announced as dropped."""
        if snapshot.unsent_bytes or snapshot.overdue:
            return False
        return not snapshot.readers or (self.missing(snapshot) <= snapshot.announced * self.longest)
