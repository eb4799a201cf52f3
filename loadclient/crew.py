"""The parent's side of its workers: start them, ask them all, notice when one is gone."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Self, TypeVar

from loadclient.interrupts import deaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from loadclient.protocol import Question

Answer = TypeVar("Answer")
ANSWER_SECONDS = 30.0  # a worker that says nothing for so long is broken, not busy
POLL_SECONDS = 0.1
LEAVE_SECONDS = 5.0


class WorkerDiedError(Exception):
    """A child process ended or fell silent in the middle of a run: a fault of ours."""


class Crew:
    """*procs* workers; every question goes to all of them at once."""

    def __init__(self, procs: int, *, between: Callable[[], None] = lambda: None) -> None:
        """Start the workers; *between* is called while answers are awaited and may raise."""
        self._between = between
        self._workers = [_start() for _ in range(procs)]
        self._owed = [0] * procs  # answers, to questions whose asker was interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, connection in self._workers:
            connection.close()
        for process, _ in self._workers:
            try:
                process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:  # connecting: it does not look at its lifeline
                process.kill()
                process.wait()

    def ask(self, question: Question, kind: type[Answer], seconds: float = 0) -> list[Answer]:
        """Ask all workers the same; return their answers, all of type *kind*."""
        return self.ask_each([question] * len(self._workers), kind, seconds)

    def ask_each(
        self, questions: Sequence[Question], kind: type[Answer], seconds: float = 0
    ) -> list[Answer]:
        """Ask each worker its own question and wait for all answers.

        Raises WorkerDiedError if one does not come within *seconds* and the usual patience.
        """
        deadline = time.monotonic() + seconds + ANSWER_SECONDS
        try:
            for worker, question in enumerate(questions):
                self._workers[worker][1].send(question)
                self._owed[worker] += 1
            return [self._answer(worker, kind, deadline) for worker in range(len(questions))]
        except (EOFError, OSError) as error:
            raise WorkerDiedError("a worker process of the load client died") from error

    def _answer(self, worker: int, kind: type[Answer], deadline: float) -> Answer:
        """Return the last answer that *worker* owes; nobody waits for those before it any more."""
        while True:
            answer = self._receive(self._workers[worker][1], deadline)
            self._owed[worker] -= 1
            if not self._owed[worker]:
                break
        if not isinstance(answer, kind):
            raise WorkerDiedError(f"a worker process answered {answer!r}")
        return answer

    def _receive(self, connection: Connection[Any, Any], deadline: float) -> object:
        while not connection.poll(POLL_SECONDS):
            self._between()
            if time.monotonic() > deadline:
                raise WorkerDiedError("a worker process of the load client does not answer")
        return connection.recv()


def _start() -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    """Start a worker on one end of a socket pair.

    A fresh interpreter rather than a fork: the parent has threads (metrics, progress bar) whose
    locks a forked child would inherit in whatever state they are.
    """
    ours, theirs = socket.socketpair()
    with theirs, deaf():
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "loadclient.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return process, Connection(ours.detach())
