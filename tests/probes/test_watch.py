"""The list of targets: exits, restarts, renames, and what happens when there is no room."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from ebpf import syscalls
from ebpf.decode import LOOP_FIELDS, MapRows, ThreadRow
from ebpf.doubts import doubts
from ebpf.targets import PROC, NamespacedPid, Wanted
from ebpf.watch import Label, Watch
from tests.probes.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ebpf.kernel import ProgramInfo

IDLE = [0] * (len(LOOP_FIELDS) + 15)
SECOND = 1_000_000_000
RENAME = """
printf "$0" >/proc/self/comm; echo
while read -r again; do printf "$again" >/proc/self/comm; echo; done
"""


@dataclass
class Table:
    """A kernel side that remembers whom it was told to count, and counts nothing."""

    assigned: dict[int, tuple[int, int | NamespacedPid]] = field(default_factory=dict)
    asleep: dict[int, ThreadRow] = field(default_factory=dict)
    cleared: list[int] = field(default_factory=list)

    def assign(self, slot: int, group: int, target: int | NamespacedPid) -> None:
        self.assigned[slot] = (group, target)

    def regroup(self, slot: int, group: int) -> None:
        self.assigned[slot] = (group, self.assigned[slot][1])

    def release(self, slot: int) -> int:
        _, target = self.assigned.pop(slot)
        return target if isinstance(target, int) else 0

    def tgid_of(self, slot: int) -> int:
        _, target = self.assigned.get(slot, (0, 0))
        return target if isinstance(target, int) else 0

    def adopt(self, thread: ThreadRow, tid: int) -> None:
        self.asleep[tid] = thread

    def forget_threads(self, tgid: int) -> None:
        self.asleep = {tid: row for tid, row in self.asleep.items() if row.tgid != tgid}

    def forget_thread(self, tid: int) -> None:
        del self.asleep[tid]

    def clear(self, group: int) -> None:
        self.cleared.append(group)

    def threads(self) -> dict[int, ThreadRow]:
        groups = {target: group for group, target in self.assigned.values()}
        return {
            tid: replace(row, group=groups.get(row.tgid, row.group))
            for tid, row in self.asleep.items()
        }

    def read(self) -> MapRows:
        return MapRows(
            taken_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            calls={},
            loops={0: [IDLE], 1: [IDLE], 2: [IDLE]},
            errors={},
            threads=list(self.threads().values()),
        )

    def programs(self) -> Mapping[str, ProgramInfo]:
        return {}


@pytest.fixture
def named() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start processes that call themselves something."""
    started = []

    def start(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["bash", "-c", RENAME, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def watch(
    wanted: Wanted, table: Table, slots: int = 4, groups: int = 2, proc: Path = PROC
) -> Watch:
    names = syscalls.names("x86_64")
    return Watch(wanted, table, names, slots=slots, groups=groups, proc=proc)


def rename(process: subprocess.Popen[bytes], name: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(name.encode() + b"\n")
    process.stdout.readline()


def reasons(observed: Watch) -> dict[str, int]:
    return {doubt.reason: doubt.count for doubt in doubts(observed.snapshot())}


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_two_processes_of_one_name_are_one_group(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """A server's workers: pid is no label, so their counts must be added, not overwritten."""
    table = Table()
    first, second = named("etlt-worker"), named("etlt-worker")
    observed = watch(Wanted(comms=("etlt-worker",)), table)
    observed.refresh()
    (group,) = observed.snapshot().groups

    assert group.label == Label("unknown", "etlt-worker")
    assert set(group.pids) == {first.pid, second.pid}
    assert {assigned for assigned, _ in table.assigned.values()} == {0}
    observed.close()


def test_a_target_that_exits_is_struck_at_once_and_its_successor_followed(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    table = Table()
    first = named("etlt-server")
    observed = watch(Wanted(comms=("etlt-server",)), table)
    observed.refresh()
    end(first)

    assert observed.snapshot().groups[0].pids == ()
    assert observed.refresh() == [f"process {first.pid} (etlt-server) has exited"]
    assert table.assigned == {}
    second = named("etlt-server")
    assert observed.refresh() == [f"watching process {second.pid} (etlt-server, mode unknown)"]
    assert [group for group, _ in table.assigned.values()] == [0]
    observed.close()


def test_a_pid_is_not_followed_to_whoever_gets_it_next(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    table = Table()
    process = named("etlt-server")
    observed = watch(Wanted(pids=(process.pid,)), table)
    observed.refresh()
    end(process)
    observed.refresh()

    assert observed.refresh() == []
    assert observed.targets == []


def test_a_target_that_renames_itself_moves_to_its_new_mode(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """The daemon names itself when it is configured, which may be after the probe has seen it."""
    table = Table()
    process = named("python3")
    observed = watch(Wanted(pids=(process.pid,)), table)
    observed.refresh()
    rename(process, "etltd-et")

    assert observed.refresh() == [f"process {process.pid} now calls itself etltd-et (mode et)"]
    assert observed.snapshot().groups[1].pids == (process.pid,)
    assert table.assigned[0][0] == 1
    observed.close()


def test_processes_without_room_are_counted_as_unwatched_and_said_once(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    processes = [named("etlt-worker") for _ in range(3)]
    observed = watch(Wanted(comms=("etlt-worker",)), Table(), slots=2)

    assert sum("no room" in sentence for sentence in observed.refresh()) == 1
    assert observed.refresh() == []
    assert observed.snapshot().unwatched == 1
    end(next(p for p in processes if p.pid == observed.targets[0].pid))
    observed.refresh()
    assert observed.snapshot().unwatched == 0
    assert len(observed.targets) == 2
    assert reasons(observed) == {"unwatched": 1, "late": 1}  # what it did before is missing
    observed.close()


def test_a_process_that_was_left_out_stays_a_doubt_when_it_has_ended(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """One of 17 workers ended a second before the report, which was `complete` then."""
    processes = [named("etlt-worker") for _ in range(3)]
    observed = watch(Wanted(comms=("etlt-worker",)), Table(), slots=2)
    observed.refresh()
    watched = {target.pid for target in observed.targets}
    end(next(p for p in processes if p.pid not in watched))
    observed.refresh()

    assert observed.snapshot().unwatched == 0
    assert reasons(observed) == {"unwatched": 1}
    observed.close()


def test_a_pid_that_ended_before_it_could_be_opened_is_said_and_stays_a_doubt(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """The counts of the others were `complete` then."""
    here, gone = named("etlt-here"), named("etlt-gone")
    gone.kill()
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)  # its entry in /proc stays
    observed = watch(Wanted(pids=(here.pid, gone.pid)), Table())

    said = observed.refresh()
    assert said[-1] == f"process {gone.pid} has exited before it could be counted"
    assert observed.refresh() == []
    assert observed.snapshot().unwatched == 0
    assert reasons(observed) == {"unwatched": 1}
    observed.close()


def test_a_new_name_without_room_is_said_once_and_is_a_doubt(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """Its calls went on under the old name and the old mode, and nobody was told."""
    process = named("etlt-server")
    observed = watch(Wanted(pids=(process.pid,)), Table(), groups=1)
    observed.refresh()
    rename(process, "etltd-et")

    (sentence,) = observed.refresh()
    assert "now calls itself etltd-et but is still counted as etlt-server" in sentence
    assert observed.refresh() == []
    assert reasons(observed) == {"misnamed": 1}
    end(process)
    observed.refresh()
    assert reasons(observed) == {"misnamed": 1}
    observed.close()


def test_names_are_taken_for_good(named: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """A name is a series, and series must stay few: so its place is not given to another."""
    observed = watch(Wanted(comms=("etlt-worker",)), Table(), groups=2)
    for number in range(2):
        process = named(f"etlt-worker{number}")
        observed.refresh()
        end(process)
        observed.refresh()
    third = named("etlt-worker2")

    assert observed.refresh() == [
        f"process {third.pid} (etlt-worker2) is not counted: no room for more"
    ]
    assert reasons(observed) == {"unwatched": 1, "late": 1}


def test_a_new_name_is_a_doubt_and_takes_no_time_from_the_old(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """The calls of half a second may be under the wrong name, and `complete` was said of them.

    And a loop's whole life went over to the new name, so that the old one had been blocked for
    more than all of its time.
    """
    table, process = Table(), named("etlt-server")
    observed = watch(Wanted(pids=(process.pid,)), table)
    observed.refresh()
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wait = {name: nr for nr, name in syscalls.names("x86_64").items()}["epoll_wait"]
    began, waits_since = now - 1000 * SECOND, now - 600 * SECOND
    row = ThreadRow(waits_since, began, wait, process.pid, 0, slept=True, is_loop=True)
    table.adopt(row, process.pid)
    assert reasons(observed) == {}
    rename(process, "etlt-renamed")
    observed.refresh()
    old, new = observed.snapshot().groups

    assert (old.label.comm, old.pids, old.last) == ("etlt-server", (), "renamed")
    assert 1000 * SECOND <= old.counts.loop_ns < 1100 * SECOND
    assert 600 * SECOND <= old.counts.blocked_ns < 700 * SECOND
    assert new.pids == (process.pid,)
    assert new.counts.blocked_ns <= new.counts.loop_ns < 100 * SECOND
    assert reasons(observed) == {"renamed": 1}
    observed.close()


def test_a_name_that_a_daemon_starts_with_takes_no_time_from_the_old(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """A shell that becomes the daemon: what it had lived until then went over to the daemon."""
    table, process = Table(), named("etlt-shell")
    observed = watch(Wanted(pids=(process.pid,)), table, groups=3)
    observed.refresh()
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 1000 * SECOND
    table.adopt(ThreadRow(0, began, -1, process.pid, 0, slept=False, is_loop=True), process.pid)
    for name in ("etltd", "etltd-et"):
        rename(process, name)
        observed.refresh()
    lived = {group.label.comm: group.counts.loop_ns for group in observed.snapshot().groups}

    assert 1000 * SECOND <= lived.pop("etlt-shell") < 1100 * SECOND
    assert min(lived.values()) >= 0
    assert lived["etltd-et"] < 100 * SECOND
    observed.close()


def test_a_name_that_nobody_has_borne_is_absent_not_forgotten() -> None:
    observed = watch(Wanted(comms=("etlt-nobody",)), Table())
    observed.refresh()

    assert observed.snapshot().absent == ("etlt-nobody",)
    assert reasons(observed) == {"absent": 1}  # a name mistyped beside one that is there


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., Path]:
    """Return a /proc with these processes alone: others on the machine may be called etltd too."""

    def show(*processes: subprocess.Popen[bytes]) -> Path:
        for name in ("self", *(str(process.pid) for process in processes)):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(f"/proc/{name}")
        return tmp_path

    return show


def test_a_process_noticed_after_the_first_look_is_a_doubt(
    named: Callable[[str], subprocess.Popen[bytes]], proc: Callable[..., Path]
) -> None:
    """Eight short lives were counted from somewhere on, and the report said `complete`."""
    wanted = Wanted(comms=("etlt-server", "etltd"))
    observed = watch(wanted, Table(), groups=3, proc=proc(named("etlt-server")))
    observed.refresh()
    assert observed.snapshot().late == 0
    proc(named("etlt-server"))
    proc(named("etltd"))  # has not read its options, so it has not waited either
    observed.refresh()

    assert len(observed.targets) == 3
    assert observed.snapshot().late == 1
    assert "renamed" not in reasons(observed)
    observed.close()


def test_restarts_of_a_daemon_do_not_use_up_the_groups(
    named: Callable[[str], subprocess.Popen[bytes]], proc: Callable[..., Path]
) -> None:
    """Each life begins in a group of its own; it is freed when its counts have been moved over."""
    table = Table()
    observed = watch(Wanted(comms=("etltd",)), table, proc=proc())
    for _ in range(4):
        daemon = named("etltd")
        proc(daemon)
        assert observed.refresh()[-1].endswith("(etltd, mode not yet known)")
        rename(daemon, "etltd-et")
        assert observed.refresh() == [f"process {daemon.pid} now calls itself etltd-et (mode et)"]
        (group,) = observed.snapshot().groups
        assert (group.label, group.pids) == (Label("et", "etltd-et"), (daemon.pid,))
        assert [at for at, _ in table.assigned.values()] == [0]
        end(daemon)
        observed.refresh()

    assert table.cleared == [1, 1, 1]
    assert reasons(observed) == {}  # it had not waited before it named itself
    observed.close()


def test_one_that_never_names_itself_is_shown_in_the_end(
    named: Callable[[str], subprocess.Popen[bytes]], proc: Callable[..., Path]
) -> None:
    process = named("etltd")
    observed = watch(Wanted(comms=("etltd",)), Table(), proc=proc(process))
    observed.refresh()
    assert observed.snapshot().groups == ()
    observed.stop_counting()
    (group,) = observed.snapshot().groups

    assert (group.label, group.pids) == (Label("unknown", "etltd"), (process.pid,))
    observed.close()


def test_the_record_of_a_thread_that_is_no_more_is_dropped(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """execve(2) ends the other threads without a call of theirs: they were loop threads ever on."""
    table, process = Table(), named("etlt-server")
    observed = watch(Wanted(pids=(process.pid,)), table)
    observed.refresh()
    for tid in (process.pid, 4194304):
        table.adopt(ThreadRow(1, 1, 0, process.pid, 0, slept=False, is_loop=True), tid)
    (group,) = observed.snapshot().groups

    assert set(table.asleep) == {process.pid}
    assert group.counts.loop_threads == 1
    assert group.counts.loop_ns > SECOND  # lived since the machine started
    observed.close()


def test_no_descriptor_is_left_behind(named: Callable[[str], subprocess.Popen[bytes]]) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    process = named("etlt-server")
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    observed = watch(Wanted(comms=("etlt-server",)), Table())
    observed.refresh()
    end(process)
    observed.refresh()
    observed.close()

    assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208
    assert opened > before


@pytest.mark.kernel
def test_the_command_waits_for_its_target_and_follows_restarts(
    named: Callable[[str], subprocess.Popen[bytes]], exporter: Callable[..., object]
) -> None:
    from tests.probes.rig import Exporter

    probe = exporter("--comm", "etlt-late")
    assert isinstance(probe, Exporter)
    absent = frozenset({("mode", "unknown"), ("comm", "etlt-late")})
    assert any("no process is called etlt-late yet" in line for line in probe.said)
    assert probe.samples()["target_up", absent] == 0
    for _ in range(2):
        process = named("etlt-late")
        probe.wait_for(f"watching process {process.pid}")
        assert probe.samples()["target_up", absent] == 1
        end(process)
        probe.wait_for(f"process {process.pid} .* has exited")
        wait_until(lambda: probe.samples()["target_up", absent] == 0, "target_up falls")
    assert probe.stop() == 0
