"""How a daemon gives its place to a new version of itself: rehearse, then exec.

Facts: execve(2) keeps the process, its pid, its CPU time and every descriptor that is not
close-on-exec; a service manager, a container engine and a kernel probe all know a daemon by its
pid. A successor in a process of its own could be sent the sockets (SCM_RIGHTS) and would start
while the old one still serves, but a container ends with its first process, whoever has the
sockets.

What breaks: after execve nobody is left to go back to. A successor that is a broken file, does not
like its options or cannot read the state would take every client with it.

What we do: the successor *rehearses*. The same command with the same options and the same state,
but without the sockets, does in a process of its own all that can fail, while we go on serving.
Only if it says that all is well we call execve, and if that fails we are still here and nothing was
changed.

What it costs: peers wait for as long as Python takes to start (``pause_seconds`` in the log).
Nothing is lost meanwhile: the kernel keeps what they send. What cannot be rehearsed, such as a lack
of memory that comes in that moment, is a crash like any other.

Signals that come meanwhile are blocked, which execve(2) keeps, and so wait for the successor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from etltd import handover

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from etltd.handover import State

VARIABLE = "ETLT_HANDOVER"  # not ETLTD_…: it is no option
TAKE, REHEARSE = "take", "rehearse"
REHEARSAL_SECONDS = 30.0  # Python starts in one; a successor that takes longer is not one
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Offer(NamedTuple):
    """What a predecessor offers to this process."""

    state: State
    is_rehearsal: bool


def offered(environment: MutableMapping[str, str]) -> Offer | None:
    """Return what a predecessor hands to this process, if any; take the variable away.

    Raises:
        UnfitError: it cannot be taken.
    """
    word, _, fd = environment.pop(VARIABLE, "").partition(" ")
    if word not in (TAKE, REHEARSE) or not fd.isdecimal():
        return None
    with os.fdopen(int(fd), "rb") as source:
        source.seek(0)
        return Offer(handover.decode(source), word == REHEARSE)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait; threads that are started meanwhile never get any."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_signals() -> None:
    """Let in the signals that waited for us since our predecessor."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def written(state: State) -> Iterator[int]:
    """Write *state* into memory that a process may inherit; yield its descriptor."""
    fd = os.memfd_create("etltd-state")
    try:
        os.fchmod(fd, 0o600)  # 0777 by default, and it holds what peers were saying
        with os.fdopen(fd, "wb", closefd=False) as target:
            target.writelines(handover.encode(state))
        yield fd
    finally:
        os.close(fd)


def _command() -> list[str]:
    """Return the command by which this process was started: what is there now may be newer."""
    return [sys.executable, *sys.orig_argv[1:]]


class Rehearsal:
    """A successor that tries everything but the sockets; ``fd`` is readable when it is over."""

    def __init__(self, state: State, environment: Mapping[str, str]) -> None:
        """Begin.

        Raises:
            OSError, RuntimeError, MemoryError: there is no descriptor, no thread or no memory.
        """
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_over = False
        self.problem = "the rehearsal broke off"  # why the successor cannot take over
        self._state = state
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._unwanted = threading.Event()
            # In a thread: starting a process is slow, and none of the loop's own system calls.
            self._thread = threading.Thread(target=self._run, name="etltd-rehearse", daemon=True)
            with signals_held():
                self._thread.start()
        except BaseException:
            os.close(self.fd)
            raise

    def _run(self) -> None:
        try:
            self.problem = self._try()
        except subprocess.TimeoutExpired:
            self.problem = f"the successor was not ready within {REHEARSAL_SECONDS:g} s"
        except OSError as error:
            self.problem = f"the successor cannot be started: {error.strerror}"
        finally:
            self.is_over = True
            os.eventfd_write(self.fd, 1)

    def _try(self) -> str:
        with written(self._state) as fd, os.fdopen(os.memfd_create("said"), "w+b") as said:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                _command(),
                env={**self._environment, VARIABLE: f"{REHEARSE} {fd}"},
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            if self._unwanted.is_set():  # since before there was a process to end
                self._process.kill()
            try:
                status = self._process.wait(REHEARSAL_SECONDS)
            finally:
                self._process.kill()
                self._process.wait()
            if not status:
                return ""
            said.seek(0)
            lines = said.read().decode(errors="backslashreplace").split("\n")
            return next(filter(None, reversed(lines)), f"exit status {status}")

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._unwanted.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()
        os.close(self.fd)


def become_successor(state: State, environment: Mapping[str, str]) -> NoReturn:
    """Replace this program by its successor, which inherits the sockets of *state*.

    To be called with `signals_held`.

    Raises:
        OSError, MemoryError: that is not possible, and nothing was changed.
    """
    fds = state.fds
    try:
        with written(state) as fd:
            for one in [fd, *fds]:
                os.set_inheritable(one, True)
            _exec({**environment, VARIABLE: f"{TAKE} {fd}"})
    finally:  # we are still here
        for one in fds:
            os.set_inheritable(one, False)


def _exec(environment: Mapping[str, str]) -> NoReturn:
    os.execve(sys.executable, _command(), environment)  # noqa: S606 - our own command
