"""A bar that a terminal redraws; on anything else, a plain line now and then.

Rule: who watches never ends what is watched. Where nothing can be shown, nothing is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.progress import Progress

from loadclient.streams import unheard

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import ProgressColumn


class Bar:
    """One task; the fields of its columns are those it begins with."""

    def __init__(
        self,
        stream: TextIO | None,
        *columns: ProgressColumn,
        plain_seconds: float,
        plain_at_once: bool,
        **begins: Any,
    ) -> None:
        """Draw *columns*, or write a line every *plain_seconds* at most.

        Without a *stream* nothing is shown.
        """
        self._stream = unheard(stream, raw=True)
        self._plain_seconds = plain_seconds
        self._next_plain = 0.0 if plain_at_once else time.monotonic() + plain_seconds
        self._begins = begins
        self._console = Console(file=self._stream, highlight=False)
        self._progress = Progress(
            *columns, console=self._console, transient=True, refresh_per_second=2
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._task = self._progress.add_task(**self._begins)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def restart(self, description: str, total: float | None, **shown: Any) -> None:
        """Begin again, for something else."""
        if self._console.is_terminal:
            self._progress.reset(self._task, total=total, description=description, **shown)

    def update(self, line: str, *, at_last: bool = False, **shown: Any) -> None:
        """Redraw the bar; or write *line* if it is time for one, or *at_last*."""
        if self._console.is_terminal:
            self._progress.update(self._task, **shown)
        elif at_last or time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + self._plain_seconds
            self._stream.write(f"{line}\n")
            self._stream.flush()
