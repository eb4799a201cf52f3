"""Who is meant: names, modes, pidfds and pid namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf import targets
from ebpf.errors import Refused
from ebpf.targets import Target, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a tree like /proc, of a probe that is in a pid namespace of its own."""
    for pid, comm in [(1, "etltd-et"), (7, "etltd-lt"), (9, "nginx"), (os.getpid(), "etlt-probe")]:
        directory = tmp_path / str(pid)
        (directory / "ns").mkdir(parents=True)
        (directory / "comm").write_text(f"{comm}\n")
        (directory / "ns/pid").touch()
        inner = f"{pid}\t1" if pid == 9 else str(pid)
        (directory / "status").write_text(f"Name:\t{comm}\nNSpid:\t{inner}\n")
    (tmp_path / "12").mkdir()  # has just ended
    (tmp_path / "meminfo").touch()
    (tmp_path / "self").symlink_to(str(os.getpid()))
    return tmp_path


def test_a_name_means_all_that_begin_so(proc: Path) -> None:
    """`--comm etltd` is both daemons, whichever mode."""
    assert sorted(targets.find_by_name(Wanted(comms=("etltd",)), proc)) == [1, 7]
    assert sorted(targets.find_by_name(Wanted(comms=("etltd-lt", "nginx")), proc)) == [7, 9]


def test_the_probe_never_watches_itself(proc: Path) -> None:
    assert sorted(targets.find_by_name(Wanted(comms=("etlt",)), proc)) == [1, 7]


def test_no_name_means_nobody(proc: Path) -> None:
    assert list(targets.find_by_name(Wanted(pids=(1,)), proc)) == []


def test_a_name_longer_than_the_kernel_keeps_still_matches() -> None:
    assert Wanted(comms=("a-very-long-server-name",)).names("a-very-long-ser")


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (b"\x1b[2J\n", "\\x1b[2J"),
        (b"two\nlines\r\n", "two\\nlines\\r"),
        (b"\xc2\x9b31m\xe2\x80\xae\n", "\\x9b31m\\u202e"),
        (b"b\xc3\xbccher [b]\n", "b\u00fccher [b]"),
        (b"half a \xc3\n", "half a \ufffd"),
    ],
)
def test_a_name_is_shown_and_not_obeyed(comm: bytes, shown: str, proc: Path) -> None:
    """Any process may choose its own; it comes to a terminal, a log, and a label."""
    (proc / "7/comm").write_bytes(comm)

    assert targets.read_comm(7, proc) == shown


@pytest.mark.parametrize(
    ("comm", "mode"),
    [("etltd-et", "et"), ("etltd-lt", "lt"), ("etltd", "unknown"), ("nginx", "unknown")],
)
def test_the_mode_is_what_the_process_calls_itself(comm: str, mode: str) -> None:
    assert Target(1, comm, -1, None).mode == mode


def test_in_the_first_namespace_the_number_is_enough(process: subprocess.Popen[bytes]) -> None:
    if not targets.in_first_namespace():
        pytest.skip("these tests run in a pid namespace of their own")

    assert targets.locate(process.pid) is None


def test_in_a_shared_namespace_a_target_is_known_by_its_number_there(proc: Path) -> None:
    found = targets.locate(7, proc)

    assert found is not None
    assert (found.pid, found.inode) == (7, (proc / "self/ns/pid").stat().st_ino)


def test_in_a_namespace_below_it_is_known_by_its_number_below(proc: Path) -> None:
    found = targets.locate(9, proc)

    assert found is not None
    assert (found.pid, found.inode) == (1, (proc / "9/ns/pid").stat().st_ino)


def test_a_process_that_has_ended_is_not_opened(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()

    assert targets.open_target(process.pid) is None


def test_a_process_that_ends_while_it_is_looked_at_is_not_opened(
    process: subprocess.Popen[bytes], proc: Path
) -> None:
    """Its name is gone, or worse: a successor's."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    assert targets.open_target(process.pid, proc) is None
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_process_that_ends_between_open_and_read_is_not_opened(
    process: subprocess.Popen[bytes], proc: Path
) -> None:
    """A file of /proc that was opened in time reads ESRCH, not ENOENT; it ended the exporter."""
    with subprocess.Popen(["sleep", "600"]) as gone, Path(f"/proc/{gone.pid}/comm").open() as name:
        gone.kill()
        gone.wait()
        (proc / str(process.pid)).mkdir()
        (proc / str(process.pid) / "comm").symlink_to(f"/proc/self/fd/{name.fileno()}")
        with pytest.raises(ProcessLookupError):
            targets.read_comm(process.pid, proc)

        assert targets.open_target(process.pid, proc) is None


def test_a_process_that_has_just_ended_has_no_threads(process: subprocess.Popen[bytes]) -> None:
    target = targets.open_target(process.pid)
    assert target is not None
    os.close(target.pidfd)
    process.kill()
    process.wait()

    assert list(targets.calls_in_progress(replace(target, namespaced=None))) == []


def test_a_zombie_is_not_alive(process: subprocess.Popen[bytes]) -> None:
    target = targets.open_target(process.pid)
    assert target is not None
    assert target.is_alive()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert not target.is_alive()
    os.close(target.pidfd)


def test_a_pid_that_is_not_there_is_refused(proc: Path) -> None:
    with pytest.raises(Refused, match="no process 8 here: the probe must share"):
        targets.check_pids(Wanted(pids=(7, 8)), proc)


def test_the_probes_own_pid_is_refused(proc: Path) -> None:
    with pytest.raises(Refused, match=r"is the probe itself: share the server's pid namespace"):
        targets.check_pids(Wanted(pids=(os.getpid(),)), proc)


def test_a_thread_that_leads_no_process_is_refused_with_the_process_it_belongs_to() -> None:
    """/proc has a directory for it, so it looks like a process."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        tid = pool.submit(threading.get_native_id).result()
        pool.submit(done.wait)
        with pytest.raises(Refused, match=f"{tid} is a thread of process {os.getpid()}: --pid"):
            targets.check_pids(Wanted(pids=(tid,)))
        done.set()


def test_a_32_bit_program_is_refused(process: subprocess.Popen[bytes], proc: Path) -> None:
    """Its getpid would be shown as a writev of 19 MB."""
    (proc / str(process.pid)).mkdir()
    (proc / str(process.pid) / "exe").write_bytes(b"\x7fELF\x01\x01\x01")

    with pytest.raises(Refused, match=r"is a 32-bit program, .*: run a 64-bit build of it"):
        targets.open_target(process.pid, proc)
