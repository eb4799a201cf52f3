"""Ctrl-C and SIGTERM: the first ends the run early and truthfully, the second leaves at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(Exception):
    """The user asked to stop; what was measured so far still counts."""


class Interrupts:
    """Turns the first signal into an exception at the places that call `check`."""

    def __init__(self) -> None:
        self._signals = 0
        self._handled = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal() returned it

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise InterruptedRunError once, if a signal has come."""
        if self._signals > self._handled:
            self._handled = self._signals
            raise InterruptedRunError
