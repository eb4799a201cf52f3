"""Several daemons on one port, taken as one: all that they count is added up.

How they share the port is the daemon's `--listener`. With more than one there is a bus between
them, so that everybody hears everybody, as with one: a NATS server of our own, for as long as they
live. Each of them is started as anybody would start it, as a process of its own.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from loadclient import server
from loadclient.daemon import POLL_SECONDS, START_SECONDS, Daemon, DaemonFailedError, running_daemon
from loadclient.tether import tied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loadclient.network.namespaces import Namespace

OWN = "own"
SHARING = ("reuseport", "exclusive", "shared")
PASSED = ("exclusive", "shared")  # one socket, passed to all of them
BACKLOG = 4096
NATS = "nats-server"

# What a service manager does: the socket is descriptor 3, and the variables name this process.
HAND_DOWN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="chat")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Place:
    """Where they run: here, or on the far side of a network, with the words that lead there."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        aside: str = "127.0.0.1",
        within: Sequence[str] = (),
        namespace: Namespace | None = None,
    ) -> None:
        self.host = host
        self.aside = aside  # an address there that is not the load's
        self.within = list(within)
        self._namespace = namespace

    def entered(self) -> AbstractContextManager[None]:
        """Let a socket be made there."""
        return nullcontext() if self._namespace is None else self._namespace.entered()


@contextmanager
def running_instances(
    mode: str,
    folder: Path,
    count: int,
    *more: str,
    listener: str,
    place: Place | None = None,
    is_joined: bool = True,
) -> Iterator[Daemon]:
    """Run *count* daemons that share a port, and a bus between them unless they are to be apart.

    Raises DaemonFailedError.
    """
    place = place or Place()
    with ExitStack() as stack:
        with place.entered():
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((place.host, 0))  # unless it listens it holds the port and takes no share
        if listener in PASSED:
            sock.listen(BACKLOG)
        words = ["--listener", listener, "--host", place.host, "--metrics-host", place.aside, *more]
        if is_joined and count > 1:
            words += ["--bus", stack.enter_context(_running_nats(folder, place))]
        names = [["--bus-instance", str(n)] if "--bus" in words else [] for n in range(count)]
        started = [
            stack.enter_context(_one(mode, folder / f"{n}.log", [*words, *name], sock, place))
            for n, name in enumerate(names)
        ]
        found = Daemon(
            pid=started[0].pid,
            address=started[0].address,
            metrics=",".join(one.metrics for one in started),
            others=tuple(one.pid for one in started[1:]),
        )
        if is_joined:
            _await_joined(found)
        yield found


def _one(
    mode: str, log: Path, words: list[str], sock: socket.socket, place: Place
) -> AbstractContextManager[Daemon]:
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return running_daemon(mode, log, *words, within=place.within, port=sock.getsockname()[1])
    by_descriptor = [*place.within, sys.executable, "-c", HAND_DOWN, str(sock.fileno())]
    return running_daemon(mode, log, *words, within=by_descriptor, pass_fds=(sock.fileno(),))


def _await_joined(daemon: Daemon) -> None:
    """Return when each has heard of each: what is said before is not owed to all."""
    urls = server.split(daemon.metrics)
    deadline = time.monotonic() + START_SECONDS
    while any(server.read(url).gauges.get("bus_peers", 0) < len(urls) - 1 for url in urls):
        if time.monotonic() > deadline:
            raise DaemonFailedError("the instances have not found each other on the bus")
        time.sleep(POLL_SECONDS)


@contextmanager
def _running_nats(folder: Path, place: Place) -> Iterator[str]:
    """Run a NATS server on a free port, as long as the block lasts; yield its URL."""
    program = shutil.which(NATS)
    if program is None:
        raise DaemonFailedError(f'several instances need the program "{NATS}" (package {NATS})')
    command = [program, "-a", place.aside, "-p", "-1", "--ports_file_dir", str(folder)]
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - as found
            [*place.within, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us
            preexec_fn=tied(),  # noqa: PLW1509 - it makes two system calls and takes no lock
        )
    try:
        ports = folder / f"{NATS}_{process.pid}.ports"
        deadline = time.monotonic() + START_SECONDS
        while not (ports.exists() and ports.read_text().endswith("}")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DaemonFailedError(f"{NATS} did not begin to listen")
            time.sleep(POLL_SECONDS)
        port = json.loads(ports.read_text())["nats"][0].rpartition(":")[2]
        yield f"nats://{place.aside}:{port}"
    finally:
        process.kill()  # it keeps nothing
        process.wait()
