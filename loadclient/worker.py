"""The child process that carries load: one fleet, asked questions by its parent.

Rule: the parent's end of the socket pair is the worker's lifeline. When it closes, for whatever
reason, the worker aborts its connections and leaves; nothing outlives a killed parent.
"""

from __future__ import annotations

import gc
import resource
import select
import signal
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from loadclient.dialer import Dialer
from loadclient.fleet import Fleet
from loadclient.interrupts import SIGNALS
from loadclient.protocol import (
    Begin,
    Connect,
    Connected,
    Failed,
    Look,
    SayHello,
    StopSending,
)

if TYPE_CHECKING:
    from loadclient.protocol import Question


class Worker:
    """Answers the parent between the turns of its fleet."""

    def __init__(self, parent: Connection[Any, Any]) -> None:
        self._parent = parent
        self._fleet: Fleet | None = None

    def serve(self) -> None:
        """Work until the parent hangs up."""
        try:
            while True:
                if self._fleet is None:
                    select.select([self._parent], [], [])
                elif not self._fleet.turn():
                    continue
                self._parent.send(self._answer(self._parent.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        finally:
            if self._fleet is not None:
                self._fleet.abort()

    def _answer(self, question: Question) -> object:
        if isinstance(question, Connect):
            return self._connect(question)
        if self._fleet is None:
            return Failed("asked for load before it was connected")
        return _ask(self._fleet, question)

    def _connect(self, question: Connect) -> Connected:
        dialer = Dialer(question.plan, question.timeout_seconds, self._parent.fileno())
        dialer.dial()
        if dialer.failure is None:
            self._fleet = Fleet(question.plan, dialer.sockets, self._parent.fileno())
        else:
            for sock in dialer.sockets:
                sock.close()
        return Connected(dialer.latency.count, dialer.failure, dialer.latency)


def _ask(fleet: Fleet, question: Question) -> object:
    match question:
        case Look(histograms):
            return fleet.look(histograms=histograms)
        case SayHello(senders):
            return fleet.say_hello(senders)
        case Begin():
            return fleet.begin(question)
        case StopSending(cut):
            return fleet.stop(cut=cut)
        case _:
            return fleet.settle()


def main() -> None:
    """Serve the parent on the descriptor named by the first argument."""
    for number in SIGNALS:  # they reach the whole group: the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the parent started us deaf
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # the hot path makes no cycles, and a collection in it would be schedule lag
    Worker(Connection(int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
