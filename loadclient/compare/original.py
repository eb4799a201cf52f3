"""The original's table, redone: the same load and the same score, and beside it what that hides.

Its score is what its clients *sent* with receiving off. Here every cell is run so, then once more
with everybody reading, and a server that never reads is scored too. One run a line, as in the
original: the table shows what the score is worth, and no mode better than the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loadclient.compare.study import OriginalRow
from loadclient.daemon import running_daemon
from loadclient.options import Options
from loadclient.runner import Run
from loadclient.server import count
from loadclient.tether import tied
from loadclient.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadclient.result import RunResult
    from loadclient.runner import Evidence

SILENT = "never reads"
SERVERS = ("et", "lt", SILENT)
PUBLISHED = {
    (64, "et"): 21_962.9, (64, "lt"): 22_072.8, (128, "et"): 22_286.6, (128, "lt"): 22_111.7,
    (256, "et"): 13_518.4, (256, "lt"): 12_065.4, (512, "et"): 7_294.2, (512, "lt"): 6_905.9,
}  # fmt: skip
SENT_OVERHEAD_SECONDS = 1.0  # connect, and wait until all stands still: measured
READ_OVERHEAD_SECONDS = 4.0  # connect, hello, drain: measured, 2 to 8
NOTES = (
    """The score, messages sent with receiving off, is connections times rate: the client's own
    input. A server that never reads earns it too: the kernel's buffers take everything.""",
    """The original's column named bytes/s is bytes per millisecond, that is kB/s.""",
    """One run a line: nothing here says which mode is better.""",
    """Published figures come from another machine, between two containers.""",
)


@dataclass(frozen=True, slots=True)
class Load:
    """The original's load, or a smaller one of its kind."""

    conns: int = 500
    rate: float = 50.0
    seconds: float = 20.0
    sizes: tuple[int, ...] = (64, 128, 256, 512)


class OriginalInterruptedError(Exception):
    """Somebody asked to stop; the rows so far are whole."""


def expected_seconds(load: Load) -> float:
    """Return how long the table should take."""
    sent = load.seconds + SENT_OVERHEAD_SECONDS
    read = load.seconds + READ_OVERHEAD_SECONDS
    return len(load.sizes) * (len(SERVERS) * sent + (len(SERVERS) - 1) * read)


def rows(load: Load, say: Callable[[str], None]) -> Iterator[OriginalRow]:
    """Measure line by line.

    Raises OriginalInterruptedError, and what runs and daemons raise.
    """
    for size in load.sizes:
        for server in SERVERS:
            say(f"{size} B, {server}")
            yield row(load, size, server)


def row(load: Load, size: int, server: str) -> OriginalRow:
    """Measure one line: fresh servers for either run."""
    options = Options(
        conns=load.conns,
        rate=load.rate,
        duration=load.seconds,
        msg_bytes=size,
        warmup=0.0,
        recv=False,
        quiet=True,
        run_id=f"original-{size}-{server.replace(' ', '-')}",
    )
    with _server(server) as (address, metrics):
        evidence, result = _run(replace(options, server_metrics=metrics), address)
    scored = _scored(evidence, result, size, server)
    if server == SILENT:
        return scored
    with _server(server) as (address, metrics):
        _, read = _run(replace(options, server_metrics=metrics, recv=True), address)
    return replace(
        scored,
        delivered_per_second=read.deliveries_per_second,
        delivery_ratio=read.delivery_ratio,
        reading_valid=read.valid,
        reading_reasons=read.invalid_reasons,
    )


def _run(options: Options, address: tuple[str, int]) -> tuple[Evidence, RunResult]:
    evidence = Run(options, address, []).execute()
    if evidence.interrupted_in is not None:
        raise OriginalInterruptedError
    return evidence, Verdict(options, evidence).result()


def _scored(evidence: Evidence, result: RunResult, size: int, server: str) -> OriginalRow:
    counters = (result.server or {}).get("counters", {})
    gauges = (result.server or {}).get("gauges", {})
    joined = result.server is not None
    processed = int(count(counters, "messages_received_total"))
    at_server = evidence.unread_at_server
    unread = [account.unread_bytes for worker in evidence.settled for account in worker.accounts]
    return OriginalRow(
        msg_bytes=size,
        server=result.mode if joined else server,
        sent_per_second=result.message_rate,
        kilobytes_per_second=result.bytes_per_second / 1000,
        published_sent_per_second=PUBLISHED.get((size, server)),
        processed=processed if joined else None,
        unread_at_server_bytes=at_server,
        in_send_buffers_bytes=(
            None if at_server is None else result.bytes_sent - processed * size - at_server
        ),
        unread_at_clients_bytes=sum(unread),
        outbox_bytes=gauges.get("outbox_bytes"),
        dropped=count(counters, "messages_dropped_total") if joined else None,
    )


@contextmanager
def _server(name: str) -> Iterator[tuple[tuple[str, int], str | None]]:
    """Run a server; return where it listens and where its metrics are."""
    with ExitStack() as stack:
        if name == SILENT:
            yield ("127.0.0.1", stack.enter_context(_silent())), None
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="etlt-original-"))
        daemon = stack.enter_context(running_daemon(name, Path(folder, "daemon.log")))
        yield daemon.address, daemon.metrics


@contextmanager
def _silent() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "loadclient.compare.silent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=tied(),  # noqa: PLW1509 - it makes two system calls and takes no lock
    )
    with process:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe, as asked
            yield int(process.stdout.readline())
        finally:
            process.kill()
