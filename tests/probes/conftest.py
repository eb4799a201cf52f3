from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from ebpf import syscalls
from ebpf.loader import GROUPS, TARGETS, Build, Probe
from ebpf.watch import Watch
from tests.probes.rig import Exporter, Observation, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ebpf.targets import Wanted


@pytest.fixture
def workload() -> Iterator[Callable[..., Workload]]:
    started: list[Workload] = []

    def start(mode: str, **options: Any) -> Workload:
        started.append(Workload(mode, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def observe() -> Iterator[Callable[..., Observation]]:
    with contextlib.ExitStack() as stack:

        def start(wanted: Wanted, build: Build | None = None) -> Observation:
            probe = stack.enter_context(Probe(build or Build()))
            names = syscalls.names(os.uname().machine)
            watch = Watch(wanted, probe, names, slots=TARGETS, groups=GROUPS)
            stack.callback(watch.close)
            watch.refresh()
            return Observation(probe, watch)

        yield start


@pytest.fixture
def exporter() -> Iterator[Callable[..., Exporter]]:
    started: list[Exporter] = []

    def start(*arguments: str, prefix: Sequence[str] = ()) -> Exporter:
        started.append(Exporter(*arguments, prefix=prefix))
        return started[-1]

    yield start
    for process in started:
        process.stop()
