"""The progress of a study: slices done, pairs discarded, and the time that is really left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from loadclient.bar import Bar
from loadclient.report import spoken

if TYPE_CHECKING:
    from loadclient.compare.study import Slice

PLAIN_SECONDS = 10.0  # between two lines that nothing overwrites


class StudyProgress(Bar):
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
        self._first = self._done = done
        self._afterwards = afterwards
        self._began = time.monotonic()
        self._invalid = 0
        super().__init__(
            stream,
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            plain_seconds=PLAIN_SECONDS,
            plain_at_once=False,
            description="",
            total=done + left,
            completed=done,
            words=f"about {spoken(expected_seconds + afterwards)} left",
        )

    def measured(self, one: Slice, left: int) -> None:
        """Show that a slice is done and *left* are to come."""
        self._invalid += not one.valid
        self._done += 1
        slices = self._done + left  # a discarded pair makes them more
        each = (time.monotonic() - self._began) / (self._done - self._first)  # with daemons' starts
        words = f"about {spoken(each * left + self._afterwards)} left"
        if self._invalid:
            words += f", {self._invalid} invalid slices"
        self.update(
            f"{self._done} of {slices} slices, {words}",
            at_last=not left,
            total=slices,
            completed=self._done,
            words=f"{words}  {one.cell}",
        )
