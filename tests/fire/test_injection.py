"""Every error that a system call of the loop can meet, on the real daemon, in both modes.

After each: it still serves, the ledger balances, no descriptor is lost, memory is flat.
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from etltd.reactor import ACCEPT_BURST
from tests.daemon.rig import RESET_ON_CLOSE
from tests.fire import injection
from tests.system.rig import Client, Crowd, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFUSAL = injection.refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))

RESETS = ("ECONNRESET", "EPIPE")
SHORTAGES = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")
TRANSIENT = ("EAGAIN", "EINTR")
EVERYTHING = (*TRANSIENT, *RESETS, *SHORTAGES)
LEAST_SNDBUF = 2304  # doubled by the kernel, the least it gives
ROUNDS = 4  # where a cut goes depends on how much is read at once, too
FLAT_BYTES = 8 << 20  # the interpreter's own ups and downs


def leave(client: Client) -> None:
    """Go at once, by a reset: after a mere FIN one may still listen, and is kept."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.sock.close()


def shrinkable(daemon: DaemonProcess, path: Path) -> tuple[Client, socket.socket]:
    """Return a client on the Unix socket *path*, and a second hold on the daemon's end of it."""
    client = Client(str(path))
    until(lambda: daemon.metrics()["connections"] == 2)
    process = os.pidfd_open(daemon.pid)
    try:
        for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            end = socket.socket(fileno=_pidfd_getfd(process, int(entry.name)))
            is_peer = not end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if end.family == socket.AF_UNIX and is_peer and end.getsockname() == str(path):
                return client, end
            end.close()
    finally:
        os.close(process)
    raise AssertionError("the daemon has no such peer")


def _pidfd_getfd(process: int, fd: int) -> int:
    """pidfd_getfd(2), which Python does not have; its number is the same on every architecture."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(438, process, fd, 0)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return copy


class Scene:
    """A daemon, three who stay and talk, and what it held before anything went wrong."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.words = 0
        self.crowd = daemon.crowd(2)
        self.talk(self.crowd)
        self.before = daemon.quiet_metrics()

    def talk(self, crowd: Crowd) -> None:
        """Have each say something, and all others hear it."""
        for client in crowd.clients:
            self.words += 1
            word = b"word %d of %d\n" % (self.words, id(self))
            client.say(word)
            others = [one for one in crowd.clients if one is not client]
            crowd.until(lambda: all(word in one.inbox for one in others))

    def victim(self) -> Client:
        """Return a newcomer, whose calls will fail."""
        newcomer = self.daemon.crowd(1).clients[0]
        self.at_first = self.daemon.metrics()
        return newcomer

    def hear(self, word: bytes, *more: Client, but: Client | None = None) -> None:
        """Let those who stay hear *word*."""
        crowd = Crowd([*self.crowd.clients, *more])
        crowd.until(lambda: all(word in one.inbox for one in self.crowd.clients if one is not but))

    def await_end(self, victim: Client, error: str) -> None:
        """Wait until *victim* is cut off, and see that it is counted under the right reason."""
        reason = f"connections_closed_total {'reset' if error in RESETS else 'error'}"
        Crowd([victim]).until_end()
        until(lambda: self.daemon.metrics()[reason] == self.at_first[reason] + 1)

    def leave(self, client: Client) -> None:
        """Have *client* go, and the daemon notice."""
        leave(client)
        until(lambda: self.daemon.metrics()["connections"] == len(self.crowd.clients))

    def check(self, lost_descriptors: int = 0) -> dict[str, float]:
        """Check that it serves those who were there and somebody new, and holds what it held."""
        newcomer = self.victim()
        crowd = Crowd([*self.crowd.clients, newcomer])
        self.talk(crowd)
        self.leave(newcomer)
        found = self.daemon.quiet_metrics()
        assert_ledger(found)
        assert found["outbox_messages"] == found["outbox_bytes"] == 0
        assert found["open_fds"] == self.before["open_fds"] + lost_descriptors
        grown = found["resident_memory_bytes"] - self.before["resident_memory_bytes"]
        assert grown < FLAT_BYTES
        return found

    def close(self) -> None:
        for client in self.crowd.clients:
            leave(client)
        until(lambda: not self.daemon.metrics()["connections"])


@pytest.fixture
def scene(shared: DaemonProcess) -> Iterator[Scene]:
    """Return a scene on the daemon that all tests here share."""
    made = Scene(shared)
    yield made
    made.close()


def failures_of(scene: Scene, errors: tuple[str, ...]) -> Iterator[tuple[str, Client]]:
    """Yield each error and a newcomer whom it is to hit; check everything after each."""
    for error in errors:
        victim = scene.victim()
        yield error, victim
        scene.leave(victim)
        scene.check()


def test_a_read_that_fails_costs_that_peer_alone(scene: Scene, tmp_path: Path) -> None:
    """What it said and was not read is lost with it; it is told by a reset."""
    for error, victim in failures_of(scene, EVERYTHING):
        with injection.failing(scene.daemon.pid, "recvfrom", error, tmp_path) as failures:
            victim.say(b"last words\n")
            Crowd([victim]).until(failures)
        if error in TRANSIENT:
            victim.say(b"more\n")  # under ET the next event, after a lie that there was nothing
            scene.hear(b"last words\n", victim)
        else:
            scene.await_end(victim, error)


def test_a_write_that_fails_costs_its_recipient_alone(scene: Scene, tmp_path: Path) -> None:
    """A recipient that is cut off is counted, and so is what it did not get."""
    speaker = scene.crowd.clients[0]
    for error, victim in failures_of(scene, EVERYTHING):
        word = f"hear {error} {scene.words}\n".encode()
        # The first write of a fan-out goes to the other who stays, the second to the newcomer.
        with injection.failing(scene.daemon.pid, "sendto", error, tmp_path, when="2") as failures:
            speaker.say(word)
            scene.crowd.until(failures)
        scene.hear(word, but=speaker)
        if error in TRANSIENT:
            Crowd([victim]).until(lambda: word in victim.inbox)
        else:
            scene.await_end(victim, error)


def test_a_flush_that_fails_costs_that_peer_alone(scene: Scene, tmp_path: Path) -> None:
    """What is in an outbox goes by sendmsg, a notice for instance."""
    for error, victim in failures_of(scene, EVERYTHING):
        with injection.failing(scene.daemon.pid, "sendmsg", error, tmp_path) as failures:
            victim.say(b"x" * 9000 + b"\n")
            Crowd([victim]).until(failures)
        if error in TRANSIENT:
            Crowd([victim]).until(lambda: victim.inbox == b"[etltd] line too long, discarded\n")
        else:
            scene.await_end(victim, error)


@pytest.mark.parametrize("errors", [(*TRANSIENT, *RESETS), SHORTAGES[:2], SHORTAGES[2:]], ids=str)
def test_an_accept_that_fails_loses_nobody(
    scene: Scene, errors: tuple[str, ...], tmp_path: Path
) -> None:
    """The newcomer waits in the backlog: for the next tick, or for a second without descriptors."""
    for error in errors:
        with injection.failing(scene.daemon.pid, "accept4", error, tmp_path) as failures:
            newcomer = scene.daemon.dial()
            until(failures)
        until(lambda: scene.daemon.metrics()["connections"] == 3)
        scene.leave(newcomer)
        scene.check()
    pauses = "connections_rejected_total no_descriptors"
    assert scene.daemon.metrics()[pauses] == scene.before[pauses] + len({*errors} & {*SHORTAGES})


def test_a_wait_that_fails_is_waited_again(scene: Scene, tmp_path: Path) -> None:
    """The manual page promises no errors but EINTR and bugs; a shortage passes all the same."""
    for error in (*TRANSIENT, *SHORTAGES):
        with injection.failing(
            scene.daemon.pid, "epoll_wait", error, tmp_path, when="1..3"
        ) as failures:
            until(lambda: failures() == 3)
        scene.check()


def test_a_peer_that_epoll_does_not_take_is_closed_at_once(scene: Scene, tmp_path: Path) -> None:
    """It would be connected and never be heard."""
    for error in ("ENOMEM", "ENOSPC"):
        before = scene.daemon.metrics()["connections_closed_total error"]
        with injection.failing(scene.daemon.pid, "epoll_ctl", error, tmp_path) as failures:
            newcomer = scene.daemon.dial()
            until(failures)
        Crowd([newcomer]).until_end()
        assert scene.daemon.metrics()["connections_closed_total error"] == before + 1
        scene.check()


def test_a_listener_that_epoll_does_not_take_back_is_tried_again(
    scene: Scene, tmp_path: Path
) -> None:
    """It cannot leave, or cannot come back: either used to end the daemon."""
    for nth in ("1", "2", "3"):
        also = f"epoll_ctl:error=ENOMEM:when={nth}"
        with injection.failing(
            scene.daemon.pid, "accept4", "EMFILE", tmp_path, when="1..2", also=also
        ) as failures:
            newcomer = scene.daemon.dial()
            until(lambda: failures() >= 2)
            until(lambda: scene.daemon.metrics()["connections"] == 3)
        scene.leave(newcomer)
        scene.check()


def test_a_shared_listener_that_epoll_does_not_take_back_is_tried_again(
    start: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """Edge-triggered, it leaves and comes back after each turn that ends before its backlog.

    Here such a turn is made of peers who gave up while they waited: none of them is registered.
    """
    scene = Scene(start("et", "--listener", "reuseport"))
    for error in ("ENOMEM", "ENOSPC"):
        for nth in ("1", "2"):
            also = f"epoll_ctl:error={error}:when={nth}"
            when = f"1..{ACCEPT_BURST}"
            with injection.failing(
                scene.daemon.pid, "accept4", "ECONNABORTED", tmp_path, when=when, also=also
            ) as failures:
                newcomer = scene.daemon.dial()
                until(lambda: failures() == ACCEPT_BURST + 1)
                until(lambda: scene.daemon.metrics()["connections"] == 3)
            scene.leave(newcomer)
            scene.check()
    scene.close()


def test_a_close_that_fails_does_not_make_the_loop_spin(scene: Scene, tmp_path: Path) -> None:
    """Strace leaves the descriptor open, which Linux would not: it stays in the interest list."""
    lost = 0
    for error in ("EINTR", "EIO", "ENOSPC"):
        victim = scene.victim()
        with injection.failing(scene.daemon.pid, "close", error, tmp_path) as failures:
            leave(victim)
            until(failures)
            lost += 1
        before = scene.daemon.quiet_metrics()["epoll_waits_total"]
        found = scene.check(lost_descriptors=lost)
        assert found["epoll_waits_total"] - before < 500


def test_a_write_may_end_at_any_byte(
    start: Callable[..., DaemonProcess], mode: str, tmp_path: Path
) -> None:
    """Short writes of every length within a line, by the kernel itself.

    A Unix socket takes pieces of half its buffer, and root may set the buffer of another process's
    socket, to the byte: so the cut goes through every place of a line, and nothing is imitated.
    """
    daemon = start(mode, "--unix", str(tmp_path / "chat"))
    speaker = daemon.crowd(1).clients[0]
    listener, theirs = shrinkable(daemon, tmp_path / "chat")
    line = b"%052d\n"
    size = len(b"[USER1] ") + 53
    heard = 0
    lengths = set()
    for step in range(ROUNDS * size):
        if step >= size and len(lengths) > size * 0.9:
            break
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LEAST_SNDBUF + step % size)
        before = daemon.metrics()["sent_bytes_total"]
        speaker.say(b"".join(line % (heard + n) for n in range(150)))
        heard += 150
        Crowd([speaker]).until(lambda: daemon.metrics()["messages_received_total"] == heard)
        lengths.add((daemon.metrics()["sent_bytes_total"] - before) % size)
        Crowd([listener]).until(lambda: len(listener.inbox) == heard * size)
    found = daemon.quiet_metrics()
    theirs.close()
    listener.sock.close()
    assert listener.inbox == b"".join(b"[USER1] " + line % n for n in range(heard))
    assert found["messages_delivered_total"] == heard
    assert len(lengths) > size * 0.9, "the cuts did not go everywhere"
    assert_ledger(found)
