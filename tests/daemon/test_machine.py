"""Any interleaving of what peers do, against a model: nothing lost, torn, doubled or reordered.

Hypothesis chooses who comes, talks, reads a little, shuts down or resets, and when the loop ticks,
is interrupted by signals or hands everybody to a successor; small buffers make the kernel cut
writes short. Afterwards every peer that is still there has heard exactly what it was owed, less
what it was told that it missed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
import termios
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.daemon.rig import Peer, Rig

EXAMPLES = int(os.environ.get("ETLT_EXAMPLES", "25"))
STEPS = 40
SMALL_BUFFER = 4608  # the least that the kernel gives, nearly
LONGEST = 64
DROPPED = re.compile(rb"\[etltd\] (\d+) messages dropped")
TOO_LONG = b"[etltd] line too long, discarded"
words = st.binary(min_size=0, max_size=12).map(lambda word: word.replace(b"[", b"("))
chunks = st.one_of(
    st.lists(words, min_size=1, max_size=5).map(b"\n".join),
    st.builds(lambda times: b"y" * 59 + b"\n" + (b"x" * 59 + b"\n") * times, st.integers(20, 400)),
    st.just(b"z" * 100),
)


@dataclass(eq=False)
class Person:
    """A peer, what it said, and how much everybody had said when it came."""

    peer: Peer
    said: bytearray = field(default_factory=bytearray)
    missed: dict[int, int] = field(default_factory=dict)  # user: lines said before this one came
    reset_after: int | None = None  # lines that were certainly read before it reset
    gone: bool = False

    @property
    def number(self) -> int:
        return self.peer.conn.id

    def lines(self) -> list[bytes]:
        """Return what it said that is a message: whole, and not too long."""
        return [line for line in self.said.split(b"\n")[:-1] if len(line) < LONGEST]


class Chat(RuleBasedStateMachine):
    """One reactor and the people on it."""

    options: dict[str, object]
    mode: str

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(
            self.mode, max_line_bytes=LONGEST, high_water_bytes=8192, sndbuf=SMALL_BUFFER,
            **self.options,
        )  # fmt: skip
        self.people: list[Person] = []

    here = Bundle("here")

    def present(self) -> list[Person]:
        return [person for person in self.people if not person.gone]

    def read_all(self) -> None:
        """Tick until everything said by those who are here has been read."""
        self.rig.tick_until(lambda: all(is_read_whole(person) for person in self.present()))
        self.rig.tick(0)

    @initialize(target=here, count=st.integers(2, 4))
    def begin(self, count: int) -> object:
        return multiple(*[self.come_in() for _ in range(count)])

    @precondition(lambda self: len(self.present()) < 5)
    @rule(target=here)
    def come(self) -> Person:
        self.read_all()
        return self.come_in()

    def come_in(self) -> Person:
        person = Person(self.rig.dial(SMALL_BUFFER))
        person.missed = {
            other.number: 0 if other.reset_after == 0 else len(other.lines())
            for other in self.people  # of one that reset, more may be read yet
        }
        self.people.append(person)
        return person

    @rule(person=here, chunk=chunks)
    def talk(self, person: Person, chunk: bytes) -> None:
        if person.peer.finished:
            return
        try:
            sent = person.peer.sock.send(chunk)
        except BlockingIOError:
            return
        person.said += chunk[:sent]

    @rule(person=here, chunk=chunks)
    def talk_and_be_read(self, person: Person, chunk: bytes) -> None:
        self.talk(person, chunk)
        self.rig.tick(0)

    @rule(times=st.integers(1, 3))
    def tick(self, times: int) -> None:
        for _ in range(times):
            self.rig.tick(0)

    @rule()
    def tick_through_a_signal(self) -> None:
        """Have epoll_wait fail by EINTR, more than once, while it waits (or just before)."""
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            self.rig.tick(0.002)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @precondition(lambda self: self.rig.stats.received_bytes)
    @rule()
    def hand_over(self) -> None:
        self.rig.hand_over()

    @rule(person=here, size=st.sampled_from([1, 7, 500, 1 << 16]))
    def read_a_little(self, person: Person, size: int) -> None:
        if not person.peer.at_end:
            with contextlib.suppress(BlockingIOError):
                person.peer.inbox += person.peer.sock.recv(size)

    @precondition(lambda self: sum(not one.peer.finished for one in self.present()) > 2)
    @rule(person=here)
    def finish(self, person: Person) -> None:
        if not person.peer.finished:
            person.peer.finish()

    @precondition(lambda self: len(self.present()) > 2)
    @rule(person=consumes(here))
    def leave(self, person: Person) -> None:
        """Reset in the midst of it: what was not read by then may be lost."""
        person.gone = True
        person.reset_after = 0
        person.peer.reset()

    @precondition(lambda self: len(self.present()) > 2)
    @rule(person=consumes(here))
    def leave_when_read(self, person: Person) -> None:
        self.read_all()
        person.gone = True
        person.reset_after = len(person.lines())
        person.peer.reset()

    @invariant()
    def the_ledger_balances(self) -> None:
        self.rig.assert_ledger()

    def teardown(self) -> None:
        try:
            self.read_all()
            staying = self.present()
            self.rig.tick_until(lambda: self.is_quiet(staying))
            for person in staying:
                self.check(person)
        finally:
            self.rig.close()

    def is_quiet(self, staying: list[Person]) -> bool:
        before = sum(len(person.peer.inbox) for person in staying)
        self.rig.tick(0)
        heard = sum(len(person.peer.hear()) for person in staying)
        return (
            heard == before
            and not self.rig.stats.outbox_bytes
            and not any(on_its_way(person.peer) for person in staying)
        )

    def check(self, person: Person) -> None:
        """Compare all that a peer heard with all that it was owed."""
        heard: dict[int, list[bytes]] = {}
        dropped = told_off = 0
        *lines, rest = person.peer.inbox.split(b"\n")
        assert rest == b""
        for line in lines:
            if match := DROPPED.fullmatch(line):
                dropped += int(match[1])
            elif line == TOO_LONG:
                told_off += 1
            else:
                user, _, words = line.removeprefix(b"[USER").partition(b"] ")
                heard.setdefault(int(user), []).append(words)
        least = most = 0
        for other in self.people:
            if other is person:
                assert person.number not in heard
                continue
            owed = other.lines()[person.missed.get(other.number, 0) :]
            assert is_subsequence(heard.pop(other.number, []), owed)
            most += len(owed)
            certain = len(other.lines()) if other.reset_after is None else other.reset_after
            least += max(0, certain - person.missed.get(other.number, 0))
        assert not heard
        total = dropped + sum(line.startswith(b"[USER") for line in lines)
        assert least <= total <= most


def is_read_whole(person: Person) -> bool:
    """Whether the reactor has read all that *person* said, or will read no more of it.

    What has arrived is asked of the receiving end: the sender's TIOCOUTQ waits for acknowledgements
    as well, and those need room at a peer that does not read.
    """
    conn = person.peer.conn
    if conn.close_reason is not None or conn.sock.fileno() < 0 or not conn.wants_read:
        return True
    return bytes_received(conn.sock) >= len(person.said) and not queued(conn.sock, termios.FIONREAD)


def bytes_received(sock: socket.socket) -> int:
    """Return the bytes that the kernel has for *sock* or had (tcpi_bytes_received, linux/tcp.h)."""
    (received,) = struct.unpack("=128xQ", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136))
    return int(received)


def on_its_way(peer: Peer) -> int:
    """Return the bytes that the reactor sent and *peer* has not read.

    What is sent over loopback is there at once, but when the kernel is busy: then a thread of its
    own carries it, which waits for a processor as others do.
    """
    conn = peer.conn
    if conn.sock.fileno() < 0:
        return 0
    return queued(conn.sock, termios.TIOCOUTQ) + queued(peer.sock, termios.FIONREAD)


def queued(sock: socket.socket, request: int) -> int:
    """Return the bytes not acknowledged (TIOCOUTQ) or not read (FIONREAD), tcp(7)."""
    (size,) = struct.unpack("i", fcntl.ioctl(sock, request, b"\0" * 4))
    return int(size)


def is_subsequence(some: list[bytes], of: list[bytes]) -> bool:
    """Whether *some* are *of* in their order, some perhaps left out."""
    rest = iter(of)
    return all(any(one == other for other in rest) for one in some)


OPTIONS = {
    "usual": {},
    "tiny-reads": {"recv_bytes": 7, "reads_per_event": 16},
    "short-read": {"drain": "short-read", "recv_bytes": 64},
    "one-event": {"max_events": 1},
    "message": {"fan_out": "message"},
}


@pytest.mark.parametrize("mode", ["lt", "et"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_interleaving_loses_tears_doubles_or_reorders(
    mode: str, options: dict[str, object]
) -> None:
    machine = type("Chat", (Chat,), {"mode": mode, "options": options})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
