"""A run from its options to its files: what the commands share."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from loadclient.progress import LiveLine
from loadclient.runner import CannotRunError, Run
from loadclient.series import as_csv
from loadclient.server import read
from loadclient.totals import Frames
from loadclient.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.options import Options
    from loadclient.result import RunResult
    from loadclient.runner import Evidence, Observer

GONE_SECONDS = 2.0  # for a server to see that connections were closed
POLL_SECONDS = 0.02
SPOKEN = 50  # characters of a name in that of its temporary file, which may have 255 bytes


class NotWrittenError(Exception):
    """What was measured is told, but a file was not written; the message says which, and why."""


def _tell_nobody(_result: RunResult) -> None:
    pass


def perform(
    options: Options,
    address: tuple[str, int] | str,
    observers: list[Observer],
    tell: Callable[[RunResult], None] = _tell_nobody,
) -> RunResult:
    """Run the load, *tell* the result, then write what the options ask for, and return the result.

    In this order: what a full disk takes from the files has been told.
    Raises what `Run.execute` raises, and NotWrittenError.
    """
    if options.server_metrics and options.part is None:
        _await_alone(options.server_metrics)
    with ExitStack() as stack:
        if not options.quiet:
            observers = [*observers, stack.enter_context(LiveLine(sys.stderr))]
        evidence = Run(options, address, observers).execute()
    result = Verdict(options, evidence).result()
    try:
        tell(result)
    finally:
        write_all(
            ("--json", options.json, lambda path: write_whole(path, result.to_json())),
            ("--csv", options.csv, lambda path: write_whole(path, _series(options, evidence))),
        )
    return result


def _await_alone(url: str) -> None:
    """Wait until nobody is connected to the server, which may still see the run before this one.

    Raises CannotRunError: with somebody else's messages in its counters no ledger would balance.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while others := int(read(url).gauges.get("connections", 0)):
        if time.monotonic() > deadline:
            who = "1 other client is" if others == 1 else f"{others} other clients are"
            raise CannotRunError(
                f"{who} connected to the server: what they say and hear would be in its counters. "
                "Close them, or run without --server-metrics."
            )
        time.sleep(POLL_SECONDS)


def write_all(*files: tuple[str, Path | None, Callable[[Path], None]]) -> None:
    """Write files, each with its option and its writer; one that fails takes no other with it.

    Raises NotWrittenError.
    """
    failures = []
    for option, path, write in files:
        if path is not None:
            try:
                write(path)
            except OSError as error:
                why = error.strerror or error
                failures.append(f'{option} "{path}": it could not be written: {why}.')
    if failures:
        raise NotWrittenError(" ".join(failures))


def _series(options: Options, evidence: Evidence) -> str:
    frames = Frames.of(evidence.prefix_bytes, options.voices)
    start_ns = evidence.schedule.start_ns if evidence.schedule else 0
    return as_csv(evidence.snapshots, start_ns, frames)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it.

    A link stays, and the file that it leads to is replaced. A device or a FIFO is written to: to
    replace it would take it from everybody else. Raises OSError, and then leaves nothing behind.
    """
    if path.exists() and not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY), "w", encoding="utf-8") as device:
            device.write(text)
        return
    real = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name[:SPOKEN]}.")
    written = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # there is no other way to read it
        os.umask(umask)
        written.chmod(0o666 & ~umask)
        written.replace(real)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
