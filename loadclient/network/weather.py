"""Follows a run: the network is rough while there is load, and calm when connections are cut.

A connection is cut by a reset, which nobody repeats. If it got lost, the server would keep the
connection for ever, and the next slice would find somebody else in the server's books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadclient.network.link import Network
    from loadclient.protocol import Snapshot
    from loadclient.totals import Frames


class Weather:
    """An observer of one run over one network."""

    def __init__(self, network: Network) -> None:
        self._emulation = network.emulation
        self._before: dict[str, float] = {}
        self.counts: dict[str, float] = {}  # of the measured phase, its drain included

    def begin(self, run_id: str) -> None:
        """Nothing is on the network yet."""

    def enter(self, phase: str, _seconds: float | None) -> None:
        """Do what *phase* needs, and count over the measured one."""
        if phase == "connect":
            self._emulation.roughen()
        elif phase == "measure":
            self._before = self._emulation.counts()
        elif phase == "settle":
            after = self._emulation.counts()
            if self._before:
                self.counts = {name: after[name] - self._before[name] for name in after}
            self._emulation.calm()

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Nothing depends on the totals."""
