"""Ctrl-C and SIGTERM: the first ends the run early and truthfully, the second leaves at once.

Rule: a signal is somebody's until he has heeded it. A command holds `Interrupts` from its first
load to its last file, and each run in it its own: what comes between two runs is the next one's,
what a run did not heed any more is the command's again.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(Exception):
    """The user asked to stop; what was measured so far still counts."""


class Interrupts:
    """Turns the first signal into an exception at the places that call `check`.

    Who ignores a signal, as a job in the background of a script does, goes on ignoring it.
    """

    def __init__(self) -> None:
        self._signals = 0
        self._handled = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        for outer in self._outer():
            outer.hand_over(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal() returned it
        for outer in self._outer():
            self.hand_over(outer)

    def _outer(self) -> set[Interrupts]:
        """Return who heeded the signals before us, if he is one like us."""
        owners = (getattr(handler, "__self__", None) for handler in self._previous.values())
        return {owner for owner in owners if isinstance(owner, Interrupts)}

    def hand_over(self, other: Interrupts) -> None:
        """Leave it to *other* to heed what has come and was not heeded here."""
        if self._signals > self._handled:
            self._handled = self._signals
            other._signals += 1

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise InterruptedRunError once, if a signal has come."""
        if self._signals > self._handled:
            self._handled = self._signals
            raise InterruptedRunError


@contextmanager
def deaf() -> Iterator[None]:
    """Let what is started here hear of no Ctrl-C, from its first instruction on.

    The terminal sends it to all of us, and only we say what follows from it. What ignores it by
    itself can do so only once it runs: a worker that was still importing died of it, and a run that
    was interrupted was a broken one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
