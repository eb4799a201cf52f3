"""What 10⁴ to 10⁷ connections need: a simulation of loops on a bus, from measured unit costs.

Usage: python tests/bench/scaling_model.py
No measurement: it plays messages through loops that are busy or idle, with costs that were measured
on one machine, and adds instances until nothing is over its limit. Prints the table of SCALING.md.

A process is one core: its loop and its bus thread take turns (one interpreter lock). A loop that is
idle begins a tick as soon as something is there; what comes meanwhile is the next tick's batch, so
batches grow with lag. A tick reads its clients' lines, takes all envelopes that wait, and sends
once to each client. What it read is one envelope to every other instance. A bus thread that sleeps
has to be woken, which costs more than what it then does. Once a second each instance gives a sign
of life to all others, unless words of its own are on their way, as `etltd.bus.bridge` does.

`burst` plays every instance, as the stored study of SCALING.md did; the tests hold it to that.
`need` plays one of many, to which the others say what it says itself. Not in it: what NATS and the
network add to a message's lag, what the loop takes to unpack an envelope (RECEIVE is the bus
thread's alone), welcomes, caches that do not hold thousands of sockets, other work of a host.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Sends:
    """What it costs to send a batch to a client, in seconds of a core."""

    batch: float
    message: float  # for each message in it, besides


# The machine's hours differ by a factor of two, and what was measured in one is not in the other.
# BENCH.md's faster hour: bursts of 500 at 42 to 44 ns a copy are 21 to 22 µs a client, and a copy
# of a ping-pong is 9 µs, its read and tick included. The curves' batches of 100 are near it: 9.4 to
# 10.6 µs with 5,000 and 15,000 connections, where this says 9.
FASTER = Sends(6e-6, 30e-9)
# BENCH.md's tables: one in flight, 13 µs a copy; bursts of 500 at 80 ns a copy, 40 µs a client (37
# by this). For the curves' batches of 100 it says 17 µs, too much.
SLOWER = Sends(12e-6, 50e-9)

# Other unit costs, in seconds of a core.
READ = 1.5e-6  # of one line of a client, and
TICK = 1.5e-6  # of a tick by itself: BENCH.md, ping-pong, faster hour, less one send
PUBLISH = 30e-6  # the bus thread, for one envelope of its own: SCALING.md, What the bus costs, and
PUBLISH_ASLEEP = 480e-6  # if it slept: there, one every 10 ms
RECEIVE = 15e-6  # for one of another instance: there, and
RECEIVE_ASLEEP = 200e-6  # if it slept: there
NATS = 10e-6  # for one envelope and one listener: there
WAY = 300e-6  # through NATS, if it slept: there, its processor time for one envelope

# Sizes, in bytes.
IDLE_BYTES = 656  # resident memory of a connection (README: 10,000 idle connections)
SOCKET_BYTES = 3_000  # of the kernel for it, without data; an assumption
BASE_BYTES = 33_000_000  # of an instance without clients: SCALING.md, What the bus costs
LINE_BYTES = 80  # of a message; an assumption

# Limits; all are choices.
LAG = 0.1  # seconds from a message's arrival to its last copy's send, for 99 of 100
NATS_CORES = 4.0
LINK_BYTES = 1.25e9  # per second to one instance's clients: 10 Gbit/s
MOST_INSTANCES = 4096  # that one remembers (etltd.bus.sequence)

SIGNS = 1.0  # of life, a second, of each instance to each other one (etltd.daemon)
PLAYED = 1000  # messages in a play: enough for their 99th percentile
BURSTS = 20


@dataclass
class Instance:
    """One process, and what is before it."""

    clients: float
    sends: Sends = FASTER
    own: list[float] = field(default_factory=list)  # its clients' lines not yet read: since when
    outgoing: list[int] = field(
        default_factory=list
    )  # envelopes not yet published: their lines, none in a sign of life
    incoming: list[tuple[float, float]] = field(
        default_factory=list
    )  # of others: since when, lines
    taken_in: list[tuple[float, float]] = field(default_factory=list)  # these by the bus thread
    is_busy: bool = False
    is_bus_awake: bool = False
    is_bus_next: bool = False  # the two take turns
    busy_seconds: float = 0.0
    published: int = 0  # envelopes with lines
    lags: list[float] = field(default_factory=list)


class Play:
    """Instances, what is to happen to them, and the cores that they share."""

    def __init__(self, instances: list[Instance], cores: int | None = None) -> None:
        self.now = 0.0
        self.on_publish: Callable[[Instance, int], None] | None = None  # None: there is no bus
        self._free_cores = len(instances) if cores is None else cores
        self._waiting: list[Instance] = []  # for a core
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def run(self) -> None:
        """Let everything happen, and what follows from it."""
        while self._events:
            self.now, _, happen = heappop(self._events)
            happen()

    def at(self, when: float, happen: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._number), happen))

    def line_at(self, when: float, to: Instance) -> None:
        """Let a client of *to* say something."""

        def happen() -> None:
            to.own.append(when)
            self._go_on(to)

        self.at(when, happen)

    def envelope_at(self, when: float, to: Instance, lines: float) -> None:
        """Let an envelope of another instance come."""

        def happen() -> None:
            to.incoming.append((when, lines))
            self._go_on(to)

        self.at(when, happen)

    def sign_at(self, when: float, by: Instance) -> None:
        """Let *by* give a sign of life, unless there are words on their way."""

        def happen() -> None:
            by.outgoing += [0] * (not by.outgoing)
            self._go_on(by)

        self.at(when, happen)

    def _go_on(self, one: Instance) -> None:
        """Let *one* do what it has to do, if it is idle and there is a core."""
        for_loop, for_bus = one.own or one.taken_in, one.outgoing or one.incoming
        if one.is_busy or not (for_loop or for_bus):
            return
        if not self._free_cores:
            self._waiting += [one] * (one not in self._waiting)
            return
        self._free_cores -= 1
        one.is_busy = True
        is_bus = bool(for_bus and (one.is_bus_next or not for_loop))
        seconds, then = self._bus_turn(one) if is_bus else self._tick(one)
        one.is_bus_next = not is_bus
        one.is_bus_awake = is_bus or bool(one.is_bus_awake and for_bus)
        one.busy_seconds += seconds

        def done() -> None:
            one.is_busy = False
            self._free_cores += 1
            then()
            if self._waiting:
                self._go_on(self._waiting.pop(0))
            self._go_on(one)
            if not one.is_busy:
                one.is_bus_awake = False

        self.at(self.now + seconds, done)

    def _tick(self, one: Instance) -> tuple[float, Callable[[], None]]:
        own, one.own = one.own, []
        foreign, one.taken_in = one.taken_in, []
        lines = len(own) + sum(lines for _, lines in foreign)

        def then() -> None:
            one.lags += [self.now - since for since in (*own, *(since for since, _ in foreign))]
            if own and self.on_publish:
                one.outgoing.append(len(own))

        sends = one.clients * (one.sends.batch + one.sends.message * lines)
        return TICK + READ * len(own) + sends, then

    def _bus_turn(self, one: Instance) -> tuple[float, Callable[[], None]]:
        outgoing, one.outgoing = one.outgoing, []
        incoming, one.incoming = one.incoming, []
        said = [(since, lines) for since, lines in incoming if lines]
        signs = len(incoming) - len(said)  # for which the loop wakes, and sends nothing
        seconds = PUBLISH * len(outgoing) + RECEIVE * len(incoming) + TICK * signs
        if not one.is_bus_awake:
            seconds += PUBLISH_ASLEEP - PUBLISH if outgoing else RECEIVE_ASLEEP - RECEIVE
        one.published += sum(lines > 0 for lines in outgoing)

        def then() -> None:
            one.taken_in += said
            for lines in outgoing:
                if self.on_publish:
                    self.on_publish(one, lines)

        return seconds, then


def burst(instances: int, conns: int, rate: float, cores: int) -> float:
    """Return the cores that all loops use if all *conns* speak at once, *rate* times a second."""
    loops = [Instance(conns / instances) for _ in range(instances)]
    play = Play(loops, cores)

    def on_publish(by: Instance, lines: int) -> None:
        for other in loops:
            if other is not by:
                play.envelope_at(play.now + WAY, other, lines)

    if instances > 1:
        play.on_publish = on_publish
        _give_signs(play, loops, BURSTS / rate)
    for number in range(BURSTS):
        for client in range(conns):
            play.line_at(number / rate, loops[client % instances])
    play.run()
    return sum(loop.busy_seconds for loop in loops) / (BURSTS / rate)


@dataclass(frozen=True)
class Crowd:
    """Clients of one chat, who speak at random, and what they say."""

    connections: int
    messages: float  # per second, of all of them


@dataclass(frozen=True)
class Need:
    """What a crowd needs, with a number of instances."""

    instances: int
    loop_cores: float  # of each
    lag: float  # 99th percentile
    nats_cores: float
    link_bytes: float  # per second from each to its clients; what comes over the bus is less
    memory_bytes: float  # of all instances

    @property
    def fits(self) -> bool:
        """Whether nothing is over its limit."""
        return self.lag <= LAG and self.nats_cores <= NATS_CORES and self.link_bytes <= LINK_BYTES


def need(crowd: Crowd, instances: int, sends: Sends = FASTER) -> Need:
    """Return what *crowd* needs with so many *instances*.

    It plays without signs of life first, which is quick: with them it only needs more.
    """
    published = crowd.messages / instances  # a second, if each message is a tick's only one
    for _ in range(2):  # the second time with as many as it published in the first
        found, published = _played(crowd, instances, published, sends, with_signs=False)
    if found.fits and instances > 1:
        found, _ = _played(crowd, instances, published, sends, with_signs=True)
    return found


def _played(
    crowd: Crowd, instances: int, published: float, sends: Sends, *, with_signs: bool
) -> tuple[Need, float]:
    """Return what is needed if each publishes so many envelopes a second, and how many it does."""
    one, seconds = _mirrored(crowd, instances, published, sends, with_signs=with_signs)
    published = one.published / seconds or published
    nats = (published + SIGNS) * (instances - 1) * instances * NATS
    link = crowd.messages * LINE_BYTES * crowd.connections / instances
    memory = instances * BASE_BYTES + crowd.connections * (IDLE_BYTES + SOCKET_BYTES)
    lag = sorted(one.lags)[len(one.lags) * 99 // 100]
    return Need(instances, one.busy_seconds / seconds, lag, nats, link, memory), published


def _mirrored(
    crowd: Crowd, instances: int, published: float, sends: Sends, *, with_signs: bool
) -> tuple[Instance, float]:
    """Play one instance, to which each other one publishes so many envelopes a second."""
    chance = random.Random(8)  # noqa: S311 - the table is to come out the same
    one = Instance(crowd.connections / instances, sends)
    play = Play([one])
    play.on_publish = (lambda _by, _lines: None) if instances > 1 else None
    seconds = PLAYED / crowd.messages
    said_here = crowd.messages / instances
    for when in _times(chance, said_here, seconds):
        play.line_at(when, one)
    for when in _times(chance, published * (instances - 1), seconds):
        play.envelope_at(when, one, said_here / published)
    if with_signs:
        _give_signs(play, [one], seconds)
        for when in _times(chance, SIGNS * (instances - 1), seconds):
            play.envelope_at(when, one, 0)
    play.run()
    return one, max(seconds, play.now)


def _give_signs(play: Play, loops: list[Instance], seconds: float) -> None:
    """Let each of *loops* give its signs of life, from a moment of its own on."""
    chance = random.Random(9)  # noqa: S311 - as above
    for loop in loops:
        first = chance.uniform(0, 1 / SIGNS)
        for number in range(int((seconds - first) * SIGNS) + 1):
            play.sign_at(first + number / SIGNS, loop)


def _times(chance: random.Random, rate: float, seconds: float) -> list[float]:
    return [chance.uniform(0, seconds) for _ in range(round(rate * seconds))]


def least(crowd: Crowd, sends: Sends = FASTER) -> Need | None:
    """Return what *crowd* needs with about the fewest instances that do; None if no number does."""
    instances = max(1, int(crowd.connections * sends.batch / LAG))  # or a tick alone takes too long
    while instances <= MOST_INSTANCES:
        found = need(crowd, instances, sends)
        if found.fits:
            return found
        instances += max(1, instances // 20)
    return None


def row(crowd: Crowd) -> str:
    """Return a row of the table."""
    head = f"| {crowd.connections:,} | {crowd.messages:,.0f} |"
    found, slower = least(crowd), least(crowd, SLOWER)
    if found is None:
        return f"{head} no number does | | | | | | |"
    return (
        f"{head} {found.instances:,} | {f'{slower.instances:,}' if slower else 'none does'} | "
        f"{found.loop_cores:.2f} | {found.lag * 1000:.0f} | "
        f"{found.nats_cores:.2f} | {found.link_bytes * 8 / 1e9:.2f} | "
        f"{found.memory_bytes / 1e9:.1f} |"
    )


def table() -> str:
    """Return the table of SCALING.md."""
    rows = [
        row(Crowd(connections, messages))
        for connections in (10_000, 100_000, 1_000_000, 10_000_000)
        for messages in (1, 10, 1000)
    ]
    titles = "connections, messages/s, instances, in a slower hour, core of each loop"
    titles += ", lag p99 in ms, NATS, Gbit/s from each, GB"
    head = f"| {titles.replace(', ', ' | ')} |"
    return "\n".join([head, "|---" * head.count(" |") + "|", *rows])


if __name__ == "__main__":
    print(table())
