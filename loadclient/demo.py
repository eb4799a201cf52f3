"""Both modes under the same load, in one table: what `make demo` shows.

Each mode has two runs: one for times, and a short one in which the kernel's probe counts too.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from loadclient.daemon import running_daemon
from loadclient.interrupts import InterruptedRunError
from loadclient.kernel import Accounts, KernelWitness, Quantity, of_the_kernel
from loadclient.options import (
    MOST_SECONDS,
    Options,
    UsageError,
    check,
    finite,
    path,
    whole,
)
from loadclient.report import duration, figure, server_costs
from loadclient.server import count, read, read_at_rest
from loadclient.session import perform
from loadclient.streams import printable, unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadclient.daemon import Daemon
    from loadclient.result import RunResult

MODES = ("lt", "et")
VERDICTS = {True: "yes", False: "NO", None: ""}  # None: one witness alone shows nothing
POLL_SECONDS = 0.02
WITNESS_SECONDS = 2.0  # of load while the kernel counts too: counts need no long run
REST_SECONDS = 5.0
PLAIN_WIDTH = 80  # where no terminal says how wide it is: in a log, over ssh without one
EVERYTHING = "Shown: both modes deliver every message, and what that cost this once."
NOT_EVERYTHING = (
    "Shown: not every copy was delivered (the ratio is below 1), and each one that was not is "
    "accounted for: the daemon withheld it and said so."
)
CAVEAT = (
    "Not shown: which mode is better. Two runs of one and the same server differ by as much; only "
    "repeated, interleaved pairs can tell."
)
NOTHING_SHOWN = "An invalid run shows nothing but its reasons."


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The load of the demonstration, the same for each mode."""

    conns: Annotated[int, Parameter(converter=whole, validator=Number(gte=2))] = 100
    """Connections; all of them send and receive."""
    rate: Annotated[float, Parameter(converter=finite, validator=Number(gte=0.1, lte=100_000))] = (
        20.0
    )
    """Messages per second of each connection."""
    duration: Annotated[
        float, Parameter(converter=finite, validator=Number(gte=0.5, lte=MOST_SECONDS))
    ] = 10.0
    """Seconds of load in each mode, after a warm-up of two."""
    report: Annotated[Path, Parameter(converter=path, n_tokens=1)] = Path("report")
    """Folder for the results as JSON and the daemon's logs; made if need be."""


DEFAULTS = DemoOptions()


def prepare(options: DemoOptions) -> None:
    """Make the folder and refuse a load that contradicts itself, before any daemon is started.

    Raises UsageError.
    """
    check(Options(conns=options.conns, rate=options.rate, duration=options.duration))
    try:
        options.report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f'--report "{options.report}": no such folder can be made: {error.strerror}.'
        ) from error


def measure(mode: str, options: DemoOptions) -> RunResult:
    """Start a daemon in *mode*, load it, stop it.

    Raises DaemonFailedError, and what a run raises.
    """
    with running_daemon(mode, options.report / f"demo-{mode}.log") as daemon:
        run = Options(
            conns=options.conns,
            rate=options.rate,
            duration=options.duration,
            server_metrics=daemon.metrics,
            run_id=f"demo-{mode}",
            json=options.report / f"demo-{mode}.json",
            quiet=not unheard(sys.stderr).isatty(),
        )
        return perform(run, daemon.address, [])


def question(mode: str, options: DemoOptions) -> Accounts:
    """Load a daemon in *mode* once more, shortly, and ask client, daemon and kernel what happened.

    Raises DaemonFailedError, InterruptedRunError, and what a run raises.
    """
    with running_daemon(mode, options.report / f"witness-{mode}.log") as daemon:
        run = Options(
            conns=options.conns,
            rate=options.rate,
            duration=WITNESS_SECONDS,
            warmup=0,
            server_metrics=daemon.metrics,
            run_id=f"witness-{mode}",
            quiet=True,
        )
        with KernelWitness(daemon.pid) as witness:
            before = read(daemon.metrics)
            result = perform(run, daemon.address, [])
            if result.interrupted:  # half a run's counts agree with nobody's
                raise InterruptedRunError
            _await_departure(daemon)
            after = read_at_rest(daemon.metrics, REST_SECONDS)
    counted = (result.server or {}).get("counters", {})
    quantities = [
        Quantity(
            "messages",
            client=result.messages_sent,
            daemon=count(counted, "messages_received_total"),
        ),
        Quantity(
            "copies delivered",
            client=result.messages_received,
            daemon=count(counted, "messages_delivered_total"),
        ),
        *of_the_kernel(after.since(before), witness.report),
    ]
    return Accounts(result.mode, quantities, witness.unavailable)


def _await_departure(daemon: Daemon) -> None:
    """Wait until the daemon has closed the client's connections: those calls count too."""
    deadline = time.monotonic() + REST_SECONDS
    while read(daemon.metrics).gauges["connections"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _cost(name: str) -> Callable[[RunResult], str]:
    return lambda result: figure((server_costs(result) or {}).get(name))


def _latency(name: str) -> Callable[[RunResult], str]:
    return lambda result: duration((result.latency_seconds or {}).get(name))


ROWS: tuple[tuple[str, Callable[[RunResult], str]], ...] = (
    ("messages sent", lambda result: f"{result.messages_sent:,}"),
    ("copies delivered", lambda result: f"{result.messages_received:,}"),
    ("delivery ratio", lambda result: f"{result.delivery_ratio or 0:.6f}"),
    ("latency p50", _latency("p50")),
    ("latency p99", _latency("p99")),
    ("server CPU ns per delivery", _cost("cpu_ns_per_delivery")),
    ("wakeups per message", _cost("wakeups_per_message")),
    ("system calls per message", _cost("syscalls_per_message")),
    ("accounts balance", lambda result: "yes" if result.valid else "NO"),
)


def print_table(results: list[RunResult]) -> None:
    """Print all runs side by side, and what may be concluded."""
    console = _console()
    table = Table()
    _add_columns(table, words=["mode"], figures=[result.mode for result in results])
    for name, cell in ROWS:
        table.add_row(name, *map(cell, results))
    console.print(table)
    for result in results:
        for reason in result.invalid_reasons:
            console.print(f"{result.run_id} is invalid: {printable(reason)}", markup=False)
    console.print(conclusion(results))


def conclusion(results: list[RunResult]) -> str:
    """Return what may be concluded. A run that lost what it was told it would lose is valid too."""
    if not all(result.valid for result in results):
        return NOTHING_SHOWN
    whole = all(result.messages_received == result.messages_expected for result in results)
    return f"{EVERYTHING if whole else NOT_EVERYTHING} {CAVEAT}"


def print_witnesses(all_accounts: list[Accounts]) -> bool:
    """Print what client, daemon and kernel counted, side by side; tell whether nobody disagrees."""
    console = _console()
    table = Table(title="Three witnesses of a short run in each mode")
    _add_columns(table, ["counted", "mode"], ["client", "daemon", "kernel"], ["agree"])
    for rows in zip(*(accounts.quantities for accounts in all_accounts), strict=True):
        for accounts, row in zip(all_accounts, rows, strict=True):
            name = row.name if row is rows[0] else ""
            table.add_row(name, accounts.mode, *_cells(row))
    console.print(table)
    for sentence in dict.fromkeys(d.unavailable for d in all_accounts if d.unavailable):
        console.print(f"The kernel's witness is missing. {printable(sentence)}", markup=False)
    agree = all(row.agrees is not False for one in all_accounts for row in one.quantities)
    if not agree:
        console.print("The witnesses DISAGREE: do not believe these counts.")
    return agree


def _add_columns(
    table: Table, words: Sequence[str], figures: Sequence[str], more_words: Sequence[str] = ()
) -> None:
    """Add columns that a narrow terminal folds and never cuts: half a figure is a wrong one."""
    for name in words:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", overflow="fold")
    for name in more_words:
        table.add_column(name, overflow="fold")


def _cells(row: Quantity) -> tuple[str, str, str, str]:
    said = (row.client, row.daemon, row.kernel)
    client, daemon, kernel = ("" if value is None else f"{value:,.0f}" for value in said)
    return client, daemon, kernel, VERDICTS[row.agrees]


def _console() -> Console:
    stream = unheard(sys.stdout, raw=True)
    console = Console(file=stream, highlight=False)
    if console.is_terminal:
        return console
    return Console(file=stream, highlight=False, width=PLAIN_WIDTH)
