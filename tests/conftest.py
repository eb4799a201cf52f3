from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest
from _pytest.nodeid import NodeId

from tests.bpf import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
MARK = "ETLT_TESTS"  # in the environment of all that these tests start: whose they are

# What shares something that takes long to start, or would make each other late, stays on one worker
# of pytest-xdist.
TOGETHER = {
    "load/network": "load",
    "load/test_own_limits.py": "load",
    "load/test_parts.py": "load",
    "load/compare/test_command.py": "load",
    "load/compare/test_search.py": "load",
    "probes": "probes",  # some look for their own program by its name
    "deploy/containers": "engine",
    "deploy/test_systemd_boot.py": "systemd",
    "load/compare/test_ancova.py": "ancova",  # these three simulate studies, and draw pages, once
    "load/compare/test_html.py": "html",
    "load/compare/test_verdicts.py": "verdicts",
    "boards/test_instances.py": "scene",
    "boards/test_on_prometheus.py": "scene",
    "boards/test_render.py": "scene",
}


# A deadline of wall-clock time would say how busy the machine is.
hypothesis.settings.register_profile("etlt", deadline=None)
hypothesis.settings.load_profile("etlt")


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C mean something to what the tests start, also where they are a background job."""
    if not hasattr(config, "workerinput"):
        os.environ[MARK] = str(os.getpid())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing running: a worker that Ctrl-C ends has no time to stop what it started."""
    if hasattr(config, "workerinput"):
        return
    for process in psutil.process_iter(["environ"]):
        environment = process.info["environ"] or {}
        if environment.get(MARK) == str(os.getpid()) != str(process.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # pytest-xdist reads the groups in between
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Keep together what shares; skip what needs bpf(2) where the kernel refuses it."""
    reason = refusal()
    for item in items:
        if "load" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("load"))
        for path, group in TOGETHER.items():
            if item.path.is_relative_to(HERE / path):
                item.add_marker(pytest.mark.xdist_group(group))
        if reason and item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=f"bpf(2): {reason}"))
    yield
    for item in items:  # from pytest 9.2 on, the name that pytest-xdist 3.8 gives is not looked at
        if named := getattr(item, "_nodeid", None):
            item._id = NodeId.parse(named)
