"""Three instances on two networks over one NATS, guests that come and go, and what goes wrong.

Claim: every message reaches every guest of every instance once, in each sender's order, or is
counted and announced to it.

How it is checked. Guests number what they say, from nought. *Steady* guests stay for as long as
their instance lives; where one is started again, others come, and what is said from their admission
on is owed to them. For each steady guest that is there at the end, and before each kill, so that no
guest's books are thrown away unjudged:

- no sender's numbers are heard twice or out of order (this holds for every guest);
- how much it missed, of all senders together, is how much it was told of, no more and no less (a
  notice names no sender);
- what it was told is what its instance counted as lost.

What a killed instance had taken from its guests and not passed on is in nobody's books: its guests'
connections ended. That is what they said after the judgement before the kill and nobody at another
instance heard; it is missed by nobody, and all else that they said is.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from loadclient.network.conditions import parse
from loadclient.network.link import ENDS, LOAD, network, within
from tests.system.nats import NatsServer
from tests.system.rig import DROPPED, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from loadclient.network.link import Network
    from loadclient.network.namespaces import Namespace

LINE = re.compile(rb"\[USER\d+@[a-c]\] (\d+) (\d+)\n")
STEADY = 3  # guests at each instance
VISITORS = 2  # at each instance, at any time
INTERVAL_SECONDS = 0.1  # between two messages of one guest
VISIT_SECONDS = 1.0
SETTLE_SECONDS = 60.0
LAST_SECONDS = 1.0  # between the judgement and the kill: there is talk as it dies


@dataclass
class Guest:
    """A client that talks and listens."""

    number: int
    home: Instance
    sock: socket.socket
    leaves_at: float | None  # None: a steady guest
    witnessed: set[tuple[int, int]]  # senders and numbers heard at instances that are never killed
    said: int = 0
    is_killed: bool = False  # its instance, under it
    judged: int = 0  # how much of what it had said was known to be heard or told before the kill
    is_admitted: bool = False  # a steady guest to whom all that is said is owed
    owed_from: dict[int, int] = field(default_factory=dict)  # the first number, by sender
    lost_before: float = 0.0  # what its instance had counted as lost until then
    told: int = 0  # how many messages it was told it had missed
    heard: dict[int, int] = field(default_factory=dict)  # messages, by sender
    last: dict[int, int] = field(default_factory=dict)  # number of the last one, by sender
    faults: list[str] = field(default_factory=list)
    rest: bytes = b""
    is_gone: bool = False

    def died(self, start: int = 0) -> int:
        """Return how many of its messages from *start* on died with its instance."""
        if not self.is_killed:
            return 0
        first = max(start, self.judged)
        return sum((self.number, n) not in self.witnessed for n in range(first, self.said))

    def missed(self, others: Iterable[Guest]) -> int:
        """Return how many messages of *others* it was owed and did not hear."""
        missed = 0
        for other in others:
            if other is not self:
                start = self.owed_from.get(other.number, 0)
                owed = other.said - start - other.died(start)
                missed += owed - self.heard.get(other.number, 0)
        return missed

    def admit(self, others: Iterable[Guest], lost_before: float) -> None:
        """Take note that what *others* say from now on is owed to it."""
        self.is_admitted = True
        self.owed_from = {other.number: other.said for other in others}
        self.lost_before = lost_before
        self.told = 0
        self.heard.clear()

    def hear(self) -> None:
        """Read what has come, and judge it."""
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_gone = self.is_gone or not data
        lines = (self.rest + data).splitlines(keepends=True)
        self.rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            self._judge(line)

    def _judge(self, line: bytes) -> None:
        if dropped := DROPPED.fullmatch(line):
            self.told += int(dropped[1])
        elif found := LINE.fullmatch(line):
            sender, number = int(found[1]), int(found[2])
            if number <= self.last.get(sender, -1):
                self.faults.append(f"{number} of {sender} after {self.last[sender]}")
            self.last[sender] = number
            if number >= self.owed_from.get(sender, 0):
                self.heard[sender] = self.heard.get(sender, 0) + 1
            if not self.home.is_victim:
                self.witnessed.add((sender, number))
        elif not line.startswith(b"[etltd] "):
            self.faults.append(f"a torn line: {line!r}")

    def say(self) -> None:
        """Say the next number."""
        try:
            self.sock.send(b"%d %d\n" % (self.number, self.said))
            self.said += 1
        except OSError:
            self.is_gone = True


@dataclass
class Instance:
    """A daemon on one of the networks."""

    name: str
    mode: str
    where: Namespace
    folder: Path
    bus: str
    is_victim: bool = False  # the one that may be killed
    starts: int = 0

    def start(self) -> None:
        self.starts += 1
        self.daemon = DaemonProcess(
            *(self.mode, "--bus", self.bus, "--bus-instance", self.name),
            log=self.folder / f"{self.name}-{self.starts}.log",
            prefix=within(self.where),
        )
        self.daemon.wait_until_listening()

    def metrics(self) -> dict[str, float]:
        with self.where.entered():
            return self.daemon.metrics()


class Party:
    """Three instances and their guests."""

    def __init__(self, made: Network, folder: Path) -> None:
        self.net = made
        self.nats = NatsServer(folder, host=ENDS[LOAD][1], prefix=within(made.server))
        self.instances = [
            Instance(name, mode, where, folder, self.nats.url)
            for name, mode, where in (
                ("a", "lt", made.server), ("b", "et", made.client), ("c", "lt", made.client),
            )
        ]  # fmt: skip
        self.victim = self.instances[-1]
        self.victim.is_victim = True
        self.guests: list[Guest] = []
        self.departed: list[Guest] = []
        self._witnessed: set[tuple[int, int]] = set()
        self._next = 0.0
        self._judgements: list[str] = []  # of the victim's guests, before each kill
        for instance in self.instances:
            instance.start()
        self._join()
        for instance in self.instances:
            for _ in range(STEADY):
                self._invite(instance, None)
        self._admit()

    def _join(self) -> None:
        until(lambda: all(one.metrics()["bus_peers"] == 2 for one in self.instances))

    def _invite(self, home: Instance, leaves_at: float | None) -> None:
        with home.where.entered(), contextlib.suppress(OSError):
            sock = socket.create_connection(home.daemon.address, 5)
            sock.setblocking(False)
            number = len(self.guests) + len(self.departed)
            self.guests.append(Guest(number, home, sock, leaves_at, self._witnessed))

    def _admit(self) -> None:
        """Wait until the steady guests are taken in: what is said before is not owed to them."""
        until(lambda: all(one.metrics()["connections"] == STEADY for one in self.instances))
        for guest in self.guests:
            guest.admit(self.everybody(), 0)

    def everybody(self) -> list[Guest]:
        return [*self.guests, *self.departed]

    # -- what goes on ----------------------------------------------------------------------------

    def go_on(self, seconds: float) -> None:
        """Let guests talk, come and go."""
        until_ = monotonic() + seconds
        while monotonic() < until_:
            now = monotonic()
            if now >= self._next:
                self._next = now + INTERVAL_SECONDS
                self._churn(now)
                for guest in self.guests:
                    if guest.leaves_at is None or now < guest.leaves_at:
                        guest.say()
            self._listen(0.02)

    def _churn(self, now: float) -> None:
        for guest in self.guests[:]:
            is_late = guest.leaves_at is not None and now > guest.leaves_at + 1
            if guest.is_gone or (is_late and self._was_heard(guest)):
                guest.sock.close()
                self.guests.remove(guest)
                self.departed.append(guest)
        for instance in self.instances:
            is_up = instance.daemon.process.poll() is None
            visitors = sum(g.home is instance and g.leaves_at is not None for g in self.guests)
            if is_up and visitors < VISITORS:
                self._invite(instance, now + VISIT_SECONDS)

    def _was_heard(self, visitor: Guest) -> bool:
        """Whether it may leave: closed with something unread, its last words would be reset."""
        steady = [g for g in self.guests if g.home is visitor.home and g.is_admitted]
        last = visitor.said - 1
        return bool(steady) and all(
            g.last.get(visitor.number, -1) == last or g.owed_from.get(visitor.number, 0) > last
            for g in steady
        )

    def _listen(self, seconds: float) -> None:
        poll = select.poll()
        by_fd = {guest.sock.fileno(): guest for guest in self.guests if not guest.is_gone}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            by_fd[fd].hear()

    # -- what goes wrong -------------------------------------------------------------------------

    def lose_nats(self, seconds: float) -> None:
        """Kill the server; start it again after so many seconds."""
        self.nats.kill()
        self.go_on(seconds)
        self.nats.start()

    def lose_an_instance(self, seconds: float) -> None:
        """Judge all, and kill the last instance as they talk on; start it again, invite others."""
        victim = self.victim
        self.settle()
        self.check()
        self._judgements += [
            f"before kill {victim.starts}: {self._books(guest)}"
            for guest in self.steady()
            if guest.home is victim
        ]
        for guest in self.everybody():
            if not guest.is_killed:
                guest.judged = guest.said
        self.go_on(LAST_SECONDS)
        for guest in self.everybody():
            guest.is_killed = guest.is_killed or guest.home is victim
        victim.daemon.process.kill()
        victim.daemon.process.wait()
        self.go_on(seconds)
        victim.start()
        self._go_on_until(lambda: victim.metrics()["bus_peers"] == 2)
        for _ in range(STEADY):
            self._invite(victim, None)
        others = self.guests[-STEADY:]
        self._go_on_until(lambda: all(guest.heard for guest in others))
        for guest in others:
            guest.admit(self.everybody(), victim.metrics()["bus_lost_messages_total"])

    def _go_on_until(self, predicate: Callable[[], object]) -> None:
        deadline = monotonic() + SETTLE_SECONDS
        while not predicate():
            assert monotonic() < deadline, self.report()
            self.go_on(INTERVAL_SECONDS)

    def lose_the_link(self, seconds: float) -> None:
        """Take the link between the two networks down, and up again."""
        self._set_link("down")
        self.go_on(seconds)
        self._set_link("up")

    def lose_what_is_on_the_way(self, seconds: float) -> None:
        """Take the link down, and replace the server meanwhile: its kernel resets what comes late.

        By itself neither loses anything for sure: TCP sends again, and who is gone is seen at once.
        """
        self._set_link("down")
        self.go_on(seconds)
        self.nats.kill()
        self.nats.start()
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        subprocess.run(
            [*within(self.net.client), "ip", "link", "set", "dev", LOAD, state], check=True
        )

    # -- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everybody fall silent; return when all that was said is heard or told."""
        deadline = monotonic() + SETTLE_SECONDS
        while not all(guest.missed(self.everybody()) <= guest.told for guest in self.steady()):
            assert monotonic() < deadline, self.report()
            self._listen(0.05)
        quiet = monotonic() + 1.5  # one more sign of life: nothing must come twice
        while monotonic() < quiet:
            self._listen(0.05)

    def steady(self) -> list[Guest]:
        """Return those whose books must agree: so many at each instance."""
        found = [g for g in self.guests if g.is_admitted and not g.is_gone]
        homes = Counter(guest.home.name for guest in found)
        assert homes == {one.name: STEADY for one in self.instances}, "a steady guest was lost"
        return found

    def check(self) -> None:
        """Compare everybody's books."""
        for guest in self.everybody():
            assert not guest.faults, guest.faults[:5]
        lost = {one.name: one.metrics()["bus_lost_messages_total"] for one in self.instances}
        for guest in self.steady():
            assert guest.told == guest.missed(self.everybody()), self.report()
            assert guest.told == lost[guest.home.name] - guest.lost_before, self.report()
        for one in self.instances:
            assert_ledger(one.metrics())

    def report(self) -> str:
        """Return everybody's books in a few lines."""
        everybody = self.everybody()
        said, died = sum(g.said for g in everybody), sum(g.died() for g in everybody)
        lines = [f"{said} messages of {len(everybody)} guests; {died} died with {self.victim.name}"]
        lines += [*self._judgements, *map(self._books, self.steady())]
        for one in self.instances:
            found = one.metrics()
            counts = {k: int(v) for k, v in found.items() if k.startswith("bus_") and v}
            counts = {k: v for k, v in counts.items() if "lag" not in k and "bytes" not in k}
            lines.append(f"{one.name}: {counts}")
        return "\n".join(lines)

    def _books(self, guest: Guest) -> str:
        heard, missed = sum(guest.heard.values()), guest.missed(self.everybody())
        owed = "all" if not any(guest.owed_from.values()) else "since it came"
        return (
            f"guest {guest.number} at {guest.home.name}: owed {heard + missed} ({owed}), "
            f"heard {heard}, missed {missed}, told of {guest.told}"
        )

    def close(self) -> None:
        for guest in self.guests:
            guest.sock.close()
        for instance in self.instances:
            instance.daemon.close()
        self.nats.kill()


@contextlib.contextmanager
def party(folder: Path) -> Iterator[Party]:
    """Make two networks with a link between them, and a party on them."""
    with network(parse("veth")) as made:
        held = Party(made, folder)
        try:
            yield held
        finally:
            held.close()
