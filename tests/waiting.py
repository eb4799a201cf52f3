"""Wait for a condition that another process or thread brings about."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 20.0  # only a broken program takes it: a loaded machine is slow, not stuck


def until(predicate: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return when *predicate* holds; fail if it does not within *seconds*."""
    deadline = monotonic() + seconds
    while not predicate():
        assert monotonic() < deadline, f"not so within {seconds} s"
        threading.Event().wait(0.005)


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
