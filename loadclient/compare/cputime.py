"""How much processor time a daemon used, by the kernel's clock and not by its own word.

Every process has a clock of the processor time that all of its threads ever used, in nanoseconds,
which anybody may read who knows its pid (clock_getcpuclockid(3); its number is made as by
MAKE_PROCESS_CPUCLOCK, linux/posix-timers_types.h).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadclient.protocol import Snapshot
    from loadclient.totals import Frames

CPUCLOCK_SCHED = 2


def used(pid: int) -> float:
    """Return the processor time of process *pid* in seconds. Raises OSError if there is none."""
    return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)


class Processors:
    """An observer of one run: looks when the daemon's counters have just been read."""

    def __init__(self, *pids: int) -> None:
        """Look at the processes *pids*; 0 is a daemon that is not ours, and nobody looks."""
        self._pids = pids
        self._before: float | None = None
        self.seconds: float | None = None  # None if nobody could look

    def begin(self, run_id: str) -> None:
        """Nothing is measured yet."""

    def enter(self, phase: str, _seconds: float | None) -> None:
        """Look at both ends of what the daemon's counters are of."""
        if phase == "measure":
            self._before = self._now()
        elif phase == "settle" and self._before is not None and (now := self._now()) is not None:
            self.seconds = now - self._before

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Nothing depends on the totals."""

    def _now(self) -> float | None:
        if not all(self._pids):
            return None
        try:
            return sum(map(used, self._pids))
        except OSError:  # it has gone, and the run says so
            return None
