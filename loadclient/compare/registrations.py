"""How the kernel has a daemon's connections registered: the mode, from one who does not say it.

A daemon exports its mode and counts its calls, and both may be wrong together: one that says "et"
and registers level-triggered can read until there is nothing, make no MOD, and look the part. The
kernel's list of an epoll descriptor (proc(5), fdinfo) has the mask of every registration.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from select import EPOLLET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadclient.protocol import Snapshot
    from loadclient.totals import Frames

EPOLL = "anon_inode:[eventpoll]"


class Registrations:
    """An observer of one run: looks once, when all is counted and everybody still connected."""

    def __init__(self, *pids: int) -> None:
        """Look at the processes *pids*; 0 is a daemon that is not ours, and nobody looks."""
        self._processes = [Path(f"/proc/{pid}") for pid in pids if pid]
        self.counts: dict[str, int] = {}  # et, lt: registrations; empty if nobody could look

    def begin(self, run_id: str) -> None:
        """Nobody is connected yet."""

    def enter(self, phase: str, _seconds: float | None) -> None:
        """Look when the last figure has been taken, so that looking costs nobody anything."""
        if phase == "settle":
            self.counts = triggers(text for process in self._processes for text in _lists(process))

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Nothing depends on the totals."""


def triggers(lists: Iterable[str]) -> dict[str, int]:
    """Return how many registrations in these fdinfo texts are edge- and level-triggered."""
    masks = [
        int(line.split("events:")[1].split()[0], 16)
        for text in lists
        for line in text.splitlines()
        if line.startswith("tfd:")
    ]
    edges = sum(bool(mask & EPOLLET) for mask in masks)
    return {"et": edges, "lt": len(masks) - edges} if masks else {}


def _lists(process: Path) -> list[str]:
    """Return what the kernel says of each epoll descriptor; nothing where it may not be asked."""
    found = []
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if str(link.readlink()) == EPOLL:
                    found.append((process / "fdinfo" / link.name).read_text())
    return found
