"""Asks the kernel who wakes for a connection to a port that several loops share.

The loops are apart (no bus), and connections come one by one while all of them sleep: nothing else
wakes anybody. The scheduler's count is the one that matters: a loop that was woken in vain mostly
finds the listener empty before epoll_wait returns, and sleeps on without a word.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from loadclient import server
from loadclient.compare.study import Woken
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.kernel import KernelWitness
from loadclient.server import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.compare.bench import Daemons
    from loadclient.compare.study import Cell, Design
    from loadclient.daemon import Daemon

CONNECTIONS = 50
PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.001


def ask_who_wakes(
    design: Design, daemons: Daemons, say: Callable[[str], None]
) -> tuple[tuple[Woken, ...], bool]:
    """Ask about every arm whose loops share a port; return the answers, and whether they are all.

    Where the kernel cannot be asked once it is not asked again. Raises what daemons raise.
    """
    heard: list[Woken] = []
    asked: set[tuple[str, str, int]] = set()
    with Interrupts() as interrupts:
        try:
            for cell in (one for one in design.cells if not one.control and is_shared(one)):
                ports = {(arm.mode, arm.listener, arm.instances) for arm in (cell.a, cell.b)}
                if ports <= asked:  # the load is no matter here
                    continue
                asked |= ports
                say(f"asking the kernel who wakes for a connection: {cell.name}")
                with daemons.up(cell) as up:
                    for arm in "ab":
                        interrupts.check()
                        heard.append(_ask(cell, arm, up[arm]))
                        if heard[-1].unavailable:
                            return tuple(heard), True
        except InterruptedRunError:
            return tuple(heard), False
    return tuple(heard), True


def is_shared(cell: Cell) -> bool:
    """Tell whether somebody shares a port here."""
    return bool(cell.a.listener or cell.b.listener)


def _ask(cell: Cell, arm: str, daemon: Daemon) -> Woken:
    """Connect one by one, with the probe attached; nothing is scraped meanwhile."""
    before = server.read(daemon.metrics)
    with ExitStack() as held:
        with KernelWitness(*daemon.pids) as witness:
            if witness.unavailable:
                return Woken(cell=cell.name, arm=arm, unavailable=witness.unavailable)
            for _ in range(CONNECTIONS):
                _await(lambda: all(map(_sleeps, daemon.pids)))
                held_by_all = _descriptors(daemon)
                held.enter_context(socket.create_connection(daemon.address, PATIENCE_SECONDS))
                _await(lambda n=held_by_all: _descriptors(daemon) > n)  # type: ignore[misc]
            _await(lambda: all(map(_sleeps, daemon.pids)))
        spent = server.read(daemon.metrics).since(before)
    if witness.report is None:
        return Woken(cell=cell.name, arm=arm, unavailable=witness.unavailable)
    (group,) = witness.report["groups"]
    waits = group["epoll_waits"]
    return Woken(
        cell=cell.name,
        arm=arm,
        connections=CONNECTIONS,
        loops=group["context_switches"]["voluntary"] - waits.get("timeout", 0),
        returns=count(spent, "epoll_events_total", "accept"),
        in_vain=count(spent, "syscall_eagain_total", "accept4") - CONNECTIONS,
    )


def _await(holds: Callable[[], bool]) -> None:
    """Wait until something holds, or for so long that the counts will say that it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _descriptors(daemon: Daemon) -> int:
    """Count what the daemons hold: looking at them from outside wakes nobody."""
    return sum(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in daemon.pids)


def _sleeps(pid: int) -> bool:
    """Tell whether a loop thread, a process's first, sleeps."""
    _, _, rest = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")
    return rest.split()[0] == "S"
