"""The probe states its own price, when it is asked to."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ebpf import kernel, sampling
from tests.probes.rig import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.probes.rig import Exporter

PROGRAMS = ("sys_enter", "sys_exit", "sched_switch")


def test_a_sample_that_cannot_be_taken_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor was free for it, once: there were no samples ever after, and a traceback."""
    fails = iter((False, False, True, True, False))  # the first is asked for by start()
    has_gone_on = threading.Event()

    def enable() -> int:
        failing = next(fails, None)
        if failing:
            raise OSError(errno.EMFILE, "Too many open files")
        if failing is None:
            has_gone_on.set()
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(kernel, "enable_run_statistics", enable)
    monkeypatch.setattr(sampling, "ON_SECONDS", 0.001)
    monkeypatch.setattr(sampling, "EVERY_SECONDS", 0.002)
    sampler = sampling.RunTimeSampler().start()
    assert has_gone_on.wait(PATIENCE_SECONDS)
    sampler.stop()


@pytest.mark.kernel
def test_run_time_is_sampled_from_the_start(
    workload: Callable[..., Any], exporter: Callable[..., Exporter]
) -> None:
    """Mean cost of a run is seconds by runs; both grow only while they are sampled."""
    target = workload("et", rounds=11)
    probe = exporter("--pid", str(target.pid), "--stats")

    def is_sampled(program: str) -> bool:
        by = frozenset({("program", program)})
        samples = probe.samples()
        runs = samples["bpf_runs_total", by]
        return runs > 0 and 0 < samples["bpf_run_seconds_total", by] / runs < 1e-3

    wait_until(lambda: all(map(is_sampled, PROGRAMS)), "all programs are sampled")
    assert probe.stop() == 0
