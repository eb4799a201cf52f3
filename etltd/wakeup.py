"""Signals into the loop.

A handler does nothing: CPython writes the signal's number to a pipe that the reactor watches, so
the loop learns of it between two ticks, never inside one. A pipe, not a socket pair: its reads are
no ``recvfrom``, which the loop counts as peers' work.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Let the pipe speak."""


class Wakeup:
    """Turns *signals* into bytes on ``fd`` while it is open; main thread only."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _ignore) for number in signals}

    def take(self) -> list[signal.Signals]:
        """Return the signals that came since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self.fd, 64)]
        return []

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self.fd)
        os.close(self._write_fd)
