"""Children that do not outlive us, not even when we are killed.

Rule: what holds a port or a namespace is tied to us by the kernel. SIGKILL runs no `finally`, and a
daemon that stays behind keeps its namespace, its links and its load on the machine.

`PR_SET_PDEATHSIG` survives exec, so the tie holds through nsenter, too. It is to the thread that
starts the child: whoever starts one from a thread that ends loses it.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)  # loaded before the fork: after it there is hardly anything one may do


def tied() -> Callable[[], None]:
    """Return what a child does first (`preexec_fn`) so that the kernel ends it with us."""
    parent = os.getpid()

    def tie() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # we were killed between the fork and the tie
            os._exit(1)

    return tie
