"""The real daemon with one fault planted in it, which none of its counters says but one's.

    python planted_daemon.py FAULT python -m etltd …

It stands where `nsenter` may stand: before the command of the daemon, whose pid it has. The faults
are those of somebody who made the daemon worse without noticing.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from time import thread_time
from typing import TYPE_CHECKING, Any

from etltd import process
from etltd.__main__ import main
from etltd.connection import Connection
from etltd.reactor import Reactor
from etltd.trigger import READ, EdgeTriggered

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def twice(self: Reactor, peers: list[Any]) -> Any:
        batch = read(self, peers)
        for conn in peers:
            with suppress(OSError):
                conn.sock.recv(1, socket.MSG_PEEK)  # takes nothing: the call alone is too many
        return batch

    Reactor._read = twice


def read_twice_and_count() -> None:
    """Let every turn end with one more read, in all honesty."""
    read = Reactor._read

    def twice(self: Reactor, peers: list[Any]) -> Any:
        batch = read(self, peers)
        for conn in peers:
            self.stats.syscalls["recvfrom"] += 1
            try:
                conn.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.stats.syscall_eagain["recvfrom"] += 1
        return batch

    Reactor._read = twice


def level_triggered_after_all() -> None:
    """Say "et", and read until there is nothing, but register as LT does, without a MOD."""
    EdgeTriggered.mask = lambda *_, **__: READ  # type: ignore[method-assign]


def understate_its_cost() -> None:
    """Say that it used seven tenths of the processor time that it used."""
    usage = process.usage

    def understated() -> process.ProcessUsage:
        real = usage()
        return real._replace(
            user_seconds=0.7 * real.user_seconds, system_seconds=0.7 * real.system_seconds
        )

    process.usage = understated


class LyingSocket:
    """A socket that says it sent what it was given, and once did something else with it."""

    def __init__(self, sock: socket.socket, fault: str) -> None:
        self._sock, self._fault = sock, fault
        self._innocent = True
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: Any) -> int:
        whole = bytes(data)
        if self._innocent and b"HELLO" not in whole:  # the first write of the load
            self._innocent = False
            whole = self._lie(whole)
        elif self._held:
            whole, self._held = whole + self._held, b""
        self._sock.sendall(whole)
        return len(data)

    def _lie(self, whole: bytes) -> bytes:
        if self._fault == "duplicate":
            return whole + whole
        if self._fault == "reorder":  # two of one tick, or what comes next and this
            lines = whole.splitlines(keepends=True)
            if len(lines) > 1:
                return b"".join(reversed(lines))
            self._held = whole
        return b""

    def sendmsg(self, buffers: Any) -> int:
        return self.send(b"".join(buffers))


def lie(fault: str) -> Callable[[], None]:
    """Let every connection lie once."""

    def plant() -> None:
        begin = Connection.__init__

        def lying(self: Connection, sock: socket.socket, *more: Any) -> None:
            begin(self, LyingSocket(sock, fault), *more)  # type: ignore[arg-type]

        Connection.__init__ = lying  # type: ignore[method-assign]

    return plant


FAULTS = {
    "delay": delay_each_tick,
    "read-twice": read_twice,
    "counted": read_twice_and_count,
    "level": level_triggered_after_all,
    "cheap": understate_its_cost,
    **{fault: lie(fault) for fault in ("drop", "duplicate", "reorder")},
}

if __name__ == "__main__":
    fault, _python, _m, _etltd, *options = sys.argv[1:]
    FAULTS[fault]()
    sys.argv[1:] = options
    sys.exit(main())
