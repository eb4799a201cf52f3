"""Keep the kernel side aimed at the wanted processes, and read the counts by group.

A group is what shares one (mode, comm): its counters live in the kernel and go on through restarts
and across worker processes, so they never fall. Rule: a target whose pidfd says it has exited is
struck from the kernel's list before anything else is done, so a reused pid is never counted.
A daemon that has not yet named itself after its mode counts into a kernel group of its own, which
is shown when it has, with all that is in it. A label may thus have several kernel groups for a
time; those beyond its home are emptied into what is `kept` here.
One lock: `refresh` runs on the main thread, `snapshot` on any.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter as Counts
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ebpf import targets
from ebpf.decode import (
    WAITS,
    GroupCounts,
    MapRows,
    ThreadRow,
    add,
    blocked_now,
    decode_group,
    lived,
    move,
)
from ebpf.errors import Refused
from ebpf.targets import NamespacedPid, Target, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ebpf.kernel import ProgramInfo


STARTING_SECONDS = 10.0  # how long a daemon may take to name itself after its mode


class Counter(Protocol):
    """What `Watch` needs of the kernel side; `ebpf.loader.Probe` is one."""

    def assign(self, slot: int, group: int, target: int | NamespacedPid) -> None: ...  # noqa: D102
    def regroup(self, slot: int, group: int) -> None: ...  # noqa: D102
    def release(self, slot: int) -> int: ...  # noqa: D102
    def tgid_of(self, slot: int) -> int: ...  # noqa: D102
    def adopt(self, thread: ThreadRow, tid: int) -> None: ...  # noqa: D102
    def forget_threads(self, tgid: int) -> None: ...  # noqa: D102
    def forget_thread(self, tid: int) -> None: ...  # noqa: D102
    def clear(self, group: int) -> None: ...  # noqa: D102
    def threads(self) -> dict[int, ThreadRow]: ...  # noqa: D102
    def read(self) -> MapRows: ...  # noqa: D102
    def programs(self) -> Mapping[str, ProgramInfo]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Label:
    """What the series of a group are told apart by."""

    mode: str
    comm: str


def label_of(target: Target) -> Label:
    """Return what *target* is counted under."""
    return Label(target.mode, target.comm)


@dataclass(frozen=True, slots=True)
class Group:
    """The counts of all targets with one label."""

    label: Label
    pids: tuple[int, ...]  # alive and watched now
    counts: GroupCounts
    last: str = "exited"  # what became of the last one that left: exited, or renamed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything known at one reading."""

    groups: tuple[Group, ...]
    absent: tuple[str, ...]  # names asked for that no process has borne yet
    programs: Mapping[str, ProgramInfo]
    unwatched: int  # processes that match but are not counted now: no room, or out of reach
    left_out: int  # the same, ever
    misnamed: int  # processes ever counted under an older name, for lack of room
    renamed: int  # new names noticed after processes had borne them for a while
    late: int  # processes that began before they were noticed, after the first look
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
        self._seats = [0] * slots  # the kernel group of each slot
        self._labels: list[Label | None] = [None] * groups  # of each kernel group; None: free
        self._homes: dict[Label, int] = {}  # the kernel group that a label keeps
        self._starting: dict[int, float] = {}  # kernel groups not shown, and until when at most
        self._emptying: set[int] = set()  # kernel groups that nobody counts into any more
        self._kept = MapRows(taken_ns=0, calls={}, loops={}, errors={}, threads=())
        self._pids_to_open = list(wanted.pids)
        self._unseen_at_stop: tuple[int, ...] | None = None
        self._unwatched: set[int] = set()
        self._misnamed: set[int] = set()
        self._has_looked = False
        # What was missed stays missed when the process has ended: these never fall.
        self._ever: Counts[str] = Counts()
        self._last: dict[Label, str] = {}
        self._lived_ns: Counts[Label] = Counts()  # by the loop threads their process took with it
        self._blocked_before_ns: Counts[Label] = Counts()  # in waits that were renamed meanwhile
        self._blocked_ns: Counts[Label] = Counts()  # last told, so that it never falls

    @property
    def targets(self) -> list[Target]:
        """Return the processes watched now."""
        return [target for target in self._slots if target is not None]

    def refresh(self) -> list[str]:
        """Follow exits, restarts and renames; return a sentence for each change."""
        with self._lock:
            self._empty_groups()
            changes = [*self._drop_exited(), *self._follow_names(), *self._admit_new()]
            self._stop_hiding()
            self._send_home()
            self._has_looked = True
            return changes

    def snapshot(self) -> Snapshot:
        """Read all counts."""
        with self._lock:
            started = time.perf_counter()
            self._drop_dead_threads()
            rows = add(self._counter.read(), self._kept)
            groups = tuple(self._group(rows, label) for label in self._homes)
            return Snapshot(
                groups=groups,
                absent=self._absent(),
                programs=self._counter.programs(),
                unwatched=len(self._unwatched),
                left_out=self._ever["left out"],
                misnamed=self._ever["misnamed"],
                renamed=self._ever["renamed"],
                late=self._ever["late"],
                unseen=self._unseen() if self._unseen_at_stop is None else self._unseen_at_stop,
                read_seconds=time.perf_counter() - started,
            )

    def stop_counting(self) -> None:
        """Let go of all targets; the counts stay readable."""
        with self._lock:
            self._unseen_at_stop = self._unseen()
            for group in list(self._starting):
                self._show(group)
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
            self._show(self._seats[slot])
            threads = [row for row in self._counter.threads().values() if row.tgid == tgid]
            self._keep_time(threads, label_of(target))
            self._last[label_of(target)] = "exited"
            self._counter.forget_threads(tgid)
            os.close(target.pidfd)
            self._slots[slot] = None
            self._misnamed.discard(target.pid)
            gone.append(f"process {target.pid} ({target.comm}) has exited")
        return gone

    def _drop_dead_threads(self) -> None:
        """Drop the records of threads that another thread's execve(2) ended.

        An exit drops its record before its directory goes: what is without one, and still there
        when it is read again, has not exited. In a pid namespace the numbers are not to be seen.
        """
        known = self._counter.threads()
        for target, seat in zip(self._slots, self._seats, strict=True):
            label = self._labels[seat]
            if target is None or target.namespaced or label is None:
                continue
            tids = {tid for tid, row in known.items() if row.tgid == target.pid}
            dead = tids - {int(task.name) for task in targets.tasks(target.pid, self._proc)}
            if dead and target.is_alive():
                self._forget(dead, label)

    def _forget(self, dead: set[int], label: Label) -> None:
        left = {tid: row for tid, row in self._counter.threads().items() if tid in dead}
        for tid in left:
            self._counter.forget_thread(tid)
        self._keep_time([row for row in left.values() if row.is_loop], label)

    def _keep_time(self, threads: list[ThreadRow], label: Label) -> None:
        """Keep how long threads lived that ended without a call of their own: nobody added it.

        Their time blocked is counted: a wait returns also to a thread that is being killed.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._lived_ns[label] += lived(threads, now)

    def _follow_names(self) -> list[str]:
        changes = []
        for slot, target in enumerate(self._slots):
            if target is None:
                continue
            try:
                comm = targets.read_comm(target.pid, self._proc)
            except OSError:  # it has just exited; the next refresh sees that
                continue
            if comm != target.comm:
                changes += self._rename(slot, target, replace(target, comm=comm))
        return changes

    def _rename(self, slot: int, target: Target, renamed: Target) -> list[str]:
        comm = renamed.comm
        if self._seats[slot] in self._starting:
            self._labels[self._seats[slot]] = label_of(renamed)
            self._show(self._seats[slot])
        elif (group := self._group_of(renamed)) is not None:
            self._seat(slot, group)
            self._ever["renamed"] += 1
            self._last[label_of(target)] = "renamed"
            self._share_time(slot, label_of(target), label_of(renamed))
        elif target.pid in self._misnamed:
            return []
        else:
            self._misnamed.add(target.pid)
            self._ever["misnamed"] += 1
            was = f"is still counted as {target.comm}: no room for more names"
            return [f"process {target.pid} now calls itself {comm} but {was}"]
        self._slots[slot] = renamed
        return [f"process {target.pid} now calls itself {comm} (mode {renamed.mode})"]

    def _share_time(self, slot: int, old: Label, new: Label) -> None:
        """Leave under the *old* name what its threads have lived, and have been blocked, until now.

        The kernel side adds a whole life, and a whole wait, under the name it ends with.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        tgid = self._counter.tgid_of(slot)
        threads = [row for row in self._counter.threads().values() if row.tgid == tgid]
        for kept, nanoseconds in (
            (self._lived_ns, lived(threads, now)),
            (self._blocked_before_ns, blocked_now(threads, now, self._names)),
        ):
            kept[old] += nanoseconds
            kept[new] -= nanoseconds

    def _admit_new(self) -> list[str]:
        watched = {target.pid for target in self.targets}
        asked_for, self._pids_to_open = self._pids_to_open, []
        pids = [*asked_for, *targets.find_by_name(self._wanted, self._proc)]
        self._unwatched &= set(pids)
        changes = []
        for pid in dict.fromkeys(pids):
            if pid in watched:
                continue
            try:
                target = targets.open_target(pid, self._proc)
            except Refused as refusal:
                if pid in asked_for:
                    raise
                changes += self._leave_out(pid, f"not counted: {refusal}")
                continue
            if target:
                changes += self._admit(target)
            elif pid in asked_for:
                gone = f"process {pid} has exited before it could be counted"
                changes += self._leave_out(pid, gone)
        return changes

    def _leave_out(self, pid: int, sentence: str) -> list[str]:
        """Say once why *pid* is not counted."""
        if pid in self._unwatched:
            return []
        self._unwatched.add(pid)
        self._ever["left out"] += 1
        return [sentence]

    def _admit(self, target: Target) -> list[str]:
        group = self._group_of_new(target) if None in self._slots else None
        if group is None:
            os.close(target.pidfd)
            return self._leave_out(
                target.pid,
                f"process {target.pid} ({target.comm}) is not counted: no room for more",
            )
        slot = self._slots.index(None)
        self._slots[slot] = target
        self._seats[slot] = group
        self._unwatched.discard(target.pid)
        self._counter.assign(slot, group, target.namespaced or target.pid)
        self._adopt_waiting_threads(target, group)
        is_starting = group in self._starting  # such a one has not waited yet
        self._ever["late"] += self._has_looked and not is_starting
        mode = "mode not yet known" if is_starting else f"mode {target.mode}"
        return [f"watching process {target.pid} ({target.comm}, {mode})"]

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

    def _group_of_new(self, target: Target) -> int | None:
        """Return the kernel group for a *target* that nothing is counted of yet, or None: no room.

        It has no name to leave anything under: if it is only starting, it is shown when it has one.
        """
        group = self._claim(label_of(target)) if target.is_starting else None
        if group is None:
            return self._group_of(target)
        self._starting[group] = time.monotonic() + STARTING_SECONDS
        return group

    def _group_of(self, target: Target) -> int | None:
        """Return the kernel group for the name of *target*, or None: no room."""
        label = label_of(target)
        if label not in self._homes:
            group = self._claim(label)
            if group is None:
                return None
            self._homes[label] = group
        return self._homes[label]

    def _claim(self, label: Label) -> int | None:
        """Take a free kernel group for *label*; return None if there is no room."""
        if None not in self._labels:
            return None
        group = self._labels.index(None)
        self._labels[group] = label
        return group

    def _seat(self, slot: int, group: int) -> None:
        self._counter.regroup(slot, group)
        self._seats[slot] = group

    def _show(self, group: int) -> None:
        """Let the counts of *group* be seen, under its label from now on."""
        label = self._labels[group]
        if self._starting.pop(group, None) is not None and label is not None:
            self._homes.setdefault(label, group)

    def _stop_hiding(self) -> None:
        for group, until in list(self._starting.items()):
            if time.monotonic() > until:
                self._show(group)

    def _send_home(self) -> None:
        """Have nobody count into the further groups of a label."""
        for group, label in enumerate(self._labels):
            if label is None or group in self._starting or self._homes[label] == group:
                continue
            for slot, target in enumerate(self._slots):
                if target is not None and self._seats[slot] == group:
                    self._seat(slot, self._homes[label])
            self._emptying.add(group)

    def _empty_groups(self) -> None:
        """Keep what is in the groups that were left at the last refresh, and free them.

        Not sooner: a program that had begun before the targets left may still add a count.
        """
        for group in self._emptying:
            label = self._labels[group]
            assert label is not None  # noqa: S101 - for the type checker
            rows = self._counter.read()
            self._kept = add(self._kept, move(rows, group, self._homes[label]))
            self._counter.clear(group)
            self._labels[group] = None
        self._emptying.clear()

    def _group(self, rows: MapRows, label: Label) -> Group:
        groups = [
            group
            for group, its in enumerate(self._labels)
            if its == label and group not in self._starting
        ]
        counts = decode_group(rows, groups, self._names)
        blocked_ns = counts.blocked_ns + self._blocked_before_ns[label]
        self._blocked_ns[label] = max(blocked_ns, self._blocked_ns[label])
        return Group(
            label=label,
            pids=tuple(
                target.pid
                for target, seat in zip(self._slots, self._seats, strict=True)
                if target is not None
                and label_of(target) == label
                and seat not in self._starting
                and target.is_alive()
            ),
            counts=replace(
                counts,
                blocked_ns=self._blocked_ns[label],
                loop_ns=counts.loop_ns + self._lived_ns[label],
            ),
            last=self._last.get(label, "exited"),
        )

    def _unseen(self) -> tuple[int, ...]:
        return tuple(
            target.pid
            for slot, target in enumerate(self._slots)
            if target is not None and not self._counter.tgid_of(slot)
        )

    def _absent(self) -> tuple[str, ...]:
        return tuple(
            comm
            for comm in self._wanted.comms
            if not any(Wanted(comms=(comm,)).names(label.comm) for label in self._homes)
        )
