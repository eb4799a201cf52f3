"""The ways in which people run it: each must load, find its target and count exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ebpf.decode import OUTCOMES, WAITS
from tests.probes.rig import PROBE, REPOSITORY, leaf, syscall_of, wait_until
from tests.unmeasured import unmeasured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from tests.probes.rig import Exporter

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take privileges away"),
]

NOBODY = "65534"
TWO_CAPABILITIES = "-all,+bpf,+perfmon"
SETPRIV = ("setpriv", "--no-new-privs", f"--bounding-set={TWO_CAPABILITIES}")
AS_NOBODY = (
    *SETPRIV,
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    f"--inh-caps={TWO_CAPABILITIES}",
    f"--ambient-caps={TWO_CAPABILITIES}",
)
AS_BARE_ROOT = (*SETPRIV, f"--inh-caps={TWO_CAPABILITIES}")
HIDE_HEADERS = "for d in /lib/modules /usr/src; do [ -d $d ] && mount -t tmpfs none $d; done; "
READ_ONLY = "mount -o remount,bind,ro / && touch /etc/hostname 2>/dev/null && exit 9; "
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
TRACEFS = "mount -t tracefs none /sys/kernel/tracing; "


def in_private_mounts(setup: str, *then: str) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-c", f'{setup} exec "$@"', "sh", *then)


def counted(exporter: Exporter) -> dict[str, float]:
    samples = exporter.samples()
    values: dict[str, float] = {}
    for (name, labels), value in samples.items():
        by = dict(labels)
        if name == "syscalls_total":
            values[by["syscall"]] = value
        elif name == "epoll_waits_total":
            values[by["outcome"]] = value
        elif name == "epoll_ctl_total":
            values[by["op"]] = value
        elif name == "epoll_events_per_wait_sum":
            values["events"] = value
    return values


def check_exactness(target: Any, exporter: Exporter) -> None:
    target.arm()
    before = counted(exporter)
    truth = target.run()
    after = counted(exporter)
    names = [*OUTCOMES, "add", "mod", "del", "events"]
    names += ["epoll_wait", "recvfrom", "sendto", "sendmsg", "accept4", "close", "read", "write"]
    assert {name: after[name] - before.get(name, 0) for name in names} == {
        name: truth.get(name, 0) for name in names
    }


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param((), id="root"),
        pytest.param(AS_NOBODY, id="uid-65534-ambient-bpf-perfmon"),
        pytest.param(AS_BARE_ROOT, id="uid-0-bpf-perfmon-only"),
        pytest.param(in_private_mounts(HIDE_HEADERS), id="no-kernel-headers"),
        pytest.param(in_private_mounts(READ_ONLY, *AS_NOBODY), id="read-only-root-file-system"),
    ],
)
def test_two_capabilities_and_nothing_else_are_enough(
    prefix: tuple[str, ...], workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """No header, no mount, no tracefs, no writable directory, no root."""
    target = workload("et", rounds=97)
    check_exactness(target, exporter("--pid", str(target.pid), prefix=prefix))


@pytest.mark.parametrize("lite", [(), ("--lite",)], ids=["full", "lite"])
def test_perf_tracepoints_count_the_same(
    lite: tuple[str, ...], workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """Kernels before 5.18 have no raw sched_switch with the previous state."""
    target = workload("lt", rounds=97)
    prefix = in_private_mounts(TRACEFS)
    options = ("--pid", str(target.pid), "--attach", "perf", *lite)
    check_exactness(target, exporter(*options, prefix=prefix))


def test_a_shared_pid_namespace_is_enough(
    workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """As in `docker run --pid container:NAME`: pid 1 is the server, the kernel's number unknown."""
    prefix = ("unshare", "--pid", "--fork", "--mount-proc")
    target = workload("et", rounds=97, prefix=prefix)
    enter = ("nsenter", f"--target={target.pid}", "--pid", "--mount", *AS_NOBODY)
    check_exactness(target, exporter("--pid", "1", prefix=enter))


def test_a_pid_namespace_below_ours_is_looked_into(
    workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """A probe in a container, a server in a container inside it."""
    outer = workload("lt", rounds=11, prefix=("unshare", "--pid", "--fork", "--mount-proc"))
    enter = ("nsenter", f"--target={outer.pid}", "--pid", "--mount")
    inner = workload("et", rounds=97, prefix=(*enter, "unshare", "--pid", "--fork"))
    check_exactness(inner, exporter("--comm", "selfcount-et", prefix=enter))


def test_a_namespace_that_may_not_be_looked_into_is_refused_in_a_sentence(
    workload: Callable[..., Any],
) -> None:
    outer = workload("lt", rounds=11, prefix=("unshare", "--pid", "--fork", "--mount-proc"))
    enter = ("nsenter", f"--target={outer.pid}", "--pid", "--mount")
    workload("et", rounds=11, prefix=(*enter, "unshare", "--pid", "--fork"))
    result = subprocess.run(
        [*enter, *AS_BARE_ROOT, *PROBE, "--comm", "selfcount-et", "--once"],
        env=unmeasured(),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )

    assert result.returncode == 1
    assert "add CAP_SYS_PTRACE" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_namespace_that_may_not_be_looked_into_does_not_end_the_exporter(
    workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """Somebody starts a container whose process bears the name: the others are still counted."""
    outer = workload("lt", rounds=97, prefix=NAMESPACE)
    enter = ("nsenter", f"--target={outer.pid}", "--pid", "--mount")
    probe = exporter("--comm", "selfcount", prefix=(*enter, *AS_BARE_ROOT))
    workload("et", rounds=11, prefix=(*enter, "unshare", "--pid", "--fork"))
    probe.wait_for("not counted: process .* add CAP_SYS_PTRACE")

    check_exactness(outer, probe)
    assert probe.samples()["targets_unwatched", frozenset()] == 2  # it, and the child it forks


IDLE_SERVER = """
import os, select
epoll = select.epoll()
epoll.register(0, select.EPOLLIN)
os.write(1, b"hello\\n")
while epoll.poll() and os.read(0, 1):
    for _ in range(97):
        os.write(1, b"x")
"""


@pytest.fixture
def idle_server() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Start a server that is in its first wait; a byte ends it, and is answered by 97 writes."""
    started = []

    def start(*prefix: str) -> tuple[subprocess.Popen[bytes], int]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", IDLE_SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        pid = leaf(process.pid)
        wait_until(lambda: syscall_of(pid) in WAITS, "it waits")
        return process, pid

    yield start
    for process in started:
        process.communicate()


@pytest.mark.parametrize(
    ("around", "options"),
    [
        pytest.param(NAMESPACE, (), id="shared-pid-namespace"),
        pytest.param(NAMESPACE, ("--lite",), id="shared-pid-namespace-lite"),
        pytest.param(NAMESPACE, ("--all-threads",), id="shared-pid-namespace-all-threads"),
        pytest.param((), (), id="no-ptrace"),
        pytest.param((), ("--attach", "perf"), id="no-ptrace-perf"),
    ],
)
def test_the_wait_in_progress_and_its_tick_are_counted_without_a_look_at_the_threads(
    around: tuple[str, ...],
    options: tuple[str, ...],
    idle_server: Callable[..., tuple[subprocess.Popen[bytes], int]],
    exporter: Callable[..., Exporter],
) -> None:
    """An idle server is one wait; what ends it was lost, and the report said `complete`."""
    process, pid = idle_server(*around)
    enter = ("nsenter", f"--target={pid}", "--pid", "--mount") if around else ()
    user = in_private_mounts(TRACEFS, *SETPRIV) if "perf" in options else AS_NOBODY
    probe = exporter("--pid", "1" if around else str(pid), *options, prefix=(*enter, *user))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"g")
    assert sum(len(process.stdout.read(1)) for _ in range(97)) == 97
    wait_until(lambda: syscall_of(pid) in WAITS, "it waits again")

    counts = counted(probe)

    assert {name: counts[name] for name in ("wakeup", "epoll_wait", "events", "read", "write")} == {
        "wakeup": 1,
        "epoll_wait": 1,
        "events": 1,
        "read": 1,
        "write": 97,
    }


@pytest.mark.parametrize(
    ("hidepid", "said"),
    [("1", "may not be read (hidepid)"), ("2", "where /proc hides other users' processes")],
)
def test_a_proc_that_hides_the_target_is_a_sentence(
    hidepid: str, said: str, workload: Callable[..., Any]
) -> None:
    target = workload("lt", rounds=11)
    hide = f"mount -t proc -o hidepid={hidepid} proc /proc;"
    result = subprocess.run(
        [*in_private_mounts(hide, *AS_NOBODY), *PROBE, "--once", "--pid", str(target.pid)],
        env=unmeasured(),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )

    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_tracefs_that_may_not_be_read_is_a_sentence(workload: Callable[..., Any]) -> None:
    target = workload("lt", rounds=11)
    command = (*PROBE, "--once", "--attach", "perf", "--pid", str(target.pid))
    result = subprocess.run(
        [*in_private_mounts(TRACEFS, *AS_NOBODY), *command],
        env=unmeasured(),  # nobody may not write the file of a coverage measurement
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )

    assert result.returncode == 1
    assert "add CAP_DAC_READ_SEARCH" in result.stderr
    assert result.stderr.count("\n") == 1
