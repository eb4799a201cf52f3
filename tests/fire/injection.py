"""Make a system call of a running process fail, from outside, by strace(1).

``inject=CALL:error=ERRNO:when=N`` answers the N-th call of that name itself: the kernel never sees
it. So what the call would have done is not done (a connection stays in the backlog, bytes stay
unread, a descriptor stays open), which is true of every failure but one: Linux closes a descriptor
even where close(2) says that it failed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def refusal() -> str | None:
    """Return why nothing can be injected here, or None."""
    if shutil.which("strace") is None:
        return "no strace here"
    done = subprocess.run(
        ["strace", "-o", "/dev/null", "-e", "trace=none", "true"], capture_output=True, check=False
    )
    return None if done.returncode == 0 else f"strace: {done.stderr.decode().strip()}"


@contextmanager
def failing(
    pid: int, call: str, error: str, folder: Path, *, when: str = "1", also: str = ""
) -> Iterator[Callable[[], int]]:
    """Let *call* of the loop thread (and of no other) fail; yield how often something has by now.

    *also* is one more injection, as strace takes it.
    """
    seen = folder / "strace.log"
    seen.unlink(missing_ok=True)
    injections = [f"{call}:error={error}:when={when}", *([also] if also else [])]
    words = [word for injected in injections for word in ("-e", f"inject={injected}")]
    calls = ",".join(injected.split(":")[0] for injected in injections)
    tracer = subprocess.Popen(
        ["strace", "-o", seen, "-p", str(pid), "-e", f"trace={calls}", "-e", "signal=none", *words],
        stderr=subprocess.PIPE,
    )
    try:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        yield lambda: seen.read_text().count("(INJECTED)")
    finally:
        tracer.send_signal(signal.SIGTERM)  # it lets go of the process first
        tracer.communicate()
