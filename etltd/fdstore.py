"""Systemd's descriptor store: clients that outlive the process (sd_pid_notify_with_fds(3)).

``systemctl restart`` stops one process and starts another. With ``RestartKillSignal=SIGUSR1`` the
first one knows that it is no plain stop: it leaves its sockets and its state with the manager,
which passes them to the next one like any other (sd_listen_fds(3)).

A stored socket is open: closing ours sends no FIN, so what was stored must be taken out again as
soon as it is back with us. The manager compares every new one with all that it has, which grows by
the square: 0.25 s for 1,000 on the machine where it was measured, 2.5 s for 3,000. Hence a limit.

If the next process cannot start, the manager closes what it has, and nobody was told. Hence a
rehearsal (`etltd.succession`) comes first, and a restart without its success is a stop.

The manager does not say whether it kept what it was sent. A unit that asks for this signal without
``FileDescriptorStoreMax=`` would lose every client; ours has both.
"""

from __future__ import annotations

import array
import os
import select
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etltd import handover, snapshot, succession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from etltd.handover import Peer, Port, State

STATE, SOCKETS = NAMES = ("etltd-state", "etltd-sockets")
MOST_SOCKETS = 2000  # under the unit's FileDescriptorStoreMax=2048
PER_MESSAGE = 250  # SCM_MAX_FD is 253
PATIENCE_SECONDS = 10.0


def own(state: State) -> State:
    """Return *state* without the listening sockets that the manager passed.

    It has them, and passes them again or, if it was told so meanwhile, others.
    """
    return replace(state, ports=[port for port in state.ports if not port.passed])


def put(address: str, state: State) -> OSError | MemoryError | None:
    """Leave our `own` *state* with the manager at *address*; return what went wrong."""
    fds = state.fds
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
            succession.written(state) as memory,
        ):
            manager.settimeout(PATIENCE_SECONDS)
            manager.connect(address)
            _store(manager, STATE, [memory])
            for start in range(0, len(fds), PER_MESSAGE):
                _store(manager, SOCKETS, fds[start : start + PER_MESSAGE])
            _wait(manager)
    except (OSError, MemoryError) as error:
        return error
    return None


def _store(manager: socket.socket, name: str, fds: list[int]) -> None:
    # FDPOLL=0: a peer that leaves meanwhile has last words, which are still to be read.
    _send(manager, f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds)


def _wait(manager: socket.socket) -> None:
    """Return when the manager has read all that it was sent."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            _send(manager, "BARRIER=1", [theirs])
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ours, 0)  # a hang-up is always reported
        if not poll.poll(PATIENCE_SECONDS * 1000):
            raise TimeoutError("the manager does not read")
    finally:
        os.close(ours)


def _send(manager: socket.socket, text: str, fds: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    manager.sendmsg([text.encode()], [rights])


def stored(given: Mapping[str, list[int]]) -> State:
    """Return what the process before us stored, with the descriptors that its sockets have now.

    *given* is by name; the sockets in it are the caller's to close.

    Raises:
        UnfitError: it cannot be taken.
    """
    state = _newest(given.get(STATE, []))
    found = {snapshot.inode(fd): fd for fd in given.get(SOCKETS, [])}
    return replace(
        state,
        ports=list(_found(state.ports, found)),
        peers=list(_found(state.peers, found)),
    )


def peers(fds: list[int]) -> int:
    """Count those of the stored *fds* that are peers': the others listen."""
    return sum(not _listens(fd) for fd in fds)


def _listens(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


def _newest(fds: list[int]) -> State:
    """Return the newest of the states in *fds*, and close them.

    One of an earlier restart is there, too, if the manager was not told to forget it. In which
    order it passes them is not documented, and not the same after `systemctl daemon-reexec`.
    """
    states: list[State] = []
    problem = handover.UnfitError("the service manager has not kept the state")
    for fd in fds:
        with os.fdopen(fd, "rb") as source:
            source.seek(0)
            try:
                states.append(handover.decode(source))
            except handover.UnfitError as error:
                problem = error  # and it may be the newest
    if len(states) < max(1, len(fds)):
        raise problem
    return max(states, key=lambda state: state.began_ns)


def _found(ones: list[Port] | list[Peer], found: Mapping[int, int]) -> Iterator[Any]:
    for one in ones:
        if one.inode not in found:
            raise handover.UnfitError("the service manager has not kept every socket")
        yield replace(one, fd=found[one.inode])
