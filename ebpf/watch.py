"""Keep the kernel side aimed at the wanted processes, and read the counts by group.

A group is what shares one (mode, comm): its counters live in the kernel and go on through restarts
and across worker processes, so they never fall. Rule: a target whose pidfd says it has exited is
struck from the kernel's list before anything else is done, so a reused pid is never counted.
One lock: `refresh` runs on the main thread, `snapshot` on any.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ebpf import targets
from ebpf.decode import WAITS, GroupCounts, MapRows, ThreadRow, blocked_now, decode_group, lived
from ebpf.errors import Refused
from ebpf.targets import NamespacedPid, Target, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ebpf.kernel import ProgramInfo


class Counter(Protocol):
    """What `Watch` needs of the kernel side; `ebpf.loader.Probe` is one."""

    def assign(self, slot: int, group: int, target: int | NamespacedPid) -> None: ...  # noqa: D102
    def regroup(self, slot: int, group: int) -> None: ...  # noqa: D102
    def release(self, slot: int) -> int: ...  # noqa: D102
    def is_found(self, slot: int) -> bool: ...  # noqa: D102
    def adopt(self, thread: ThreadRow, tid: int) -> None: ...  # noqa: D102
    def forget_threads(self, tgid: int) -> None: ...  # noqa: D102
    def threads(self) -> dict[int, ThreadRow]: ...  # noqa: D102
    def read(self) -> MapRows: ...  # noqa: D102
    def programs(self) -> Mapping[str, ProgramInfo]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Label:
    """What the series of a group are told apart by."""

    mode: str
    comm: str


@dataclass(frozen=True, slots=True)
class Group:
    """The counts of all targets with one label."""

    label: Label
    pids: tuple[int, ...]  # alive and watched now
    counts: GroupCounts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything known at one reading."""

    groups: tuple[Group, ...]
    absent: tuple[str, ...]  # names asked for that no process has borne yet
    programs: Mapping[str, ProgramInfo]
    unwatched: int  # processes that match but are not counted: no room, or out of reach
    misnamed: int  # processes counted under an older name, for lack of room
    unseen: tuple[int, ...]  # pids the kernel side has not met in a system call
    read_seconds: float


class Watch:
    """Owns the targets. Call `refresh` now and then, `snapshot` to read, `close` at the end."""

    def __init__(
        self,
        wanted: Wanted,
        counter: Counter,
        names: Mapping[int, str],
        *,
        slots: int,
        groups: int,
        proc: Path = targets.PROC,
    ) -> None:
        self._wanted = wanted
        self._counter = counter
        self._names = names
        self._proc = proc
        self._lock = threading.Lock()
        self._slots: list[Target | None] = [None] * slots
        self._labels: list[Label] = []
        self._most_groups = groups
        self._pids_to_open = list(wanted.pids)
        self._unseen_at_stop: tuple[int, ...] | None = None
        self._unwatched: set[int] = set()
        self._misnamed: set[int] = set()
        self._carried_ns = [0] * groups  # slept by targets that were killed in their sleep
        self._lived_ns = [0] * groups  # by the loop threads that their process took with it
        self._blocked_ns = [0] * groups  # last told, so that it never falls

    @property
    def targets(self) -> list[Target]:
        """Return the processes watched now."""
        return [target for target in self._slots if target is not None]

    def refresh(self) -> list[str]:
        """Follow exits, restarts and renames; return a sentence for each change."""
        with self._lock:
            return [*self._drop_exited(), *self._follow_names(), *self._admit_new()]

    def snapshot(self) -> Snapshot:
        """Read all counts."""
        with self._lock:
            started = time.perf_counter()
            rows = self._counter.read()
            groups = tuple(self._group(rows, index) for index in range(len(self._labels)))
            return Snapshot(
                groups=groups,
                absent=self._absent(),
                programs=self._counter.programs(),
                unwatched=len(self._unwatched),
                misnamed=len(self._misnamed),
                unseen=self._unseen() if self._unseen_at_stop is None else self._unseen_at_stop,
                read_seconds=time.perf_counter() - started,
            )

    def stop_counting(self) -> None:
        """Let go of all targets; the counts stay readable."""
        with self._lock:
            self._unseen_at_stop = self._unseen()
            for slot, target in enumerate(self._slots):
                if target is not None:
                    self._counter.release(slot)

    def close(self) -> None:
        """Close the pidfds."""
        for target in self.targets:
            os.close(target.pidfd)
        self._slots = [None] * len(self._slots)

    def _drop_exited(self) -> list[str]:
        gone = []
        for slot, target in enumerate(self._slots):
            if target is None or target.is_alive():
                continue
            tgid = self._counter.release(slot)
            self._carry(tgid, self._labels.index(Label(target.mode, target.comm)))
            self._counter.forget_threads(tgid)
            os.close(target.pidfd)
            self._slots[slot] = None
            self._misnamed.discard(target.pid)
            gone.append(f"process {target.pid} ({target.comm}) has exited")
        return gone

    def _carry(self, tgid: int, group: int) -> None:
        """Keep the times of threads that ended without a call of their own: nobody added them."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        threads = [row for row in self._counter.threads().values() if row.tgid == tgid]
        self._carried_ns[group] += blocked_now(threads, now, self._names)
        self._lived_ns[group] += lived(threads, now)

    def _follow_names(self) -> list[str]:
        changes = []
        for slot, target in enumerate(self._slots):
            if target is None:
                continue
            try:
                comm = targets.read_comm(target.pid, self._proc)
            except OSError:  # it has just exited; the next refresh sees that
                continue
            renamed = replace(target, comm=comm)
            if comm == target.comm:
                continue
            if (group := self._group_of(renamed)) is None:
                if target.pid not in self._misnamed:
                    self._misnamed.add(target.pid)
                    changes.append(
                        f"process {target.pid} now calls itself {comm} but is still counted as "
                        f"{target.comm}: no room for more names"
                    )
                continue
            self._counter.regroup(slot, group)
            self._slots[slot] = renamed
            changes.append(f"process {target.pid} now calls itself {comm} (mode {renamed.mode})")
        return changes

    def _admit_new(self) -> list[str]:
        watched = {target.pid for target in self.targets}
        pids, self._pids_to_open = self._pids_to_open, []
        pids += targets.find_by_name(self._wanted, self._proc)
        self._unwatched &= set(pids)
        changes = []
        for pid in dict.fromkeys(pids):
            if pid in watched:
                continue
            try:
                target = targets.open_target(pid, self._proc)
            except Refused as refusal:
                if pid in self._wanted.pids:
                    raise
                changes += self._leave_out(pid, f"not counted: {refusal}")
                continue
            if target:
                changes += self._admit(target)
        return changes

    def _leave_out(self, pid: int, sentence: str) -> list[str]:
        """Say once why *pid* is not counted."""
        if pid in self._unwatched:
            return []
        self._unwatched.add(pid)
        return [sentence]

    def _admit(self, target: Target) -> list[str]:
        group = self._group_of(target)
        if None not in self._slots or group is None:
            os.close(target.pidfd)
            return self._leave_out(
                target.pid,
                f"process {target.pid} ({target.comm}) is not counted: no room for more",
            )
        slot = self._slots.index(None)
        self._slots[slot] = target
        self._unwatched.discard(target.pid)
        self._counter.assign(slot, group, target.namespaced or target.pid)
        self._adopt_waiting_threads(target, group)
        return [f"watching process {target.pid} ({target.comm}, mode {target.mode})"]

    def _adopt_waiting_threads(self, target: Target, group: int) -> None:
        """Show the waits that last now, and their time; no count needs it: their returns are seen.

        Where we may not look, they show when they return, and their time begins then.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for tid, nr in targets.calls_in_progress(target, self._proc):
            if self._names.get(nr) in WAITS:
                thread = ThreadRow(
                    entered_ns=now,
                    first_wait_ns=now,
                    nr=nr,
                    tgid=target.pid,
                    group=group,
                    slept=True,
                    is_loop=True,
                )
                self._counter.adopt(thread, tid)

    def _group_of(self, target: Target) -> int | None:
        label = Label(target.mode, target.comm)
        if label not in self._labels:
            if len(self._labels) == self._most_groups:
                return None
            self._labels.append(label)
        return self._labels.index(label)

    def _group(self, rows: MapRows, index: int) -> Group:
        label = self._labels[index]
        counts = decode_group(rows, index, self._names)
        blocked = counts.blocked_ns + self._carried_ns[index]
        self._blocked_ns[index] = max(blocked, self._blocked_ns[index])
        return Group(
            label=label,
            pids=tuple(
                target.pid
                for target in self.targets
                if Label(target.mode, target.comm) == label and target.is_alive()
            ),
            counts=replace(
                counts,
                blocked_ns=self._blocked_ns[index],
                loop_ns=counts.loop_ns + self._lived_ns[index],
            ),
        )

    def _unseen(self) -> tuple[int, ...]:
        return tuple(
            target.pid
            for slot, target in enumerate(self._slots)
            if target is not None and not self._counter.is_found(slot)
        )

    def _absent(self) -> tuple[str, ...]:
        return tuple(
            comm
            for comm in self._wanted.comms
            if not any(Wanted(comms=(comm,)).names(label.comm) for label in self._labels)
        )
