"""The ways in which people run it: each must load, find its target and count exactly."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ebpf.decode import OUTCOMES
from tests.probes.rig import PROBE, REPOSITORY
from tests.unmeasured import unmeasured

if TYPE_CHECKING:
    from collections.abc import Callable
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


def once(target: Any, *prefix: str) -> dict[str, Any]:
    result = subprocess.run(
        [*prefix, *PROBE, "--once", "--json", "--pid", str(target.pid), "--duration", "0.1"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def test_without_a_look_at_the_threads_the_counts_are_not_called_complete(
    workload: Callable[..., Any],
) -> None:
    """An idle server waits: that wait and what ends it are missing, and nothing else says so."""
    target = workload("et", rounds=11)
    target.arm()
    blind, seeing = once(target, *AS_NOBODY), once(target)

    assert blind["complete"] is False
    assert any(
        "the threads of selfcount-et could not be seen (needs CAP_SYS_PTRACE)" in sentence
        for sentence in blind["doubts"]
    )
    assert not any("CAP_SYS_PTRACE" in sentence for sentence in seeing["doubts"])


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
