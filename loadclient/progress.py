"""The live line: a bar that a terminal redraws; elsewhere, a plain line now and then.

Rule: an observer never ends a run. Where nothing can be shown, nothing is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadclient.report import duration
from loadclient.streams import unheard

if TYPE_CHECKING:
    from types import TracebackType

    from loadclient.protocol import Snapshot
    from loadclient.totals import Frames

PLAIN_SECONDS = 5.0  # between two lines that nothing overwrites


class LiveLine:
    """Shows a run as it goes; on something that is not a terminal, without control codes."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = unheard(stream, raw=True)
        self._console = Console(file=self._stream, highlight=False)
        self._bar: Progress | None = None
        self._phase = ""
        self._earlier: tuple[int, int, int] | None = None
        self._next_plain = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<8}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("start", total=None, figures="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, run_id: str) -> None:
        """Take note of the run's name: the summary says it."""

    def enter(self, phase: str, seconds: float | None) -> None:
        """Show that *phase* begins."""
        self._phase = phase
        self._earlier = None
        if self._bar is not None:
            self._bar.reset(self._task, total=seconds, description=phase, figures="")

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Show rates since the last look."""
        received = frames.messages(total)
        earlier, self._earlier = self._earlier, (total.now_ns, total.sent, received)
        if earlier is None or total.now_ns == earlier[0]:
            return
        seconds = (total.now_ns - earlier[0]) / 1e9
        p99 = total.latencies.corrected.percentile(0.99) if total.latencies else None
        figures = (
            f"{(total.sent - earlier[1]) / seconds:,.0f} sent/s  "
            f"{(received - earlier[2]) / seconds:,.0f} received/s  "
            f"p99 {duration(None if p99 is None else p99 / 1e9)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, advance=seconds, figures=figures)
        elif time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_SECONDS
            self._stream.write(f"{self._phase}: {figures}\n")
            self._stream.flush()
