"""A daemon of our own, as long as somebody needs it.

It is started as anybody would start it, as a process of its own; nothing of it is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadclient.tether import tied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

START_SECONDS = 15.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02


class DaemonFailedError(Exception):
    """The daemon did not come up; the message is the last thing it said."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon and where it listens, or several that share a port."""

    pid: int
    address: tuple[str, int]
    metrics: str  # of several, all of them, with commas between
    others: tuple[int, ...] = ()  # pids of the further ones

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes: one, or all that share the port."""
        return (self.pid, *self.others)


@contextmanager
def running_daemon(
    mode: str,
    log: Path,
    *more: str,
    within: Sequence[str] = (),
    port: int = 0,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[Daemon]:
    """Run `etltd` on free ports, with *more* options, until the block ends or we are killed.

    *within* is a command that runs another one with its own pid, such as nsenter.
    """
    command = [
        sys.executable, "-m", "etltd", "--mode", mode, "--port", str(port), "--metrics-port", "0",
        "--log-format", "json", *more,
    ]  # fmt: skip
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*within, *command],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is for us: it must not take the daemon from a run
            preexec_fn=tied(),  # noqa: PLW1509 - it makes two system calls and takes no lock
        )
    try:
        yield _await_listening(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def refusal(mode: str, *more: str) -> str:
    """Return what a daemon says of options that it does not take; "" if it takes them.

    Raises DaemonFailedError if it says nothing in time.
    """
    command = [sys.executable, "-m", "etltd", "--mode", mode, *more, "--show-config"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DaemonFailedError(
            f"the daemon did not look at its options within {START_SECONDS:g} s"
        ) from error
    return done.stderr.strip() if done.returncode else ""


def _await_listening(process: subprocess.Popen[bytes], log: Path) -> Daemon:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        for line in log.read_text(errors="replace").splitlines():
            event = _event(line)
            if event.get("event") == "listening":
                host, _, port = str(event["chat"]).rpartition(":")
                return Daemon(process.pid, (host.strip("[]"), int(port)), str(event["metrics"]))
        if ended:
            break
        time.sleep(POLL_SECONDS)
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise DaemonFailedError(f"the daemon did not begin to listen; it said: {said[-1]}")


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # half a line, or a traceback
        return {}
    return event if isinstance(event, dict) else {}
