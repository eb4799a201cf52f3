"""Why counts may be too low: `complete` means that none of these reasons holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ebpf.watch import Snapshot

REASONS = (
    "missed_runs",
    "unknown_misses",
    "untracked_calls",
    "unnamed_errors",
    "unwatched",
    "misnamed",
    "renamed",
    "late",
    "absent",
    "unseen",
)


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason, how often it arose, and what that means."""

    reason: str
    count: int
    sentence: str


def doubts(snapshot: Snapshot) -> Iterator[Doubt]:
    """Yield what speaks against these counts."""
    missed = sum(program.missed or 0 for program in snapshot.programs.values())
    if missed:
        text = f"{many(missed, 'run')} missed by the kernel: counts are low by at most {missed}"
        yield Doubt("missed_runs", missed, text)
    silent = [name for name, program in snapshot.programs.items() if program.missed is None]
    if silent:
        text = (
            f"this kernel does not say whether it missed runs of {', '.join(silent)}: it does of "
            "perf tracepoints from Linux 6.7 on, of raw ones (--attach raw, Linux 5.18) always"
        )
        yield Doubt("unknown_misses", len(silent), text)
    for group in snapshot.groups:
        comm, untracked = group.label.comm, group.counts.untracked
        if untracked:
            text = (
                f"{many(untracked, 'call')} of {comm} not counted, for lack of room or of a number"
            )
            yield Doubt("untracked_calls", untracked, text)
        if unnamed := group.counts.unnamed_errors:
            text = (
                f"{many(unnamed, 'error')} of {comm} without an errno: the table of errors was full"
            )
            yield Doubt("unnamed_errors", unnamed, text)
    yield from _of_targets(snapshot)


def many(count: int, one: str, more: str = "") -> str:
    """Return *count* and what it counts; *more* is the plural where an s does not make it."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def _of_targets(snapshot: Snapshot) -> Iterator[Doubt]:
    process = ("process", "processes")
    if count := snapshot.left_out:
        text = f"{many(count, *process)} not counted: out of room, out of reach, or gone too soon"
        yield Doubt("unwatched", count, text)
    if count := snapshot.misnamed:
        text = f"{many(count, *process)} counted under the name before, for lack of room"
        yield Doubt("misnamed", count, text)
    if count := snapshot.renamed:
        text = (
            f"{many(count, 'new name')} noticed up to 0.5 s late; what was done meanwhile is "
            "counted under the name before"
        )
        yield Doubt("renamed", count, text)
    if count := snapshot.late:
        text = f"{many(count, *process)} noticed up to 0.5 s late; what was done before is missing"
        yield Doubt("late", count, text)
    for comm in snapshot.absent:
        text = f"no process was counted whose name begins with {comm}"
        yield Doubt("absent", 1, text)
    for pid in snapshot.unseen:
        text = f"process {pid} made no system call meanwhile: idle, or in another pid namespace"
        yield Doubt("unseen", 1, text)
