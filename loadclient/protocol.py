"""What the parent and its workers say to each other: plain records, pickled over a socket pair.

Rule: the parent asks and every worker answers each question once, in order. Times are nanoseconds
of CLOCK_MONOTONIC, which all processes of one host share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from loadclient.ledger import Churned
from loadclient.stationarity import Windows

if TYPE_CHECKING:
    from loadclient.histogram import Histogram
    from loadclient.ledger import Account, Profile
    from loadclient.pacing import Schedule
    from loadclient.voices import Voices

NEVER_NS = 1 << 62  # later than anything


@dataclass(frozen=True, slots=True)
class Place:
    """One connection of the plan: how it reads, and as which sender it speaks, if it does."""

    profile: Profile
    sender: int | None
    msg_bytes: int = 0  # of its messages, if it sends any


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a worker needs to know before it connects."""

    address: tuple[str, int] | str  # a str is the path of a Unix socket
    places: tuple[Place, ...]
    voices: Voices  # of all workers
    marking_interval: int  # 0: messages are too short to carry samples
    verify_full: bool
    connect_rate: float  # of this worker; 0 is no limit
    slow_reader_rate: int
    sndbuf: int
    rcvbuf: int
    clock_ns: int = 0  # from our clock to the one that due times are told by
    churn: float = 0.0  # connections of this worker that come and go in a second


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the connections of the plan."""

    plan: Plan
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Connected:
    """How connecting went; *failure* is the first error, in words."""

    connections: int
    failure: str | None
    latency: Histogram


@dataclass(frozen=True, slots=True)
class SayHello:
    """Send a hello from each of *senders* that is ours, and report what was heard so far."""

    senders: frozenset[int]


@dataclass(frozen=True, slots=True)
class Heard:
    """Prefix lengths by sender, and how many connections have received nothing, or are gone."""

    prefix_bytes: dict[int, int]
    silent: int
    closed: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Forget all counts and follow *schedule*."""

    schedule: Schedule
    prefix_bytes: dict[int, int]


@dataclass(frozen=True, slots=True)
class StopSending:
    """Read freely from now on; with *cut*, let no further message become due."""

    cut: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Report a snapshot."""

    histograms: bool = False


@dataclass(frozen=True, slots=True)
class Latencies:
    """The four histograms of a phase."""

    corrected: Histogram
    uncorrected: Histogram
    lag: Histogram  # of messages whose socket took them at once
    lag_blocked: Histogram  # of messages that waited for their socket


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker's totals since `Begin`."""

    now_ns: int = 0
    cpu_ns: int = 0
    offered: int = 0
    sent: int = 0
    sent_bytes: int = 0
    unsent_bytes: int = 0  # of messages offered to a socket that is full
    overdue: int = 0  # due and not yet offered to a socket: our own lateness
    received_bytes: int = 0
    notice_bytes: int = 0
    announced: int = 0
    readers: int = 0  # connections that read, slowly or not
    frame_bytes: int = 0  # of all whole messages sent, as the server frames them
    own_frame_bytes: int = 0  # of these, by connections that read: nobody hears itself
    last_received_ns: int = 0
    connections: int = 0
    closed_by_server: int = 0
    notice: str = ""  # the last one that was not about drops
    latencies: Latencies | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """Report every connection's account."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A worker's whole ledger at quiescence."""

    accounts: list[Account]
    ports: list[int]
    marks_seen: int
    marks_missing: int
    oldest_missing_due_ns: int | None
    lost: int
    duplicated: int
    reordered: int
    damaged: int
    latencies: Latencies
    unacknowledged_bytes: int
    windows: Windows = field(default_factory=Windows)
    churned: Churned = field(default_factory=Churned)


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker's own fault, as the last line of its traceback."""

    error: str


Question: TypeAlias = "Connect | SayHello | Begin | StopSending | Look | Settle"
