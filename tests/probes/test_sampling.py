"""The probe states its own price, when it is asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.probes.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.probes.rig import Exporter

PROGRAMS = ("sys_enter", "sys_exit", "sched_switch")


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
