"""Runs a design: daemons up, one slice after the other, each on disk before the next.

Rule: a pair is measured together or again, by daemons that no other pair has. After an
interruption, the pairs that are whole are kept and everything else of the plan follows in its
order, so nothing tells a resumed study from an uninterrupted one but the clock. Of two daemons the
one is started first that is loaded first: who is older is by lot, too.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loadclient import server
from loadclient.compare import replacements, store
from loadclient.compare.cputime import Processors
from loadclient.compare.design import plan
from loadclient.compare.registrations import Registrations
from loadclient.compare.slices import Sights, slice_of, slice_of_the_dead
from loadclient.daemon import Daemon, running_daemon
from loadclient.instances import Place, running_instances
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.network.weather import Weather
from loadclient.options import Options
from loadclient.runner import CannotRunError
from loadclient.server import ServerUnreadableError
from loadclient.session import perform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from loadclient.compare.design import Block, Step
    from loadclient.compare.study import Arm, Cell, Design, Slice
    from loadclient.network.link import Network
    from loadclient.result import RunResult
    from loadclient.runner import Observer

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 5.0
ROUGH_DRAIN_SECONDS = 20.0  # TCP repeats what was lost after 0.2, 0.6, 1.4, 3.0, 6.2, 12.6 s


class Daemons(Protocol):
    """Somebody who has the two daemons of a cell."""

    def up(self, cell: Cell, first: str = "a") -> AbstractContextManager[dict[str, Daemon]]:
        """Return both, by the arm, as long as the block lasts; the *first* is started first."""


class Watcher(Protocol):
    """Somebody who follows the study: the progress line."""

    def measured(self, one: Slice, left: int) -> None:
        """Take note of a slice; *left* are still to come."""


class OwnDaemons:
    """Starts fresh daemons for every block, on the other side of a network if there is one.

    Several that share a port are one chat, unless they are *apart*: then nothing wakes them but
    who connects.
    """

    def __init__(self, network: Network | None = None, *, apart: bool = False) -> None:
        self._within = network.server_command if network else []
        self._flags = network.daemon_flags if network else []
        self._place = place_of(network)
        self._apart = apart

    @contextmanager
    def up(self, cell: Cell, first: str = "a") -> Iterator[dict[str, Daemon]]:
        """Run both daemons on free ports."""
        with tempfile.TemporaryDirectory(prefix="etlt-compare-") as folder, ExitStack() as stack:
            logs = Path(folder)
            yield {
                name: stack.enter_context(self._one(cell.arms[name], logs / name))
                for name in sorted(cell.arms, key=lambda name: name != first)
            }

    def _one(self, arm: Arm, logs: Path) -> AbstractContextManager[Daemon]:
        """Run one daemon, or as many as share a port."""
        logs.mkdir()
        if not arm.listener:
            words = [*self._flags, *flags(arm)]
            return running_daemon(arm.mode, logs / "log", *words, within=self._within)
        return running_instances(
            arm.mode,
            logs,
            arm.instances,
            *flags(arm),
            listener=arm.listener,
            place=self._place,
            is_joined=not self._apart,
        )


def place_of(network: Network | None) -> Place:
    """Return where daemons run: here, or on the server's side of a network."""
    if network is None:
        return Place()
    _, host, _, aside = network.daemon_flags
    return Place(host, aside, network.server_command, network.server)


class GivenDaemons:
    """Uses two daemons that somebody else runs; nothing is restarted."""

    def __init__(self, a: Daemon, b: Daemon) -> None:
        self._given = {"a": a, "b": b}

    @contextmanager
    def up(self, cell: Cell, first: str = "a") -> Iterator[dict[str, Daemon]]:  # noqa: ARG002 - they run
        """Return both; for the A/A arm the second one twice."""
        yield {"a": self._given["b"], "b": self._given["b"]} if cell.control else self._given


def mode_of(daemon: Daemon) -> str:
    """Return the mode that a daemon's metrics say.

    Raises ServerUnreadableError.
    """
    return server.read(daemon.metrics).mode


class Bench:
    """One study under way."""

    def __init__(
        self,
        design: Design,
        path: Path,
        daemons: Daemons,
        watcher: Watcher,
        network: Network | None = None,
    ) -> None:
        self._design = design
        self._network = network
        self._path = path
        self._daemons = daemons
        self._watcher = watcher
        self._done: dict[int, Slice] = {}

    def measure(self, done: Mapping[int, Slice]) -> bool:
        """Measure what the plan asks for beyond *done*; return whether that was all.

        False means that somebody asked to stop. Raises what a run and the daemons raise.
        """
        self._done = dict(done)
        with Interrupts() as interrupts:
            try:
                self._round(plan(self._design), interrupts)
                while blocks := replacements.due(self._design, self._done.values()):
                    self._round(blocks, interrupts)
            except InterruptedRunError:
                return False
        return True

    def _round(self, blocks: Iterable[Block], interrupts: Interrupts) -> None:
        for block in blocks:
            steps = missing(block, self._done)
            if steps:
                self._block(block, steps, interrupts)

    def _block(self, block: Block, steps: list[Step], interrupts: Interrupts) -> None:
        with self._daemons.up(block.cell, steps[0].arm) as daemons:
            for step in steps:
                interrupts.check()
                one = self._slice(block.cell, step, daemons[step.arm])
                store.append(self._path, one)
                self._done[one.index] = one
                self._watcher.measured(one, left(self._design, self._done))

    def _slice(self, cell: Cell, step: Step, daemon: Daemon) -> Slice:
        started = time.time()
        try:
            result, sights = loaded(self._design, cell, step, daemon, self._network)
        except (CannotRunError, ServerUnreadableError) as error:
            if any(map(is_gone, daemon.pids)):
                store.append(self._path, slice_of_the_dead(step, started, error))
            raise
        return slice_of(step, result, started, sights)


def loaded(
    design: Design, cell: Cell, step: Step, daemon: Daemon, network: Network | None
) -> tuple[RunResult, Sights]:
    """Load *daemon* as *step* asks; return what came of it, and what was seen besides.

    Raises InterruptedRunError, and what runs raise.
    """
    weather = Weather(network) if network else None
    registrations = Registrations(*daemon.pids)
    options = load(design, cell, step, daemon)
    processors = Processors(*daemon.pids)
    observers: list[Observer] = [registrations, processors, *([weather] if weather else [])]
    result = perform(options, daemon.address, observers)
    if result.interrupted:
        raise InterruptedRunError
    frames = weather.counts if weather else {}
    return result, Sights(frames, registrations.counts, processors.seconds)


def is_gone(pid: int) -> bool:
    """Whether a process has ended by itself; 0 is somebody else's, of which nothing is known."""
    if not pid:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # a zombie, proc(5)


def missing(block: Block, done: Mapping[int, Slice]) -> list[Step]:
    """Return the steps of a block whose pairs are not whole yet."""
    broken = {step.pair for step in block.steps if step.index not in done}
    return [step for step in block.steps if step.pair in broken]


def left(design: Design, done: Mapping[int, Slice]) -> int:
    """Return how many slices are to come, if all of them are valid."""
    planned = sum(step.index not in done for block in plan(design) for step in block.steps)
    return planned + replacements.owed(design, done.values())


def load(design: Design, cell: Cell, step: Step, daemon: Daemon) -> Options:
    """Return the options of one slice's run."""
    shape = cell.shape
    alike = {"rate": shape.rate, "senders": shape.senders, "msg_bytes": cell.msg_bytes}
    return Options(
        **({"mix": shape.mix} if shape.mix else alike),
        conns=shape.conns,
        slow_readers=shape.slow_readers,
        slow_reader_rate=shape.slow_reader_rate,
        never_readers=shape.never_readers,
        churn=shape.churn,
        rcvbuf=shape.rcvbuf,
        burst=shape.burst,
        procs=shape.procs,
        duration=design.slice_seconds,
        warmup=design.settle_seconds,
        connect_timeout=CONNECT_SECONDS,
        drain_timeout=ROUGH_DRAIN_SECONDS if design.netem else DRAIN_SECONDS,
        server_metrics=daemon.metrics,
        run_id=f"slice-{step.index}",
        quiet=True,
    )


def flags(arm: Arm) -> list[str]:
    """Return the words on the daemon's command line that make the arm what it is."""
    options = {name: value for name, value in arm.options.items() if name != "listener"}
    return [word for name, value in options.items() for word in (f"--{name}", value)]
