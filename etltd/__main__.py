"""``etltd`` and ``python -m etltd``: the signals are in hand before anything slow is imported.

A stop that comes while the daemon starts is a stop like any other. Without a handler it would be a
traceback (SIGINT), a death by signal (SIGTERM), or, for the first process of a container, nothing
at all until the engine's patience is over (pid_namespaces(7)).

Who has been promised something are clients that a restart left with the service manager
(`etltd.fdstore`): ours from the start. Then signals wait until the daemon serves, and it stops, or
leaves them once more, in good order.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = (*ENDING, signal.SIGUSR2)  # those of `etltd.succession`, which is slow to import
STORED = "etltd-state"  # and the name of `etltd.fdstore` for what tells of stored clients


def main() -> int:
    """Run the command and return its exit status."""
    if _clients_wait(os.environ):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until `succession.release_signals`
    for number in ENDING:
        signal.signal(number, _leave)  # until the daemon takes them over, to stop in good order
    signal.signal(signal.SIGUSR2, _wait)
    from etltd.cli import main as run  # noqa: PLC0415 - it is slow to import

    return run()


def _clients_wait(environment: Mapping[str, str]) -> bool:
    """Tell whether the service manager passes clients on to us (sd_listen_fds(3))."""
    is_for_us = environment.get("LISTEN_PID") == str(os.getpid())
    return is_for_us and STORED in environment.get("LISTEN_FDNAMES", "").split(":")


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nobody was promised anything yet; an exception may get lost in an import


def _wait(_number: int, _frame: FrameType | None) -> None:
    """Have nothing to hand over yet; as a default, the signal would end us."""


if __name__ == "__main__":
    sys.exit(main())
