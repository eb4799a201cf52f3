"""The live line of a run: rates since the last look, and the phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from loadclient.bar import Bar
from loadclient.report import duration

if TYPE_CHECKING:
    from loadclient.protocol import Snapshot
    from loadclient.totals import Frames

PLAIN_SECONDS = 5.0  # between two lines that nothing overwrites


class LiveLine(Bar):
    """Shows a run as it goes; on something that is not a terminal, without control codes."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(
            stream,
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            plain_seconds=PLAIN_SECONDS,
            plain_at_once=True,
            description="start",
            total=None,
            figures="",
        )
        self._phase = ""
        self._earlier: tuple[int, int, int] | None = None

    def begin(self, run_id: str) -> None:
        """Take note of the run's name: the summary says it."""

    def enter(self, phase: str, seconds: float | None) -> None:
        """Show that *phase* begins."""
        self._phase = phase
        self._earlier = None
        self.restart(phase, seconds, figures="")

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
        self.update(f"{self._phase}: {figures}", advance=seconds, figures=figures)
