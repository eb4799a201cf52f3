"""What is said of this process agrees with what the kernel says elsewhere."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path

import pytest

from etltd import process


def test_cpu_time_is_finer_than_the_ticks_of_proc() -> None:
    """In 10 ms steps, the cost of a short run would be noise."""
    steps: set[int] = set()
    while len(steps) < 3:
        used = process.usage()
        steps.add(round((used.user_seconds + used.system_seconds) * 1e6) % 10_000)

    assert process.usage().user_seconds > 0


def test_descriptors_and_memory_are_this_process_s() -> None:
    before = process.usage()
    extra = os.dup(0)
    after = process.usage()
    os.close(extra)

    assert after.open_fds == before.open_fds + 1
    assert before.open_fds == len(list(Path("/proc/self/fd").iterdir())) - 1
    assert after.max_fds == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    status = Path("/proc/self/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    assert after.resident_bytes == pytest.approx(resident, rel=0.2)
    assert after.voluntary_switches > 0
    assert after.involuntary_switches >= 0


def test_the_start_time_is_a_unix_time_in_the_past() -> None:
    assert time.time() - 3600 * 24 < process.started_seconds() < time.time()


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        assert process.raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_limit_at_all_becomes_the_kernel_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """setrlimit(2): RLIM_INFINITY for NOFILE is over fs.nr_open and would be refused."""
    limits: list[tuple[int, int]] = []
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, infinite))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))

    assert process.raise_descriptor_limit() == 1 << 20
    assert limits == [(1 << 20, 1 << 20)]


def test_a_thread_has_the_name_that_the_probe_looks_for() -> None:
    names = []

    def show() -> None:
        process.name_thread("etltd-et")
        task = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        names.append(task.read_text())

    thread = threading.Thread(target=show)
    thread.start()
    thread.join()

    assert names == ["etltd-et\n"]
