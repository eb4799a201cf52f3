"""Listening sockets: bind or adopt them, accept from them, survive the lack of descriptors.

A process's own stays level-triggered in both modes, so that accepting is not part of the
experiment; what several processes share is woken as `etltd.trigger.accept_mask` says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# A peer that closed while nobody talks looks like one that only stopped talking. Its kernel forgets
# the connection after a minute and answers the next keepalive probe with a reset; one that vanished
# answers nothing. The probes begin after a third of the timeout.
KEEPALIVE_PROBES = 4


class Listener:
    """One listening socket, and what its peers' sockets inherit from it."""

    def __init__(self, sock: socket.socket, unlink: Path | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self._unlink = unlink
        self._identity = _identity(unlink) if unlink else None
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Linux hands these down to accepted sockets: no system call per connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def address(self) -> str:
        """Where clients find it."""
        return address_of(self.sock)

    @property
    def own_path(self) -> Path | None:
        """The Unix socket's path if it goes when this closes: it was ours, and still is."""
        found = _identity(self._unlink) if self._unlink else None
        return self._unlink if found is not None and found == self._identity else None

    def leave_path(self) -> None:
        """Let the Unix socket's path stay when this closes: another process has the socket too."""
        self._unlink = None

    def set_buffers(self, send_bytes: int, receive_bytes: int) -> None:
        """Fix the kernel buffers of peers to come; 0 leaves the size to the kernel (tcp(7))."""
        for option, size in ((socket.SO_SNDBUF, send_bytes), (socket.SO_RCVBUF, receive_bytes)):
            if size:
                self.sock.setsockopt(socket.SOL_SOCKET, option, size)

    def ask_after(self, timeout_seconds: float) -> None:
        """Have the kernel ask peers to come whether they are there; 0: never."""
        ask_after(self.sock, timeout_seconds)

    def accept(self) -> tuple[socket.socket, str] | None:
        """Return the next peer's non-blocking socket and its IP address ("" for Unix), or None.

        Raises:
            OSError: BlockingIOError when nobody waits; with an errno of `OUT_OF_DESCRIPTORS` when
                there is no room. None stands for a peer that gave up while it waited.
        """
        try:
            sock, name = self.sock.accept()
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise
            return None  # accept(2): ECONNABORTED and pending network errors are to be retried
        sock.setblocking(False)
        return sock, name[0] if isinstance(name, tuple) else ""

    def close(self) -> None:
        """Stop listening; a Unix socket's path goes too, if it was ours."""
        self.sock.close()
        path = self.own_path  # None if another server has bound it anew
        if path is not None:
            path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at *path* from another of that name, None if none is seen."""
    with contextlib.suppress(OSError):  # none there, or its folder is not for us: not ours to take
        status = path.lstat()
        return status.st_dev, status.st_ino
    return None


def ask_after(sock: socket.socket, timeout_seconds: float) -> None:
    """Have the kernel ask *sock*'s peer, or a listener's peers to come, whether they are there.

    Never with 0, and never a Unix socket's. Who is asked for the first time and has been silent for
    long already is asked at once.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, timeout_seconds > 0)
    if timeout_seconds:
        idle = max(1, round(timeout_seconds / 3))  # tcp(7): whole seconds
        interval = max(1, round(timeout_seconds * 2 / 3 / KEEPALIVE_PROBES))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def address_of(sock: socket.socket) -> str:
    """Return where *sock* listens: ``host:port``, ``[host]:port``, a path or ``@name``."""
    name = sock.getsockname()
    if isinstance(name, bytes):  # abstract, unix(7)
        return "@" + name[1:].decode(errors="backslashreplace")
    if isinstance(name, str):
        return name
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def adopt(sock: socket.socket) -> Listener:
    """Listen on *sock*, which somebody else bound.

    Raises:
        OSError: it does not listen; accepting from it would fail at once, for ever.
    """
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "it does not listen (Accept=yes in its unit?)")
    return Listener(sock)


def bind_tcp(host: str, port: int, backlog: int, *, reuse_port: bool = False) -> Listener:
    """Listen on *host*, a name or an address of either family, and *port* (0: any free one).

    *reuse_port* lets other processes of the same user do so as well; the kernel deals the
    connections out among them (SO_REUSEPORT, socket(7)).

    Raises:
        OSError: the name is unknown or the address is taken.
    """
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        sock.bind(address)
        sock.listen(backlog)
        return Listener(sock)
    except OSError:
        sock.close()
        raise


def bind_unix(path: Path, backlog: int) -> Listener:
    """Listen on *path*, mode 0660; a dead server's leftover is replaced, a live one's is not.

    Raises:
        OSError: the path is in use, is not a socket, or cannot be made.
    """
    _remove_leftover(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        old = os.umask(0o117)  # never, not even for a moment, open to everybody
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        sock.listen(backlog)
        return Listener(sock, unlink=path)
    except OSError:
        sock.close()
        raise


def _remove_leftover(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # its backlog is full: somebody listens
            pass
    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
