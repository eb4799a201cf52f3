"""The record of a comparison: versioned JSON, complete enough to be judged again by others.

Rule: every figure of a report is in here, and the raw slices too, so that nobody has to believe the
figure. What was not measured is null, never 0. Ratios are always *a* over *b*. Nothing here reads a
clock, a socket or the environment.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loadclient.stored import no_constant, record

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "etlt.comparison/1"


class Kind(StrEnum):
    """What may be said of one outcome in one cell."""

    A_BETTER = "a better"
    B_BETTER = "b better"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    UNFIT = "unfit"  # of the A/A arm alone: two equal daemons came out different


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something that is measured in every slice, or follows from what is."""

    name: str
    title: str
    unit: str
    lower_is_better: bool | None  # None: it explains, and has no verdict
    in_seconds: bool = False
    exploratory: bool = False  # a verdict on it is a hint: Holm's correction is for each by itself
    of: str = ""  # not measured in a slice, but this other one where the next is equal
    at_equal: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether it has a verdict, and does not only explain."""
        return self.lower_is_better is not None

    @property
    def is_confirmatory(self) -> bool:
        """Whether it is one of the study's questions, corrected for all of them together."""
        return self.is_judged and not self.exploratory


OUTCOMES = (
    Outcome("cpu_ns_per_delivery", "server CPU per delivered message", "ns", True),
    Outcome("cpu_ns_per_delivery_at_equal_batch", "server CPU per delivered message at equal batch",
            "ns", True, of="cpu_ns_per_delivery", at_equal="messages_per_batch"),
    Outcome("latency_p50_seconds", "latency, p50", "s", True, in_seconds=True, exploratory=True),
    Outcome("latency_p99_seconds", "latency, p99", "s", True, in_seconds=True, exploratory=True),
    Outcome("deliveries_per_second", "delivered messages per second", "1/s", False,
            exploratory=True),
    Outcome("wakeups_per_message", "wakeups per message", "", None),
    Outcome("syscalls_per_message", "system calls per message", "", None),
    Outcome("eagain_reads_per_message", "reads that found nothing, per message", "", None),
    Outcome("mods_per_message", "epoll_ctl MODs per message", "", None),
    Outcome("events_per_wakeup", "events per wakeup", "", None),
    Outcome("messages_per_batch", "messages per batch", "", None),
)  # fmt: skip
MEASURED = tuple(outcome for outcome in OUTCOMES if not outcome.of)  # in every slice
CONFIRMATORY = tuple(outcome for outcome in OUTCOMES if outcome.is_confirmatory)
PRIMARY, AT_EQUAL_BATCH = CONFIRMATORY  # the total effect, whose verdict is the cell's; and the
# effect where the batches, which the mode itself may have moved, are equal: the least noisy measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a cell: a daemon in a mode, with further options by their long names.

    Several *instances* share one port, as the option ``listener`` says, and are one chat.
    """

    name: str
    mode: str
    options: dict[str, str] = field(default_factory=dict)
    instances: int = 1

    @property
    def listener(self) -> str:
        """How they share the port; "" is the daemon's own."""
        return self.options.get("listener", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Who talks to whom, how often, and how badly they read."""

    name: str = "all talk"
    conns: int = 100
    rate: float = 20.0
    senders: int | None = None  # None: all of them
    mix: str = ""  # senders that differ, as --mix spells them; then senders and rate say nothing
    slow_readers: int = 0
    slow_reader_rate: int = 1000
    never_readers: int = 0
    churn: float = 0.0  # connections a second that come, listen and go beside the others
    rcvbuf: int = 0  # of each client socket; 0 leaves it to the kernel
    burst: bool = True
    procs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One question: *a* against *b* under one load."""

    name: str
    msg_bytes: int
    drain: str  # usual (each mode's own), eagain, short-read; "own" when the arms name theirs
    shape: Shape
    a: Arm
    b: Arm
    control: bool = False  # the A/A arm: two daemons that do not differ

    @property
    def arms(self) -> dict[str, Arm]:
        """Both arms, by the letter that slices and counts have of theirs."""
        return {"a": self.a, "b": self.b}


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Everything that was decided before the first slice."""

    preset: str = "full"
    seed: int = 1
    pairs: int = 10
    pairs_per_daemon: int = 1  # more: pairs that share two processes do not count as several
    slice_seconds: float = 2.0
    settle_seconds: float = 0.5  # loaded, delivered and not counted
    confidence: float = 0.95
    margin: float = 0.02  # smaller differences are called none
    netem: str = ""  # what the network does, as the option spells it; "" is loopback
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What was between client and daemon, if it was not loopback."""

    netem: str  # as the option spells it
    emulation: str  # veth: nothing added; netem: the kernel's; tap: our own forwarder
    because: str = ""  # why not the kernel's

    @property
    def sentence(self) -> str:
        """Say it in words."""
        where = "client and daemon in two network namespaces"
        if self.emulation == "veth":
            return f"{where}, a veth pair between them and nothing added"
        how = {"netem": "the kernel's netem", "tap": "a forwarder between two TAP devices"}
        why = f" (no netem: {self.because})" if self.because else ""
        return f"{where}, each way {self.netem}, by {how[self.emulation]}{why}"


MACHINES = ("the hypervisor took", "the network's forwarder")  # how its reasons begin
CLIENTS = ("the client itself was the bottleneck", "a worker of the client used")
STRAINS = re.compile(  # of one who was too slow, or not counted; any other reason is misbehaviour
    r"saturated:|not stationary:|less than 99 % of the offered messages were sent"
    r"|the daemon's counters were not joined|cannot read the server's metrics"
    r"|the server accepted \d+ connections but delivered nothing|after [\d.]+ s only \d+ of "
    r"|[\d.]+ s after the warm-up |part of the warm-up had not come "
    r"|the server's side took no more:|messages were still arriving "
)
SEEN_IN_MESSAGES = ("duplicated", "reordered", "damaged")  # said before what merely adds up wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One daemon under load for a short while: a raw result. Counts are of the measured phase."""

    index: int  # place in the plan
    cell: str
    pair: int
    arm: str  # "a" or "b"
    started: float  # unix time
    mode: str = "unknown"  # as the daemon's metrics say
    valid: bool = False
    reasons: list[str] = field(default_factory=list)  # not to believe it
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    offered: int = 0
    sent: int = 0
    expected: int = 0  # copies owed to connections that read
    received: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, float | None] = field(default_factory=dict)
    syscalls: dict[str, float] = field(default_factory=dict)
    eagain: dict[str, float] = field(default_factory=dict)
    epoll_ctl: dict[str, float] = field(default_factory=dict)
    epoll_events: dict[str, float] = field(default_factory=dict)
    revisits: float = 0
    registered: dict[str, int] = field(default_factory=dict)  # et, lt: by the kernel, when loaded
    kernel_cpu_seconds: float | None = None  # of the daemon, by the kernel's clock
    heard_by_bus: float = 0  # batches of other instances: an event each, and no read
    churn: dict[str, float] | None = None  # loadclient.ledger.Churned, and what was owed to them
    wakeup_events: dict[str, float] = field(default_factory=dict)  # upper edge: wakeups
    batch_messages: dict[str, float] = field(default_factory=dict)  # upper edge: batches
    latency: dict[str, Any] = field(default_factory=dict)  # loadclient.histogram.Histogram, in ns
    build: dict[str, str] = field(default_factory=dict)  # of the daemon, as it exports it
    config: dict[str, str] = field(default_factory=dict)  # likewise
    client: dict[str, str | None] = field(default_factory=dict)  # its build and its machine
    conditions: dict[str, Any] = field(default_factory=dict)  # steal, pressure, load, client CPU

    @property
    def misbehaviour(self) -> str:
        """What the daemon did that nothing about it excuses, if anything: it lost, repeated..."""
        excused = (*MACHINES, *CLIENTS)
        whys = [r for r in self.reasons if not (r.startswith(excused) or STRAINS.match(r))]
        return min(whys, key=lambda why: not why.endswith(SEEN_IN_MESSAGES), default="")

    @property
    def is_spoiled(self) -> bool:
        """Whether it does not count for its circumstances: who was held up may be strained, too."""
        held_up = any(one.startswith((*MACHINES, *CLIENTS)) for one in self.reasons)
        return held_up and not self.misbehaviour

    @property
    def is_strained(self) -> bool:
        """Whether it does not count because the daemon could not keep up, and nobody held it up."""
        return bool(self.reasons) and not self.is_spoiled and not self.misbehaviour

    @property
    def client_was_late(self) -> bool:
        """Whether the client was, and the machine cannot be blamed; the daemon perhaps can."""
        machine = any(one.startswith(MACHINES) for one in self.reasons)
        return self.is_spoiled and not machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What the pairs of a cell say about one outcome."""

    outcome: str
    pairs: int = 0
    ratio: float | None = None  # a over b; None when a log ratio cannot be taken
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None  # across the cells, and both confirmatory outcomes
    exploratory: bool = False  # not corrected for there being several outcomes
    slope: float | None = None  # of its log ratio against that of what is held equal
    detectable: float | None = None  # smallest relative difference that could have been seen
    pairs_needed: int | None = None  # to see a difference of the margin
    verdict: Kind | None = None  # None: it explains, and has no verdict
    sentence: str = ""

    @property
    def leaves_one_out(self) -> bool:
        """Whether there is an interval and, by itself, it says that the arms differ."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One sign that the mode was really in force, or not."""

    arm: str
    claim: str
    measured: str
    holds: bool | None  # None: nobody could look


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle and the ends of what an arm's valid slices measured."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """One side of a cell, its valid slices taken together."""

    name: str
    mode: str
    slices: int = 0
    outcomes: dict[str, Spread] = field(default_factory=dict)
    latency_curve: list[list[float]] = field(default_factory=list)  # [[fraction, seconds], ...]
    syscalls_per_message: dict[str, float] = field(default_factory=dict)
    eagain_per_message: dict[str, float] = field(default_factory=dict)
    epoll_ctl_per_message: dict[str, float] = field(default_factory=dict)
    wakeup_events: dict[str, float] = field(default_factory=dict)  # upper edge: share of wakeups
    batch_messages: dict[str, float] = field(default_factory=dict)  # upper edge: share of batches
    ledger: dict[str, int] = field(default_factory=dict)  # offered, sent, expected, received, lost


@dataclass(frozen=True, slots=True, kw_only=True)
class CellReport:
    """One cell's answer."""

    cell: str
    pairs: int = 0  # valid
    discarded: int = 0
    discarded_because: dict[str, int] = field(default_factory=dict)
    not_comparable: str | None = None
    fingerprint: tuple[Check, ...] = ()
    verdict: Kind = Kind.NOT_COMPARABLE  # of the primary outcome
    sentence: str = ""
    effects: tuple[Effect, ...] = ()
    a: ArmReport
    b: ArmReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """What the A/A arm says of the machine."""

    fit: bool | None = None  # None: there was no A/A arm, or too little of it
    sentence: str = "There was no A/A arm: nothing shows what this machine makes of two equal ones."
    unfit_outcomes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCounts:
    """What the kernel's probe and the daemon counted of one arm, in a slice of its own.

    The interval is longer than that of a timed slice: from before the first connection to after
    the last. The probe charges by the call, so no time of such a slice is used.
    """

    cell: str
    arm: str  # "a" or "b"
    messages: float = 0  # that the daemon received in the interval
    kernel: dict[str, float] = field(default_factory=dict)
    daemon: dict[str, float] = field(default_factory=dict)
    unavailable: str = ""  # why the kernel says nothing
    misbehaviour: str = ""  # as of any other slice

    @property
    def contradictions(self) -> list[str]:
        """What the two do not agree about."""
        return [name for name, value in self.kernel.items() if value != self.daemon.get(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """Who woke for connections that were made one by one while all loops of an arm slept."""

    cell: str
    arm: str  # "a" or "b"
    connections: int = 0
    loops: float = 0  # the kernel's count: a loop went to sleep again, timeouts left out
    returns: float = 0  # the daemons': epoll_wait returned and named the listener
    in_vain: float = 0  # the daemons': accept4 that found nobody, but for the one that ends a turn
    unavailable: str = ""  # why the kernel says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalRow:
    """One line of the original's table, redone: its score, and beside it what that hides."""

    msg_bytes: int
    server: str  # et, lt, or "never reads"
    sent_per_second: float  # its "msg/s"
    kilobytes_per_second: float  # its "bytes/s", which are bytes per millisecond
    published_sent_per_second: float | None = None
    processed: float | None = None  # messages that the server read
    unread_at_server_bytes: int | None = None
    in_send_buffers_bytes: int | None = None  # the rest of what was sent: still on our side
    unread_at_clients_bytes: int | None = None
    outbox_bytes: float | None = None
    dropped: float | None = None  # copies
    delivered_per_second: float | None = None  # copies, in a second run in which everybody reads
    delivery_ratio: float | None = None
    reading_valid: bool | None = None  # whether that second run may be believed
    reading_reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A comparison, finished or not."""

    schema: str = SCHEMA
    study_id: str
    started: float  # unix time
    finished: float | None = None
    complete: bool = False
    command: str = ""
    design: Design
    link: Link | None = None  # None: loopback, or daemons that somebody else runs
    environment: dict[str, Any] = field(default_factory=dict)
    fitness: Fitness = Fitness()
    cells: tuple[CellReport, ...] = ()  # in the design's order, the A/A arm included
    kernel: tuple[KernelCounts, ...] = ()
    woken: tuple[Woken, ...] = ()  # of the arms that share a port
    original: tuple[OriginalRow, ...] = ()
    notes: tuple[str, ...] = ()  # what the figures do not say
    slices: tuple[Slice, ...] = ()
    superseded: tuple[Slice, ...] = ()  # measured again after an interruption: faults count still

    def to_json(self) -> str:
        """Return the record as text, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Study:
        """Read a stored record; keys that a later version added are passed over.

        Raises ValueError if it is not a comparison of this schema.
        """
        stored = json.loads(text, parse_constant=no_constant)
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            raise ValueError(f'not a comparison with "schema": "{SCHEMA}"')
        study = record(
            cls,
            stored,
            design=design_from(stored["design"]),
            link=link_from(stored.get("link")),
            fitness=record(
                Fitness,
                stored["fitness"],
                unfit_outcomes=tuple(stored["fitness"]["unfit_outcomes"]),
            ),
            cells=tuple(map(_cell_report, stored["cells"])),
            kernel=tuple(record(KernelCounts, row) for row in stored.get("kernel", ())),
            woken=tuple(record(Woken, row) for row in stored.get("woken", ())),
            original=tuple(record(OriginalRow, row) for row in stored["original"]),
            notes=tuple(stored["notes"]),
            slices=tuple(record(Slice, row) for row in stored["slices"]),
            superseded=tuple(record(Slice, row) for row in stored.get("superseded", ())),
        )
        _check_names(study)
        return study


def _check_names(study: Study) -> None:
    """Refuse a record whose parts speak of what is not in it. Raises ValueError."""
    cells = {report.cell for report in study.cells}
    outcomes = [outcome.name for outcome in OUTCOMES]
    older = [outcome.name for outcome in MEASURED]  # before there was one at equal batch
    for report in study.cells:
        if [effect.outcome for effect in report.effects] not in (outcomes, older):
            raise ValueError(f"{report.cell}: its effects are not of the known outcomes")
    for one in study.kernel:
        if one.cell not in cells or one.arm not in {"a", "b"}:
            raise ValueError(f"the kernel's counts are of {one.cell}, {one.arm}: there is none")


def design_from(stored: Mapping[str, Any]) -> Design:
    """Build a design from what was stored."""
    cells = tuple(
        record(
            Cell,
            cell,
            shape=record(Shape, cell["shape"]),
            a=record(Arm, cell["a"]),
            b=record(Arm, cell["b"]),
        )
        for cell in stored["cells"]
    )
    return record(Design, stored, cells=cells)


def link_from(stored: Mapping[str, Any] | None) -> Link | None:
    """Build a link from what was stored, if there was one."""
    return None if stored is None else record(Link, stored)


def _cell_report(stored: Mapping[str, Any]) -> CellReport:
    return record(
        CellReport,
        stored,
        verdict=Kind(stored["verdict"]),
        fingerprint=tuple(record(Check, check) for check in stored["fingerprint"]),
        effects=tuple(map(_effect, stored["effects"])),
        a=_arm_report(stored["a"]),
        b=_arm_report(stored["b"]),
    )


def _effect(stored: Mapping[str, Any]) -> Effect:
    verdict = stored["verdict"]
    return record(Effect, stored, verdict=None if verdict is None else Kind(verdict))


def _arm_report(stored: Mapping[str, Any]) -> ArmReport:
    outcomes = {name: record(Spread, spread) for name, spread in stored["outcomes"].items()}
    return record(ArmReport, stored, outcomes=outcomes)
