"""The progress of a study: slices done, pairs discarded, and the time that is really left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from types import TracebackType

    from loadclient.compare.study import Slice

PLAIN_SECONDS = 10.0  # between two lines that nothing overwrites


def spoken(seconds: float) -> str:
    """Return a time as people say it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole / 3600:.1f} h"


class StudyProgress:
    """Follows a study; on something that is not a terminal, by a line now and then."""

    def __init__(
        self,
        stream: TextIO | None,
        done: int,
        left: int,
        expected_seconds: float,
        afterwards: float = 0.0,
    ) -> None:
        """Begin with *done* slices and *left* to come; *expected_seconds* is for those.

        What comes after the slices takes *afterwards* seconds more.
        Without a *stream* nothing is shown.
        """
        self._stream = stream
        self._first = self._done = done
        self._slices = done + left
        self._expected = expected_seconds
        self._afterwards = afterwards
        self._began = time.monotonic()
        self._invalid = 0
        self._next_plain = self._began + PLAIN_SECONDS
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._stream is not None and self._stream.isatty():
            self._bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[words]}"),
                console=Console(file=self._stream, highlight=False),
                transient=True,
            )
            words = f"about {spoken(self._expected + self._afterwards)} left"
            self._task = self._bar.add_task(
                "", total=self._slices, completed=self._first, words=words
            )
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

    def measured(self, one: Slice, left: int) -> None:
        """Show that a slice is done and *left* are to come."""
        self._invalid += not one.valid
        self._done += 1
        slices = self._done + left  # a discarded pair makes them more
        now = time.monotonic()
        each = (now - self._began) / (self._done - self._first)  # daemons' starts included
        words = f"about {spoken(each * left + self._afterwards)} left"
        if self._invalid:
            words += f", {self._invalid} invalid slices"
        if self._bar is not None:
            self._bar.update(
                self._task, total=slices, completed=self._done, words=f"{words}  {one.cell}"
            )
        elif self._stream is not None and (now >= self._next_plain or not left):
            self._next_plain = now + PLAIN_SECONDS
            self._stream.write(f"{self._done} of {slices} slices, {words}\n")
            self._stream.flush()
