"""Hold up the main thread of a process, as a call that never returns would; its others go on.

SIGSTOP would stop all of them, and with them whoever wrongly says that all is well.

    python3 stall.py PID

holds it until it is ended itself. The standard library alone: it runs where nothing is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEIZE, INTERRUPT, CONTINUE = 0x4206, 0x4207, 7  # ptrace(2)
EVERY_THREAD = 0x40000000  # __WALL, waitpid(2)
WAITS = ("232", "281") if platform.machine() == "x86_64" else ("22",)  # epoll_wait, epoll_pwait
HELD = "held"
PYTHON = (sys.executable, __file__)


@contextlib.contextmanager
def stalled(pid: int, command: Sequence[str] = PYTHON) -> Iterator[None]:
    """Hold up the main thread of *pid* during the block; *command* runs this file."""
    with subprocess.Popen([*command, str(pid)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == HELD
            yield
        finally:
            holder.kill()


def hold(pid: int) -> None:
    """Stop the main thread where it waits in epoll, and neither has nor wants the lock.

    Whoever lets go of the interpreter's lock waits until the thread that wanted it has it.
    """
    trace(SEIZE, pid)
    while True:
        trace(INTERRUPT, pid)
        os.waitpid(pid, EVERY_THREAD)
        if is_waiting(pid):
            return
        trace(CONTINUE, pid)
        time.sleep(0.01)  # let it get there


def is_waiting(pid: int) -> bool:
    """Tell whether a thread that is stopped was in epoll_wait(2); see proc_pid_syscall(5)."""
    return Path(f"/proc/{pid}/task/{pid}/syscall").read_text().split()[0] in WAITS


def trace(request: int, pid: int) -> None:
    """Call ptrace(2)."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    ptrace.restype = ctypes.c_long
    if ptrace(request, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


if __name__ == "__main__":
    target = int(sys.argv[1])
    hold(target)
    sys.stdout.write(f"{HELD}\n")
    sys.stdout.flush()
    while os.WIFSTOPPED(os.waitpid(target, EVERY_THREAD)[1]):
        pass  # its end is told to us first, and to its parent when we have heard it
