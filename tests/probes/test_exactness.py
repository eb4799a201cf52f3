"""The probe is believed because it counts what was counted already: every number must be equal."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ebpf.decode import WAITS, CallCounts, Histogram, ThreadRow
from ebpf.doubts import doubts
from ebpf.loader import Build
from ebpf.targets import Wanted
from tests.probes.rig import REPOSITORY, syscall_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from ebpf.decode import GroupCounts

pytestmark = pytest.mark.kernel

CALLS = ("epoll_wait", "sendto", "sendmsg", "recvfrom", "accept4", "close", "read", "write")
MOVED = ("sendto", "sendmsg", "recvfrom")
ERRORS = (
    ("epoll_wait", "EINTR"),
    ("epoll_wait", "EINVAL"),
    ("epoll_ctl", "EEXIST"),
    ("recvfrom", "EAGAIN"),
    ("sendto", "EAGAIN"),
    ("accept4", "EAGAIN"),
    ("read", "EAGAIN"),
)

THREADS, ERROR_ROWS = 8192, 2048  # of probe.bpf.c
SECOND_LOOP_POLLS = 997  # of workload.py
NO_CALLS = CallCounts("none", 0, {}, Histogram((), 0))


def flat(counts: GroupCounts) -> dict[str, int]:
    """Put the kernel's counts under the workload's own names."""
    calls = counts.calls
    named = {name: calls[name].calls for name in CALLS if name in calls}
    named |= {f"{name} bytes": calls[name].result_sum for name in MOVED if name in calls}
    named |= {
        f"{name} {error}": calls[name].errors.get(error, 0)
        for name, error in ERRORS
        if name in calls
    }
    named |= counts.outcomes | counts.operations
    named |= {f"slot {slot}": count for slot, count in enumerate(counts.events.slots)}
    return named | {"events": counts.events.total} | counts.switches


def difference(after: GroupCounts, before: GroupCounts) -> dict[str, int]:
    earlier = flat(before)
    return {name: count - earlier.get(name, 0) for name, count in flat(after).items()}


def expected(truth: dict[str, int], names: Any) -> dict[str, int]:
    """Return the truth under *names*; what the workload never did, it did nought times."""
    return {name: truth.get(name, 0) for name in names}


def without_switches(counted: dict[str, int]) -> dict[str, int]:
    return {k: v for k, v in counted.items() if k not in ("voluntary", "involuntary")}


@pytest.mark.parametrize("mode", ["lt", "et"])
@pytest.mark.parametrize("build", [Build(), Build(lite=True)], ids=["full", "lite"])
def test_every_count_of_the_loop_threads_equals_the_workloads_own(
    mode: str, build: Build, workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    """Calls, bytes, errnos, outcomes, epoll_ctl by operation, events per wait slot by slot."""
    target = workload(mode)
    observation = observe(Wanted(pids=(target.pid,)), build)
    target.arm()
    before = observation.counts()
    truth = target.run()
    after = observation.counts()

    counted = without_switches(difference(after, before))

    assert counted == expected(truth, counted)
    assert after.untracked == 0
    assert after.loop_threads == 1  # the second loop thread has ended
    assert not any(program.missed for program in observation.probe.programs().values())


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_with_all_threads_nothing_any_thread_did_is_missing(
    mode: str, workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    target = workload(mode)
    observation = observe(Wanted(pids=(target.pid,)), Build(all_threads=True))
    target.arm()
    before = observation.counts()
    truth = target.run()

    counted = without_switches(difference(observation.counts(), before))

    for name in ("read", "write", "read EAGAIN"):
        truth[name] = truth.get(name, 0) + truth[f"other {name}"]
    assert counted == expected(truth, counted)


def test_context_switches_equal_the_schedulers_own_count(
    workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    """Whether a wait slept is decided by these; one too many and `ready` becomes `wakeup`."""
    target = workload("et", solo=True)
    observation = observe(Wanted(pids=(target.pid,)))
    target.arm()
    before, scheduler_before = observation.counts(), target.switches()
    target.run()
    after, scheduler_after = observation.counts(), target.switches()

    counted = {kind: after.switches[kind] - before.switches[kind] for kind in after.switches}

    assert counted == {k: scheduler_after[k] - scheduler_before[k] for k in scheduler_after}
    assert counted["voluntary"] > 100


def counted_while_it_runs(
    observe: Callable[..., Any],
    build: Build,
    code: str,
    prepare: Callable[[Any], object] = lambda _probe: None,
) -> GroupCounts:
    """Start *code*, which says hello, watch it, let it go, count until it says that it is done."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        observation = observe(Wanted(pids=(process.pid,)), build)
        prepare(observation.probe)
        process.stdin.write(b"g")
        assert process.stdout.readline() == b"done\n"
        counts: GroupCounts = observation.counts()
    return counts


def test_counts_stay_exact_and_never_fall_while_they_are_read_in_a_loop(
    workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    target = workload("lt", rounds=1499)
    observation = observe(Wanted(pids=(target.pid,)))
    target.arm()
    before = observation.counts()
    target.go()
    finished = threading.Event()
    readings: list[dict[str, int]] = []

    def read_on() -> None:
        while not finished.is_set():
            readings.append(flat(observation.counts()))

    reader = threading.Thread(target=read_on)
    reader.start()
    truth = target.truth()
    finished.set()
    reader.join()
    counted = without_switches(difference(observation.counts(), before))

    assert counted == expected(truth, counted)
    assert len(readings) > 10
    for earlier, later in pairwise(readings):
        assert all(later[name] >= count for name, count in earlier.items())


def test_counters_go_on_through_a_restart(
    workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    """A restarted server keeps its series; the first life is not forgotten nor counted twice."""
    observation = observe(Wanted(comms=("selfcount",)))
    totals: dict[str, int] = {}
    for life in range(2):
        target = workload("et", rounds=211 + life)
        observation.watch.refresh()
        target.arm()
        before = observation.counts()
        truth = target.run()
        counted = without_switches(difference(observation.counts(), before))
        assert counted == expected(truth, counted)
        for name, count in counted.items():
            totals[name] = totals.get(name, 0) + count
        target.stop()
        observation.watch.refresh()
        assert not observation.watch.targets

    final = flat(observation.counts())

    assert all(final[name] >= count for name, count in totals.items())
    assert observation.probe.threads() == {}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that enters an endless wait when it is told to."""
    code = (
        "import os, select, signal; e = select.epoll();"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'woken'));"
        "print(flush=True); input(); e.poll(0); e.poll()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_time_of_a_wait_that_a_kill_ended_is_kept(
    observe: Callable[..., Any], sleeper: subprocess.Popen[bytes]
) -> None:
    """Nobody returned from that wait, and a counter must not fall."""
    observation = observe(Wanted(pids=(sleeper.pid,)))
    assert sleeper.stdin is not None
    sleeper.stdin.write(b"\n")
    wait_until(lambda: observation.counts().blocked_ns > 50_000_000, "time blocked grows in a wait")
    sleeper.kill()
    sleeper.wait()
    at_exit = observation.counts().blocked_ns
    observation.watch.refresh()

    assert observation.counts().blocked_ns >= at_exit - 1_000_000
    assert observation.counts().loop_threads == 0


def strace_table(text: str) -> dict[str, tuple[int, int]]:
    """Return calls and errors by name from the output of strace -c."""
    rows = (line.split() for line in text.splitlines()[2:])
    return {
        row[-1]: (int(row[3]), int(row[4]) if len(row) == 6 else 0)
        for row in rows
        if row[3:] and row[3].isdigit()
    }


STRACED = ("epoll_wait", "epoll_ctl", "sendto", "sendmsg", "recvfrom", "accept4", "close")


def failures(truth: dict[str, int], call: str) -> int:
    return sum(truth.get(f"{name} {error}", 0) for name, error in ERRORS if name == call)


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_counts_equal_strace_and_the_workloads_own(
    mode: str, workload: Callable[..., Any], observe: Callable[..., Any], tmp_path: Path
) -> None:
    """Three witnesses, threads included; one of them stops the server at every call."""
    strace = shutil.which("strace") or pytest.skip("strace is not installed")
    target = workload(mode, rounds=97)
    observation = observe(Wanted(pids=(target.pid,)))
    target.arm()
    table_file = tmp_path / "table"
    tracer = subprocess.Popen(
        [strace, "-c", "-f", "-o", str(table_file), "-p", str(target.pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    before = observation.counts()
    truth = target.run()
    after = observation.counts()
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    table = strace_table(table_file.read_text())

    truth["epoll_ctl"] = truth["add"] + truth["mod"] + truth["del"]
    for name in STRACED:
        call, earlier = after.calls[name], before.calls.get(name, NO_CALLS)
        errors = sum(call.errors.values()) - sum(earlier.errors.values())
        counted = (call.calls - earlier.calls, errors)
        assert (name, counted, table[name]) == (name, (truth[name], failures(truth, name)), counted)


def test_a_full_thread_table_is_a_doubt_and_spares_the_threads_that_are_in_it(
    workload: Callable[..., Any], observe: Callable[..., Any]
) -> None:
    """Nothing of the threads without a place is counted, and each of their calls is admitted."""
    target = workload("et", rounds=97)
    observation = observe(Wanted(pids=(target.pid,)))
    target.arm()
    before = observation.counts()
    filler = ThreadRow(0, 0, 0, tgid=1, group=7, slept=False, is_loop=False)
    for tid in range(2**22, 2**22 + THREADS):  # higher than any tid
        observation.probe.adopt(filler, tid)
    truth = target.run()
    snapshot = observation.watch.snapshot()
    (group,) = snapshot.groups
    counted = difference(group.counts, before)

    assert len(observation.probe.threads()) == THREADS
    assert counted["epoll_wait"] == truth["epoll_wait"] - (2 * SECOND_LOOP_POLLS + 1)
    assert counted["sendto"] == truth["sendto"] - SECOND_LOOP_POLLS
    others = truth["other read"] + truth["other write"]
    assert group.counts.untracked >= others + 4 * SECOND_LOOP_POLLS  # and their futexes
    assert "untracked_calls" in {doubt.reason for doubt in doubts(snapshot)}


def test_a_wait_that_lasts_when_the_probe_comes_is_counted_and_its_tick_too(
    sleeper: subprocess.Popen[bytes], observe: Callable[..., Any]
) -> None:
    """An idle server waits; the connection that ends that wait must not be lost."""
    assert sleeper.stdin is not None
    sleeper.stdin.write(b"\n")
    wait_until(lambda: syscall_of(sleeper.pid) in WAITS, "it is in its wait")
    observation = observe(Wanted(pids=(sleeper.pid,)))
    assert observation.counts().loop_threads == 1
    sleeper.send_signal(signal.SIGUSR1)
    wait_until(lambda: observation.counts().calls.get("write"), "the tick ends in a write")
    counts = observation.counts()

    assert counts.outcomes["interrupted"] == 1
    assert counts.calls["write"].calls == 1
    assert counts.calls["epoll_wait"].errors == {"EINTR": 1}
    assert counts.calls["rt_sigreturn"].calls == 1
    assert counts.calls["rt_sigreturn"].errors == {}  # it returns what the wait returned
    assert counts.unmatched == 0


@pytest.fixture
def finite() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that, told to, waits 0.2 s in one loop thread, 0.2 s in the main, and ends.

    How it ends is the next word: `exit`, or `kill` by its own hand.
    """
    code = """
import os, select, signal, threading
print(flush=True)
how = input()
def wait():
    with select.epoll() as epoll:
        epoll.poll(0.2)
thread = threading.Thread(target=wait)
thread.start(); thread.join()
wait()
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_time_of_loop_threads_that_have_ended_is_known(
    how: str, finite: subprocess.Popen[bytes], observe: Callable[..., Any]
) -> None:
    """Else the share of time blocked, of a server that ended, would be unknown or above one."""
    started = time.monotonic_ns()
    observation = observe(Wanted(pids=(finite.pid,)))
    assert finite.stdin is not None
    finite.stdin.write(how.encode() + b"\n")
    finite.wait()
    observation.watch.refresh()
    counts = observation.counts()

    assert counts.loop_threads == 0
    assert 0.4e9 < counts.blocked_ns <= counts.loop_ns < time.monotonic_ns() - started
    assert counts.outcomes["timeout"] == 2


@pytest.fixture
def churner() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process with one endless wait, and threads that poll once and end."""
    code = """
import os, select, threading
def poll():
    with select.epoll() as epoll:
        epoll.poll(0)
def churn():
    while True:
        threads = [threading.Thread(target=poll) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
threading.Thread(target=churn).start()
print(flush=True)
select.epoll().poll()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_thread_is_read_once_however_many_others_end_meanwhile(
    churner: subprocess.Popen[bytes], observe: Callable[..., Any]
) -> None:
    """One thread sleeps: twice its time would be told for ever, because a counter never falls."""
    started = time.monotonic_ns()
    observation = observe(Wanted(pids=(churner.pid,)))
    for _ in range(1500):
        assert observation.counts().blocked_ns <= time.monotonic_ns() - started


FAILING = """
import ctypes, os, select
epoll, close = select.epoll(), ctypes.CDLL(None).close
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
for _ in range(%d):
    close(-1)
os.write(1, b"done\\n")
os.read(0, 1)
"""


def test_errors_of_two_processes_at_once_all_have_their_errno(observe: Callable[..., Any]) -> None:
    """CPUs that counted in one place overwrote each other: some closes failed with `unknown`."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", FAILING % 150_001],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                )
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"hello\n"
        observation = observe(Wanted(pids=tuple(process.pid for process in processes)))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"g")
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
        counts = observation.counts()

    assert counts.calls["close"].errors == {"EBADF": 300_002}


SANDBOXED = """
import ctypes, errno, os, select
from tests.probes.seccomp import number_of, refuse
number, libc = number_of("getppid"), ctypes.CDLL(None)
refuse(number, errno.EPERM)
epoll = select.epoll()
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
for _ in range(1009):
    assert libc.syscall(number) == -1
os.write(1, b"done\\n")
os.read(0, 1)
"""


@pytest.mark.parametrize("build", [Build(), Build(lite=True), Build(all_threads=True)], ids=str)
def test_calls_that_seccomp_refuses_are_counted_as_failed(
    build: Build, observe: Callable[..., Any]
) -> None:
    """The kernel tells of their return and not of their entry; a thousand of them had vanished."""
    counts = counted_while_it_runs(observe, build, SANDBOXED)

    assert counts.calls["getppid"].calls == 1009
    assert counts.calls["getppid"].errors == {"EPERM": 1009}
    assert counts.unmatched == 1  # the read it was in as the probe came


UNKNOWN = """
import ctypes, os, select
call, epoll = ctypes.CDLL(None).syscall, select.epoll()
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
for number in (-1, 600) * 503:
    assert call(number) == -1
os.write(1, b"done\\n")
os.read(0, 1)
"""


def test_calls_without_a_number_are_admitted(observe: Callable[..., Any]) -> None:
    """syscall(-1) was said to be a new thread's, or to have been in progress at the beginning."""
    counts = counted_while_it_runs(observe, Build(), UNKNOWN)

    assert counts.untracked == 2 * 503
    assert counts.unmatched == 1  # the read it was in as the probe came


EVERY_WAIT = """
import ctypes, os, select, socket, struct, threading
from tests.probes.seccomp import number_of
ROUNDS, EVENT, MASK_BYTES = 23, 12, 8
libc = ctypes.CDLL(None, use_errno=True)
epoll, (near, far) = select.epoll(), socket.socketpair()
epoll.register(far, select.EPOLLIN)
events = ctypes.create_string_buffer(EVENT)
main, wanted = threading.get_native_id(), threading.Semaphore(0)
def wake():
    while wanted.acquire():
        while not open(f"/proc/self/task/{main}/syscall").read().startswith(f"{number} "):
            pass
        near.send(b"x")
threading.Thread(target=wake, daemon=True).start()
def span(ms):
    seconds = struct.pack("qq", ms // 1000, ms % 1000 * 1_000_000)
    return ctypes.create_string_buffer(seconds, len(seconds)) if ms >= 0 else None
def wait(ms, fd=None):
    limit = span(ms) if number == 441 else ms
    rest = (None, MASK_BYTES) if number != 232 else ()
    return libc.syscall(number, epoll.fileno() if fd is None else fd, events, 1, limit, *rest)
def forget():
    far.recv(1)
os.write(1, b"hello\\n")
os.read(0, 1)
for name in ("epoll_wait", "epoll_pwait", "epoll_pwait2"):
    number = number_of(name)
    for turn in range(ROUNDS):
        assert wait(0) == 0
        near.send(b"x")
        assert wait(-1) == 1
        forget()
        wanted.release()
        assert wait(-1) == 1
        forget()
        assert wait(0, 9999) == -1
        turn or wait(20)
os.write(1, b"done\\n")
os.read(0, 1)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and layout are x86-64's")
@pytest.mark.parametrize("build", [Build(), Build(lite=True)], ids=["full", "lite"])
def test_each_of_the_three_waits_is_classed(build: Build, observe: Callable[..., Any]) -> None:
    """Programs in C, and glibc elsewhere, call epoll_pwait and epoll_pwait2; ours never does."""
    counts = counted_while_it_runs(observe, build, EVERY_WAIT)
    names, outcomes = ("epoll_wait", "epoll_pwait", "epoll_pwait2"), counts.outcomes

    assert {name: counts.calls[name].calls for name in names} == dict.fromkeys(names, 4 * 23 + 1)
    assert [counts.calls[name].errors for name in names] == [{"EBADF": 23}] * 3
    assert [outcomes[name] for name in ("wakeup", "ready", "failed", "interrupted")] == [
        *(3 * 23, 3 * 23, 3 * 23, 0)
    ]
    # A wait of 20 ms need not sleep: its time may be up before it has begun to.
    assert outcomes["empty"] + outcomes["timeout"] == 3 * 23 + 3
    assert outcomes["timeout"] > 0
    assert counts.events.total == counts.events.count == 6 * 23


EXECUTED = """
import os, select, sys, threading
AFTER = (
    "import os, select; epoll = select.epoll(); [epoll.poll(0) for _ in range(1013)]; "
    "os.write(1, bytes([*b'done', 10])); os.read(0, 1)"
)
def work():
    for _ in range(509):
        epoll.poll(0)
    os.execv(sys.executable, [sys.executable, "-c", AFTER])
epoll = select.epoll()
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
threading.Thread(target=work).start()
epoll.poll()
"""


def test_a_process_that_another_thread_than_the_first_replaced_is_counted_on(
    observe: Callable[..., Any],
) -> None:
    """execve(2) gives that thread the first one's number, in the middle of a call of both."""
    counts = counted_while_it_runs(observe, Build(), EXECUTED)

    assert counts.outcomes["empty"] == 1 + 509 + 1013
    assert counts.calls["epoll_wait"].calls - counts.outcomes["empty"] in (0, 1)
    assert counts.calls["execve"].calls == 1
    assert (counts.loop_threads, counts.untracked) == (1, 0)


def test_errors_without_a_place_in_the_table_are_counted_without_their_errno(
    observe: Callable[..., Any],
) -> None:
    def fill(probe: Any) -> None:
        table = probe._table("errors")
        for number in range(ERROR_ROWS):
            table[table.Key(7 << 32 | number)] = table.Leaf()

    counts = counted_while_it_runs(observe, Build(), FAILING % 1009, fill)

    assert counts.calls["close"].calls == 1009
    assert counts.calls["close"].errors == {"unknown": 1009}
    assert counts.unnamed_errors == 1009


SPINNING = """
import os, select
select.epoll().poll(0)
os.write(1, b"spinning\\n")
while True:
    pass
"""


def test_a_program_of_ours_that_is_preempted_is_a_doubt(observe: Callable[..., Any]) -> None:
    """No kernel that we have does it: the mark is made by hand, while the thread is on its CPU."""
    with subprocess.Popen(
        [sys.executable, "-c", SPINNING], stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spinning\n"
        observation = observe(Wanted(pids=(process.pid,)))
        notes = observation.probe._table("notes")

        def is_noticed() -> int:
            marked = notes.Leaf()
            for cpu in marked:
                cpu.busy = 1
            notes[ctypes.c_int(0)] = marked
            return int(observation.counts().untracked)

        wait_until(is_noticed, "the thread leaves its CPU")
        process.kill()


FLITTING = """
import os, select, socket, threading
CPUS, ROUNDS, THREADS = sorted(os.sched_getaffinity(0)), 499, 3
def loop():
    with select.epoll() as epoll:
        near, far = socket.socketpair()
        far.setblocking(False)
        epoll.register(far, select.EPOLLIN)
        for turn in range(ROUNDS):
            os.sched_setaffinity(0, {CPUS[turn % len(CPUS)]})
            epoll.poll(0)
            near.send(b"x")
            epoll.poll(0)
            far.recv(64)
            try:
                far.recv(64)
            except BlockingIOError:
                pass
    ends.append((near, far))
ends = []
os.write(1, b"hello\\n")
os.read(0, 1)
threads = [threading.Thread(target=loop) for _ in range(THREADS)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
os.write(1, b"done\\n")
os.read(0, 1)
"""


@pytest.mark.parametrize("build", [Build(), Build(lite=True)], ids=["full", "lite"])
def test_threads_that_move_between_the_cpus_at_every_turn_are_counted_exactly(
    build: Build, observe: Callable[..., Any]
) -> None:
    """What a CPU notes of a thread must not outlive its stay there, nor be taken for another's."""
    counts = counted_while_it_runs(observe, build, FLITTING)
    turns = 3 * 499

    assert counts.outcomes == dict.fromkeys(counts.outcomes, 0) | {"ready": turns, "empty": turns}
    assert counts.calls["epoll_wait"].calls == 2 * turns
    # that of a thread's first turn, and its epoll_ctl, came before its first wait
    assert counts.calls["sched_setaffinity"].calls == turns - 3
    assert counts.calls["sendto"].result_sum == counts.calls["sendto"].calls == turns
    assert counts.calls["recvfrom"].result_sum == turns
    assert counts.calls["recvfrom"].errors == {"EAGAIN": turns}
    assert counts.calls["close"].calls == 3
    assert counts.untracked == 0


FETCHED = """
import os, select, socket, threading
from tests.probes.seccomp import number_of
HERE, THERE = sorted(os.sched_getaffinity(0))[:2]
WAIT, ROUNDS = number_of("epoll_wait"), 97
epoll, (near, far) = select.epoll(), socket.socketpair()
epoll.register(far, select.EPOLLIN)
main, wanted = threading.get_native_id(), threading.Semaphore(0)
def fetch():
    os.sched_setaffinity(0, {THERE})  # no thread of ours makes a note of its own HERE
    while wanted.acquire():
        while not open(f"/proc/self/task/{main}/syscall").read().startswith(f"{WAIT} "):
            pass
        os.sched_setaffinity(main, {HERE})
        near.send(b"x")
threading.Thread(target=fetch, daemon=True).start()
os.sched_setaffinity(0, {HERE})
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
for _ in range(ROUNDS):
    os.sched_setaffinity(0, {THERE})
    wanted.release()
    epoll.poll()
    far.recv(64)
os.write(1, b"done\\n")
os.read(0, 1)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
@pytest.mark.parametrize("build", [Build(), Build(lite=True)], ids=["full", "lite"])
def test_a_thread_fetched_back_to_a_cpu_in_its_sleep_returns_from_its_wait(
    build: Build, observe: Callable[..., Any]
) -> None:
    """It left that CPU amid another call, and a note that was still there would tell of that."""
    counts = counted_while_it_runs(observe, build, FETCHED)

    assert counts.outcomes == dict.fromkeys(counts.outcomes, 0) | {"wakeup": 97, "empty": 1}
    assert counts.calls["sched_setaffinity"].calls == 97
    assert counts.calls["recvfrom"].result_sum == counts.calls["recvfrom"].calls == 97
    assert counts.untracked == 0


PIECEMEAL = """
import os, select, socket, threading
from tests.probes.seccomp import number_of
ROUNDS, PIECES = 47, 7
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
epoll, (near, far) = select.epoll(), socket.socketpair()
main, wanted = threading.get_native_id(), threading.Semaphore(0)
receive = f"{number_of('recvfrom')} "
def send():
    while wanted.acquire():
        for _ in range(PIECES):
            while not open(f"/proc/self/task/{main}/syscall").read().startswith(receive):
                pass
            near.send(b"x")
threading.Thread(target=send, daemon=True).start()
os.write(1, b"hello\\n")
os.read(0, 1)
epoll.poll(0)
for _ in range(ROUNDS):
    wanted.release()
    far.recv(PIECES, socket.MSG_WAITALL)
os.write(1, b"done\\n")
os.read(0, 1)
"""


def test_a_call_that_sleeps_many_times_beside_another_thread_on_its_cpu_is_one_call(
    observe: Callable[..., Any],
) -> None:
    """At its second sleep it has no note: what that CPU's last note said is another thread's."""
    counts = counted_while_it_runs(observe, Build(), PIECEMEAL)

    assert counts.calls["recvfrom"].calls == 47
    assert counts.calls["recvfrom"].result_sum == 47 * 7
    assert counts.switches["voluntary"] >= 47
    assert counts.untracked == 0


RUNNING = """
import mmap, os, select, socket, sys
word = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1)
epoll, (near, far) = select.epoll(), socket.socketpair()
epoll.register(far, select.EPOLLIN)
epoll.poll(0)
os.write(1, b"spinning\\n")
while not word[0]:
    pass
for _ in range(1009):
    epoll.poll(0)
    near.send(b"x")
    far.recv(64)
try:  # so that it is not preempted, either
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    pass
epoll.poll(0.01)
word[0] = 2
while True:
    pass
"""


def test_a_loop_that_never_leaves_its_cpu_is_counted_from_its_next_wait_on(
    tmp_path: Path, observe: Callable[..., Any]
) -> None:
    """No switch need announce a thread: one that spins as the probe comes was never seen to start.

    Nor does it sleep again, and time that it spends running after a wait is not time blocked.
    """
    shared = tmp_path / "word"
    shared.write_bytes(b"\0")
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(shared)], stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spinning\n"
        observation = observe(Wanted(pids=(process.pid,)))
        with shared.open("r+b") as file, mmap.mmap(file.fileno(), 1) as word:
            word[0] = 1
            wait_until(lambda: word[0] == 2, "it has made its calls")
        counts = observation.counts()
        time.sleep(0.05)
        later = observation.counts()
        process.kill()

    calls = {name: call.calls for name, call in counts.calls.items()}
    assert calls.pop("sched_setscheduler") == 1
    assert calls == {"epoll_wait": 1010, "sendto": 1009, "recvfrom": 1009}
    assert (counts.outcomes["empty"], counts.outcomes["timeout"]) == (1009, 1)
    assert later.blocked_ns == counts.blocked_ns
    assert (counts.loop_threads, counts.unmatched) == (1, 0)
