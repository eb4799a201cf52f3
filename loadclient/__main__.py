"""``loadclient``, ``python -m loadclient``: the signals in hand before anything slow is imported.

A signal that comes while it starts ends it with 128 + its number and no traceback, and also if it
is the first process of a container, which signals without a handler pass by (pid_namespaces(7)).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command and leave with its exit status."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # whoever ignores them means it
            signal.signal(number, _leave)
    from loadclient.cli import main as run  # noqa: PLC0415 - it is slow to import

    try:
        signal.signal(signal.SIGINT, on_ctrl_c)  # from here on a run tells how it ends
        run()
    except KeyboardInterrupt:  # before the command has begun
        sys.exit(INTERRUPTED)


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # an exception may get lost in an import


if __name__ == "__main__":
    main()
