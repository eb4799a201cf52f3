"""What a daemon says to its service manager, and leaves with it (sd_notify(3)).

The watchdog is fed from the loop itself, so a loop that hangs is a daemon that gets restarted.
Without a manager nothing is said, and nothing fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etltd import fdstore, systemd

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from etltd.handover import State
    from etltd.logs import Log
    from etltd.stats import LoopStats


class ServiceManager:
    """The service manager, as far as this process knows of one."""

    def __init__(self, log: Log, environment: MutableMapping[str, str], pid: int) -> None:
        self._log = log
        self._notifier = systemd.Notifier(environment)
        self._status = ""
        self._problem = ""
        self._to_forget: list[str] = []
        self.watchdog_seconds = systemd.watchdog_seconds(environment, pid)

    @property
    def is_there(self) -> bool:
        """Whether anybody asked to be told."""
        return bool(self._notifier.address)

    def tell(self, *lines: str) -> None:
        """Send the assignments *lines*; what goes wrong is logged once, not with every ping."""
        self._note(self._notifier.send(*lines))

    def _note(self, error: OSError | None) -> None:
        problem = "" if error is None else str(error)
        if problem and problem != self._problem:
            self._log.warning("cannot notify the service manager", error=problem)
        self._problem = problem

    def report(self, stats: LoopStats) -> None:
        """Say that the loop lives and, when it has changed, how it stands."""
        self._forget()
        lines = ["WATCHDOG=1"] if self.watchdog_seconds else []
        status = f"STATUS={stats.connections} peers, {stats.outbox_connections} behind"
        if status != self._status:
            self._status = status
            lines.append(status)
        if lines:
            self.tell(*lines)

    def patience(self, seconds: float | None) -> list[str]:
        """Return what makes the manager wait *seconds* from now for each ping, if it waits."""
        if not self.watchdog_seconds or seconds is None:
            return []
        return ["WATCHDOG=1", f"WATCHDOG_USEC={round(seconds * 1e6)}"]

    def store(self, state: State) -> OSError | MemoryError | None:
        """Leave *state* and its sockets here for the next process; return what went wrong."""
        error = fdstore.put(self._notifier.address, state)
        if error is not None:
            self.forget_stored()
        return error

    def forget_stored(self) -> None:
        """Have the manager close its copies: while it has them, a close of ours sends no FIN.

        If it cannot be told (its queue is full), it is tried again with each `report`.
        """
        self._to_forget = list(fdstore.NAMES)
        self._forget()

    def _forget(self) -> None:
        while self._to_forget:
            error = self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={self._to_forget[0]}")
            if error is not None:
                self._note(error)
                return
            del self._to_forget[0]

    def close(self) -> None:
        """Forget it until there is something to say again."""
        self._notifier.close()
