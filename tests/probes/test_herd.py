"""The thundering herd as the kernel sees it: which loops wake for a connection to a shared port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.probes.rig import Exporter, wait_until
from tests.system.herd import Herd, Starter
from tests.system.rig import total

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kernel, pytest.mark.system]

CONNECTIONS = 29


def kernel_count(exporter: Exporter, name: str, **labels: str) -> float:
    """Return what the probe counted of *name* over all that it watches."""
    wanted = set(labels.items())
    return sum(
        value
        for (series, found), value in exporter.samples().items()
        if series == name and wanted <= found
    )


def waits_with_events(exporter: Exporter) -> float:
    return sum(
        kernel_count(exporter, "epoll_waits_total", outcome=outcome)
        for outcome in ("wakeup", "ready")
    )


def wakeups(herd: Herd) -> float:
    return sum(total(daemon.metrics(), "epoll_wakeups_total") for daemon in herd.daemons)


def at_a_quiet_moment(exporter: Exporter, herd: Herd) -> tuple[float, float]:
    """Return what both count, read twice and found unmoved: hanging up wakes the loops, too."""
    readings = [(-1.0, -1.0)]

    def is_quiet() -> bool:
        readings.append((waits_with_events(exporter), wakeups(herd)))
        return readings[-1] == readings[-2]

    wait_until(is_quiet, "the loops are quiet")
    return readings[-1]


@pytest.mark.parametrize("listener", ["exclusive", "shared"])
def test_the_kernel_counts_the_herd_as_the_daemons_do(tmp_path: Path, listener: str) -> None:
    """A herd that only the daemons had seen could be a fault of their counters."""
    with Starter(tmp_path) as starter:
        herd = starter.start("lt", listener, 3)
        exporter = Exporter(*(word for d in herd.daemons for word in ("--pid", str(d.pid))))
        try:
            wait_until(lambda: kernel_count(exporter, "target_up") >= 1, "the probe has them")
            waits, own = at_a_quiet_moment(exporter, herd)
            slept = kernel_count(exporter, "context_switches_total", kind="voluntary")

            woken = herd.connect(CONNECTIONS)

            waits_after, own_after = at_a_quiet_moment(exporter, herd)
            assert waits_after - waits == own_after - own
            slept = kernel_count(exporter, "context_switches_total", kind="voluntary") - slept
            assert slept >= woken.sleeps
            assert (woken.sleeps > 2 * CONNECTIONS) == (listener == "shared")
        finally:
            exporter.stop()
