"""The real daemon with one fault planted in it, which none of its counters says.

    python planted_daemon.py FAULT python -m etltd …

It stands where `nsenter` may stand: before the command of the daemon, whose pid it has. The faults
are those of somebody who made the daemon worse without noticing.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from time import thread_time
from typing import Any

from etltd.__main__ import main
from etltd.reactor import Reactor

DELAY_SECONDS = 0.004  # of processor time, for each tick that has something to do


def delay_each_tick() -> None:
    """Let every tick compute something that nobody needs, before it looks at its events."""
    dispatch = Reactor._dispatch

    def slow(self: Reactor, events: list[tuple[int, int]], *more: Any) -> Any:
        until = thread_time() + DELAY_SECONDS
        while events and thread_time() < until:
            pass
        return dispatch(self, events, *more)

    Reactor._dispatch = slow


def read_twice() -> None:
    """Let every turn end with a read that no counter mentions."""
    read = Reactor._read

    def twice(self: Reactor, peers: list[Any], batch: Any) -> None:
        read(self, peers, batch)
        for conn in peers:
            with suppress(OSError):
                conn.sock.recv(1, socket.MSG_PEEK)  # takes nothing: the call alone is too many

    Reactor._read = twice


def read_twice_and_count() -> None:
    """Let every turn end with one more read, in all honesty."""
    read = Reactor._read

    def twice(self: Reactor, peers: list[Any], batch: Any) -> None:
        read(self, peers, batch)
        for conn in peers:
            self.stats.syscalls["recvfrom"] += 1
            try:
                conn.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.stats.syscall_eagain["recvfrom"] += 1

    Reactor._read = twice


FAULTS = {"delay": delay_each_tick, "read-twice": read_twice, "counted": read_twice_and_count}

if __name__ == "__main__":
    fault, _python, _m, _etltd, *options = sys.argv[1:]
    FAULTS[fault]()
    sys.argv[1:] = options
    sys.exit(main())
