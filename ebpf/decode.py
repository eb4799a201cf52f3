"""From map rows to typed rows: pure, so that it is tested everywhere on recorded rows.

Rule: nothing is estimated here. CPUs are added up, numbers get their names, slots get their edges.
One histogram rule for the kernel, this file and the daemon: value v lies in slot
``v.bit_length()``, and slot k ends at ``2**k - 1``, that edge included.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
OUTCOMES = ("wakeup", "ready", "timeout", "empty", "interrupted", "failed")
OPERATIONS = ("add", "del", "mod", "other")
# In the order of `struct loop` in probe.bpf.c; the event slots follow.
LOOP_FIELDS = (
    *OUTCOMES,
    "blocked_ns",
    "events_sum",
    *(f"ctl_{operation}" for operation in ("other", "add", "del", "mod")),
    "voluntary",
    "involuntary",
    "other_threads",
    "unmatched",
    "untracked",
    "ended_ns",
)
CALL_FIELDS = ("nanoseconds", "result_sum", "eagain", "errors")  # the duration slots follow

RECEIVES = ("read", "readv", "pread64", "recvfrom", "recvmsg")
TRANSMITS = ("write", "writev", "pwrite64", "sendto", "sendmsg", "sendfile")
DIRECTIONS = dict.fromkeys(RECEIVES, "receive") | dict.fromkeys(TRANSMITS, "transmit")
IO_CALLS = frozenset((*DIRECTIONS, *WAITS, "accept", "accept4", "epoll_ctl", "close", "shutdown"))

# A tracepoint sees what user space does not: "restart this call after the signal" (linux/errno.h).
RESTARTS = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """What a thread of a target is doing now."""

    entered_ns: int
    first_wait_ns: int  # 0: it has not waited in epoll
    nr: int
    tgid: int
    group: int
    slept: bool
    is_loop: bool


@dataclass(frozen=True, slots=True)
class MapRows:
    """All that the maps hold at one time: one sequence of ints per CPU and key."""

    taken_ns: int
    calls: dict[tuple[int, int], Sequence[Sequence[int]]]  # (group, nr)
    loops: dict[int, Sequence[Sequence[int]]]  # group
    errors: dict[tuple[int, int, int], int]  # (group, nr, errno)
    threads: Sequence[ThreadRow]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, for recording."""
        return {
            "taken_ns": self.taken_ns,
            "calls": [[*key, [list(row) for row in cpus]] for key, cpus in self.calls.items()],
            "loops": [[key, [list(row) for row in cpus]] for key, cpus in self.loops.items()],
            "errors": [[*key, count] for key, count in self.errors.items()],
            "threads": [
                [t.entered_ns, t.first_wait_ns, t.nr, t.tgid, t.group, t.slept, t.is_loop]
                for t in self.threads
            ],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> MapRows:
        """Read what `to_json` wrote."""
        return cls(
            taken_ns=record["taken_ns"],
            calls={(group, nr): cpus for group, nr, cpus in record["calls"]},
            loops=dict(record["loops"]),
            errors={(group, nr, code): count for group, nr, code, count in record["errors"]},
            threads=[ThreadRow(*fields) for fields in record["threads"]],
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bit length, and the sum of what was counted. The last slot is open."""

    slots: tuple[int, ...]
    total: int

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self.slots)

    def buckets(self, lowest: int, highest: int) -> list[tuple[int, int]]:
        """Return (upper edge, cumulative count) for slots *lowest* to *highest*.

        Counts below the lowest slot are in its bucket.
        """
        cumulative = list(accumulate(self.slots))
        return [(upper_edge(slot), cumulative[slot]) for slot in range(lowest, highest + 1)]

    def quantile_edge(self, share: float) -> int | None:
        """Return the upper edge of the slot that holds the *share* quantile, or None.

        A bound, not an estimate: the true quantile is at most this, and more than half of it.
        None when nothing was counted or the open slot holds it.
        """
        wanted = share * self.count
        for slot, below in enumerate(accumulate(self.slots)):
            if self.count and below >= wanted:
                return upper_edge(slot) if slot < len(self.slots) - 1 else None
        return None


@dataclass(frozen=True, slots=True)
class CallCounts:
    """One system call of one group of targets."""

    name: str
    result_sum: int
    errors: Mapping[str, int]  # errno name to count
    durations: Histogram  # of one slot when the probe is --lite

    @property
    def calls(self) -> int:
        """Return how many calls returned."""
        return self.durations.count

    @property
    def transferred(self) -> int | None:
        """Return the bytes moved, or None for a call whose result is not a byte count."""
        return self.result_sum if self.name in DIRECTIONS else None


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """All that was counted for the targets that share one (mode, comm)."""

    calls: Mapping[str, CallCounts]
    outcomes: Mapping[str, int]
    operations: Mapping[str, int]
    switches: Mapping[str, int]
    events: Histogram
    blocked_ns: int
    loop_threads: int
    loop_ns: int  # from each loop thread's first wait until now, or until it ended
    other_threads: int
    unmatched: int
    untracked: int

    @property
    def unnamed_errors(self) -> int:
        """Return how many failed calls are known without their errno."""
        return sum(call.errors.get(UNKNOWN, 0) for call in self.calls.values())

    @property
    def waits(self) -> int:
        """Return how many epoll waits returned, in whatever way."""
        return sum(self.outcomes.values())


UNKNOWN = "unknown"  # the errors whose errno the full error table could not keep


def upper_edge(slot: int) -> int:
    """Return the largest value that belongs to *slot*."""
    return (1 << slot) - 1


def error_name(code: int) -> str:
    """Return the name of errno *code*; the number if it has none."""
    return errno.errorcode.get(code) or RESTARTS.get(code) or f"errno_{code}"


def decode_group(
    rows: MapRows, groups: int | Collection[int], names: Mapping[int, str]
) -> GroupCounts:
    """Return the counts of *groups* together; *names* maps system call numbers to names."""
    groups = (groups,) if isinstance(groups, int) else groups
    width = len(LOOP_FIELDS)
    totals = _add_cpus([cpu for group in groups for cpu in rows.loops[group]])
    loop = dict(zip(LOOP_FIELDS, totals[:width], strict=True))
    threads = [thread for thread in rows.threads if thread.group in groups and thread.is_loop]
    return GroupCounts(
        calls={call.name: call for call in _calls(rows, groups, names)},
        outcomes={outcome: loop[outcome] for outcome in OUTCOMES},
        operations={operation: loop[f"ctl_{operation}"] for operation in OPERATIONS},
        switches={kind: loop[kind] for kind in ("voluntary", "involuntary")},
        events=Histogram(tuple(totals[width:]), loop["events_sum"]),
        blocked_ns=loop["blocked_ns"] + blocked_now(threads, rows.taken_ns, names),
        loop_threads=len(threads),
        loop_ns=loop["ended_ns"] + lived(threads, rows.taken_ns),
        other_threads=loop["other_threads"],
        unmatched=loop["unmatched"],
        untracked=loop["untracked"],
    )


def lived(threads: Iterable[ThreadRow], now_ns: int) -> int:
    """Return how long *threads* have lived since their first waits."""
    return sum(max(0, now_ns - t.first_wait_ns) for t in threads if t.first_wait_ns)


def blocked_now(threads: Iterable[ThreadRow], now_ns: int, names: Mapping[int, str]) -> int:
    """Return how long *threads* have slept in waits that still last."""
    return sum(
        max(0, now_ns - thread.entered_ns)
        for thread in threads
        if thread.is_loop and thread.slept and names.get(thread.nr) in WAITS
    )


def _add_cpus(cpus: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*cpus, strict=True)]


def move(rows: MapRows, group: int, to: int) -> MapRows:
    """Return what *rows* hold of *group*, added up over the CPUs, as rows of *to*; no threads."""
    return MapRows(
        taken_ns=rows.taken_ns,
        calls={(to, nr): [_add_cpus(v)] for (owner, nr), v in rows.calls.items() if owner == group},
        loops={to: [_add_cpus(rows.loops[group])]},
        errors={(to, nr, code): n for (g, nr, code), n in rows.errors.items() if g == group},
        threads=(),
    )


def add(rows: MapRows, kept: MapRows) -> MapRows:
    """Return *rows* with what was *kept* of groups that are no more, as if of further CPUs."""
    return MapRows(
        taken_ns=rows.taken_ns,
        calls={
            k: [*rows.calls.get(k, ()), *kept.calls.get(k, ())] for k in rows.calls | kept.calls
        },
        loops={
            k: [*rows.loops.get(k, ()), *kept.loops.get(k, ())] for k in rows.loops | kept.loops
        },
        errors={
            k: rows.errors.get(k, 0) + kept.errors.get(k, 0) for k in rows.errors | kept.errors
        },
        threads=rows.threads,
    )


def _calls(
    rows: MapRows, groups: Collection[int], names: Mapping[int, str]
) -> Iterator[CallCounts]:
    width = len(CALL_FIELDS)
    by_number: dict[int, list[Sequence[int]]] = {}
    for (owner, nr), cpus in rows.calls.items():
        if owner in groups:
            by_number.setdefault(nr, []).extend(cpus)
    for nr, cpus in by_number.items():
        totals = _add_cpus(cpus)
        call = dict(zip(CALL_FIELDS, totals[:width], strict=True))
        yield CallCounts(
            name=names.get(nr, f"syscall_{nr}"),
            result_sum=call["result_sum"],
            errors=_errors(rows, groups, nr, call),
            durations=Histogram(tuple(totals[width:]), call["nanoseconds"]),
        )


def _errors(
    rows: MapRows, groups: Collection[int], nr: int, call: Mapping[str, int]
) -> dict[str, int]:
    """Name the errors of one call; those the full error table could not keep are UNKNOWN."""
    named: dict[str, int] = {}
    for (owner, number, code), count in rows.errors.items():
        if owner in groups and number == nr:
            name = error_name(code)
            named[name] = named.get(name, 0) + count
    lost = call["errors"] - sum(named.values())
    if call["eagain"]:
        named["EAGAIN"] = call["eagain"]
    if lost > 0:
        named[UNKNOWN] = lost
    return named
