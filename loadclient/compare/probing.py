"""Asks the kernel, in slices of their own, what each arm's daemon asked of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadclient import server
from loadclient.compare.bench import is_gone, loaded
from loadclient.compare.design import probed
from loadclient.compare.slices import slice_of, slice_of_the_dead
from loadclient.compare.study import KernelCounts
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.kernel import KernelWitness, of_the_kernel, within
from loadclient.runner import CannotRunError
from loadclient.server import ServerUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.compare.bench import Daemons
    from loadclient.compare.design import Step
    from loadclient.compare.study import Cell, Design
    from loadclient.daemon import Daemon
    from loadclient.network.link import Network
    from loadclient.server import Reading

REST_SECONDS = 5.0
POLL_SECONDS = 0.02


def ask_the_kernel(
    design: Design,
    daemons: Daemons,
    say: Callable[[str], None],
    network: Network | None = None,
) -> tuple[tuple[KernelCounts, ...], bool]:
    """Ask about every arm of every question; return the answers, and whether they are all.

    Where the kernel cannot be asked once it is not asked again. Raises what runs and daemons raise.
    """
    heard: list[KernelCounts] = []
    with Interrupts() as interrupts:
        try:
            for block in probed(design):
                say(f"asking the kernel about {block.cell.name}")
                with daemons.up(block.cell) as up:
                    for step in block.steps:
                        interrupts.check()
                        heard.append(_ask(design, block.cell, step, up[step.arm], network))
                        if heard[-1].unavailable:
                            return tuple(heard), True
        except InterruptedRunError:
            return tuple(heard), False
    return tuple(heard), True


def _ask(
    design: Design, cell: Cell, step: Step, daemon: Daemon, network: Network | None
) -> KernelCounts:
    """Load *daemon* once more, with the probe attached; one that ends by itself is told of.

    Raises InterruptedRunError, and what runs raise.
    """
    started = time.time()
    try:
        return _counted(design, cell, step, daemon, network)
    except (CannotRunError, ServerUnreadableError) as error:
        if not any(map(is_gone, daemon.pids)):
            raise
        dead = slice_of_the_dead(step, started, error)
        return KernelCounts(cell=cell.name, arm=step.arm, misbehaviour=dead.misbehaviour)


def _counted(
    design: Design, cell: Cell, step: Step, daemon: Daemon, network: Network | None
) -> KernelCounts:
    first = _reading(daemon)
    with KernelWitness(*daemon.pids) as witness:
        if witness.unavailable:
            return KernelCounts(cell=cell.name, arm=step.arm, unavailable=witness.unavailable)
        before, started = server.read(daemon.metrics), time.time()
        result, sights = loaded(design, cell, step, daemon, network)
        _await_departure(daemon)
        after = server.read_at_rest(daemon.metrics, REST_SECONDS)
    last = _reading(daemon) or after
    counters, around = after.since(before), last.since(first or before)
    quantities = within(*(of_the_kernel(one, witness.report) for one in (counters, around)))
    return KernelCounts(
        cell=cell.name,
        arm=step.arm,
        messages=server.count(counters, "messages_received_total"),
        kernel={q.name: q.kernel for q in quantities if q.kernel is not None},
        daemon={q.name: q.daemon for q in quantities if q.daemon is not None},
        unavailable=witness.unavailable,
        misbehaviour=slice_of(step, result, started, sights).misbehaviour,
    )


def _reading(daemon: Daemon) -> Reading | None:
    """Return what the daemon counts; None for one that is gone, which the probe can say better."""
    try:
        return server.read(daemon.metrics)
    except ServerUnreadableError:
        return None


def _await_departure(daemon: Daemon) -> None:
    """Wait until the daemon has closed our connections: those calls count too."""
    deadline = time.monotonic() + REST_SECONDS
    while server.read(daemon.metrics).gauges["connections"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
