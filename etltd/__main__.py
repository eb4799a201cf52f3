"""``etltd`` and ``python -m etltd``: the signals are in hand before anything slow is imported.

A stop that comes while the daemon starts is a stop like any other. Without a handler it would be a
traceback (SIGINT), a death by signal (SIGTERM), or, for the first process of a container, nothing
at all until the engine's patience is over (pid_namespaces(7)).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Run the command and return its exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _leave)  # until the daemon takes them over, to stop in good order
    signal.signal(signal.SIGUSR2, _wait)
    from etltd.cli import main as run  # noqa: PLC0415 - it is slow to import

    return run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nobody was promised anything yet; an exception may get lost in an import


def _wait(_number: int, _frame: FrameType | None) -> None:
    """Have nothing to hand over yet; as a default, the signal would end us."""


if __name__ == "__main__":
    sys.exit(main())
