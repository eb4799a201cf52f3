"""The sockets that a daemon listens on: a predecessor's, those that were passed, or its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from etltd import listener as listeners
from etltd import snapshot
from etltd.listener import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from etltd.config import Config
    from etltd.handover import State

CHAT, METRICS = "chat", "metrics"  # what a port is for
SCRAPE_BACKLOG = 16

T = TypeVar("T")


class StartError(Exception):
    """The daemon cannot start; the message says what is in the way."""


def chat_listeners(
    config: Config, passed: Mapping[str, list[socket.socket]], state: State | None
) -> Iterator[Listener]:
    """Yield them one by one, so that those already made are closed if another cannot be.

    *passed* is by name, of LISTEN_FDS, and goes before what *state* has: a predecessor's own, which
    nobody would accept from.

    Raises:
        StartError: an address is taken, or what was passed is no listening socket.
    """
    inherited = _inherited(CHAT, state)
    adopted = [sock for name, socks in passed.items() if name != METRICS for sock in socks]
    for sock in adopted:
        yield or_start_error("a socket of LISTEN_FDS", partial(listeners.adopt, sock))
    if not adopted:
        yield from inherited or _own(config)
    else:
        for listener in inherited:
            listener.leave_path()  # what is there now may be what was passed
            listener.close()


def _inherited(role: str, state: State | None) -> list[Listener]:
    """Return what *state* has for *role*."""
    ports = state.ports if state is not None else []
    return [
        Listener(snapshot.taken(one), unlink=Path(one.unlink) if one.unlink else None)
        for one in ports
        if one.role == role
    ]


def _own(config: Config) -> Iterator[Listener]:
    if config.listener in {"exclusive", "shared"}:
        raise StartError(
            f"--listener {config.listener} shares a socket that LISTEN_FDS passes, and none was"
        )
    reuse_port = config.listener == "reuseport"
    yield or_start_error(
        f"--host {config.host} --port {config.port}",
        lambda: listeners.bind_tcp(config.host, config.port, config.backlog, reuse_port=reuse_port),
    )
    path = config.unix
    if path is not None:
        yield or_start_error(f"--unix {path}", lambda: listeners.bind_unix(path, config.backlog))


def metrics_socket(
    config: Config, passed: Mapping[str, list[socket.socket]], state: State | None
) -> socket.socket:
    """Return the blocking socket on which scrapes are answered. Raises StartError."""
    host, port = config.metrics_host, config.metrics_port
    inherited = _inherited(METRICS, state)
    adopted = passed.get(METRICS)
    if adopted:
        for one in inherited:
            one.close()
        listener = or_start_error("a socket of LISTEN_FDS", partial(listeners.adopt, adopted[0]))
    elif inherited:
        (listener,) = inherited
    else:
        listener = or_start_error(
            f"--metrics-host {host} --metrics-port {port}",
            partial(listeners.bind_tcp, host, port, SCRAPE_BACKLOG),
        )
    listener.sock.setblocking(True)
    return listener.sock


def or_start_error(where: str, bind: Callable[[], T]) -> T:
    """Return what *bind* returns; its OSError becomes a StartError that names *where*."""
    try:
        return bind()
    except OSError as error:
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from None
