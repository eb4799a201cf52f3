"""The list of targets: exits, restarts, renames, and what happens when there is no room."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ebpf import syscalls
from ebpf.decode import LOOP_FIELDS, MapRows, ThreadRow
from ebpf.targets import PROC, NamespacedPid, Wanted
from ebpf.watch import Label, Watch
from tests.probes.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ebpf.kernel import ProgramInfo

IDLE = [0] * (len(LOOP_FIELDS) + 15)
SECOND = 1_000_000_000
RENAME_TWICE = """
printf "$0" >/proc/self/comm; echo
read -r again; printf "$again" >/proc/self/comm; echo
read -r end
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

    def is_found(self, slot: int) -> bool:
        return slot in self.assigned

    def adopt(self, thread: ThreadRow, tid: int) -> None:
        self.asleep[tid] = thread

    def forget_threads(self, tgid: int) -> None:
        self.asleep = {tid: row for tid, row in self.asleep.items() if row.tgid != tgid}

    def forget_thread(self, tid: int) -> None:
        del self.asleep[tid]

    def clear(self, group: int) -> None:
        self.cleared.append(group)

    def threads(self) -> dict[int, ThreadRow]:
        return self.asleep

    def read(self) -> MapRows:
        return MapRows(
            taken_ns=0,
            calls={},
            loops={0: [IDLE], 1: [IDLE], 2: [IDLE]},
            errors={},
            threads=list(self.asleep.values()),
        )

    def programs(self) -> Mapping[str, ProgramInfo]:
        return {}


@pytest.fixture
def named() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start processes that call themselves something."""
    started = []

    def start(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["bash", "-c", RENAME_TWICE, name],
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
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"etltd-et\n")
    process.stdout.readline()

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
    observed.close()


def test_a_new_name_without_room_is_said_once_and_is_a_doubt(
    named: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """Its calls went on under the old name and the old mode, and nobody was told."""
    process = named("etlt-server")
    observed = watch(Wanted(pids=(process.pid,)), Table(), groups=1)
    observed.refresh()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"etltd-et\n")
    process.stdout.readline()

    (sentence,) = observed.refresh()
    assert "now calls itself etltd-et but is still counted as etlt-server" in sentence
    assert observed.refresh() == []
    assert observed.snapshot().misnamed == 1
    observed.close()


def test_a_name_that_nobody_has_borne_is_absent_not_forgotten() -> None:
    observed = watch(Wanted(comms=("etlt-nobody",)), Table())
    observed.refresh()

    assert observed.snapshot().absent == ("etlt-nobody",)


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
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(b"etltd-et\n")
        daemon.stdout.readline()
        assert observed.refresh() == [f"process {daemon.pid} now calls itself etltd-et (mode et)"]
        (group,) = observed.snapshot().groups
        assert (group.label, group.pids) == (Label("et", "etltd-et"), (daemon.pid,))
        assert [at for at, _ in table.assigned.values()] == [0]
        end(daemon)
        observed.refresh()

    assert table.cleared == [1, 1, 1]
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
