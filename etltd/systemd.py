"""What systemd asks of a daemon: readiness, watchdog, sockets (sd_notify(3), sd_listen_fds(3)).

The environment is an argument. No NOTIFY_SOCKET means nobody asked, and nothing is done. A failure
to notify is reported to the caller's log and never stops the daemon.
"""

from __future__ import annotations

import os
import socket
from time import monotonic_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Tells the service manager how things are.

    One socket for good, and write(2): the loop's sendto, sendmsg and close are its peers' work, for
    its own counters and for the kernel's witness, which would not agree if we used them here.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock: socket.socket | None = None

    @property
    def address(self) -> str:
        """Where the manager listens, "" if there is none."""
        return self._address

    def send(self, *lines: str) -> OSError | None:
        """Send the assignments *lines* (``READY=1``) in one datagram; return what went wrong."""
        if not self._address:
            return None
        data = "\n".join(lines).encode()
        try:
            try:
                self._write(data)
            except ConnectionRefusedError:  # the manager has a new socket at the old address
                self.close()
                self._write(data)
        except OSError as error:  # a full queue included: the loop must not wait for anybody
            return error
        return None

    def _write(self, data: bytes) -> None:
        if self._sock is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            sock = socket.socket(socket.AF_UNIX, kind)
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
            self._sock = sock
        os.write(self._sock.fileno(), data)

    def close(self) -> None:
        """Forget the manager until there is something to say again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def reloading() -> tuple[str, str]:
    """Return what announces that READY=1 will have to be said anew (sd_notify(3))."""
    return "RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}"


def watchdog_seconds(environment: MutableMapping[str, str], pid: int) -> float | None:
    """Return the longest the manager goes without WATCHDOG=1, or None (sd_watchdog_enabled(3))."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1e6


def listening_sockets(
    environment: MutableMapping[str, str],
    pid: int,
    first_fd: int = FIRST_FD,
    stored: Mapping[str, list[int]] | None = None,
) -> dict[str, list[socket.socket]]:
    """Take over the sockets passed to process *pid*, by their FDNAMES; take the variables away.

    Unnamed ones are called ``unknown``, as in sd_listen_fds_with_names(3). What is under a name of
    *stored* is added there instead, as it is.
    """
    given = environment.get("LISTEN_PID"), environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(variable, None)
    sockets: dict[str, list[socket.socket]] = {}
    if given[0] != str(pid) or not given[1].isdecimal():
        return sockets
    for index in range(int(given[1])):
        fd = first_fd + index
        os.set_inheritable(fd, False)
        name = (names[index] if index < len(names) else "") or "unknown"
        if stored is not None and name in stored:
            stored[name].append(fd)
        else:
            sockets.setdefault(name, []).append(socket.socket(fileno=fd))
    return sockets
