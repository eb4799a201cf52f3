"""The loop's side of the bus: numbers what our clients say, hands them what others' say.

It is called by the loop only and does no I/O but on two eventfds, whose reads and writes are no
system calls that the loop counts as its peers' work.

How it counts: ``messages_received`` are lines from our own clients, whatever becomes of them on
the bus. ``messages_enqueued`` are copies owed to our own clients, of lines from here and from
elsewhere; of lines from elsewhere that never came, too, which are at once ``dropped`` for the
reason ``bus``.
"""

from __future__ import annotations

import os
import secrets
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING

from etltd.broadcast import Batch
from etltd.bus.buffer import Buffer
from etltd.bus.envelope import WELCOME, EnvelopeError, Identity, Parcel, messages_in, unpack
from etltd.bus.link import Link
from etltd.bus.sequence import ALIVE_NS, Followers
from etltd.bus.settings import Settings
from etltd.bus.stats import BusStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etltd.config import Config
    from etltd.delivery import Delivery

ELSEWHERE = 0  # the sender of what comes over the bus: no client has this id
TURN_BYTES = 1 << 20  # of others' envelopes in one tick: our own clients have a turn, too


class Bridge:
    """One instance's part in the bus."""

    def __init__(self, config: Config, environment: Mapping[str, str], delivery: Delivery) -> None:
        self.stats = BusStats()
        name = config.bus_instance or f"{secrets.randbelow(10**8):08}"  # digits spell no word
        self.me = Identity(name, secrets.randbits(64))
        self._delivery = delivery
        self._outgoing: Buffer[Parcel] = Buffer(config.bus_buffer_bytes)
        self._incoming: Buffer[bytes] = Buffer(config.bus_buffer_bytes)
        self._link = Link(
            Settings(config, environment), self.me, self.stats, self._outgoing, self._incoming
        )
        self._followers = Followers(self.me.incarnation)
        self._numbered = 0
        self._twin_ns = -ALIVE_NS
        self._has_left = False
        self.fd = self._link.heard_fd

    def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    def problem(self) -> str | None:
        """Return why the bus cannot be relied on now, or None; called by any thread."""
        if monotonic_ns() - self._twin_ns < ALIVE_NS:
            return f"another instance on the bus is called {self.me.name}, too"
        return self._link.problem

    # -- what our clients say --------------------------------------------------------------------

    def relay(self, lines: bytes, messages: int) -> None:
        """Hand a tick's *lines* to the other instances."""
        parcel = Parcel(self._numbered, messages, lines, time_ns())
        self._numbered += messages  # even if there is no room: the gap is what tells the others
        if self._outgoing.put(parcel, len(lines)):
            self._link.wake()
        else:
            self.stats.bus_dropped_messages["outgoing_full"] += messages

    def do_chores(self, now_ns: int) -> None:
        """Give a sign of life, about once a second, unless words are on their way."""
        stats = self.stats
        stats.bus_outgoing_bytes = self._outgoing.held_bytes
        stats.bus_incoming_bytes = self._incoming.held_bytes
        stats.bus_peers = self._followers.alive(now_ns)
        if self._has_left:
            return
        is_idle = not stats.bus_outgoing_bytes
        welcomes = self._followers.welcomes() if is_idle or stats.bus_connected else ()
        if is_idle or welcomes:
            parcel = Parcel(self._numbered, 0, b"", time_ns(), welcomes=welcomes)
            if self._outgoing.put(parcel, len(welcomes) * WELCOME.size):
                self._followers.have_been_told(welcomes)
                self._link.wake()

    def leave(self) -> None:
        """Say what is left to say, that it was the last, and take in no more.

        What has come is still handed out, by `serve`, until `has_delivered`.
        """
        self._has_left = True
        goodbye = Parcel(self._numbered, 0, b"", time_ns(), is_last=True)
        self._outgoing.put(goodbye, 0, is_last=True)
        self._link.finish()

    def has_delivered(self) -> bool:
        """Return whether our clients have heard what came; before we are members none of it is."""
        return not self._incoming.held_bytes or not self._link.member_ns

    def unheard(self) -> int:
        """Return how many messages of others our clients are owed and will not hear."""
        waiting = sum(messages_in(data) for data in self._incoming)
        return 0 if self.has_delivered() else waiting

    def is_gone(self) -> bool:
        """Return whether what was said last has reached NATS, or never will."""
        return not self._link.is_alive()

    def unsent(self) -> int:
        """Return how many messages of our clients are not known to have reached NATS."""
        return self._link.unsent()

    # -- what the others' clients say ------------------------------------------------------------

    def serve(self) -> None:
        """Hand our clients what has come; called in a tick in which `fd` is readable."""
        os.eventfd_read(self.fd)
        batch, taken_bytes = Batch(), 0
        while taken_bytes < TURN_BYTES:
            data = self._incoming.take()
            if data is None:
                break
            taken_bytes += len(data)
            batch = self._take_in(data, batch)
        else:
            os.eventfd_write(self.fd, 1)  # there may be more
        self._hand_out(batch)

    def _take_in(self, data: bytes, batch: Batch) -> Batch:
        """Add what *data* holds to *batch*; return the batch to go on with."""
        stats, now_ns = self.stats, monotonic_ns()
        try:
            envelope = unpack(data)
        except EnvelopeError:
            stats.bus_foreign_envelopes += 1
            return batch
        sender, parcel = envelope.sender, envelope.parcel
        if sender.incarnation == self.me.incarnation:
            stats.bus_late_messages += parcel.messages  # an echo, or somebody repeats us
            return batch
        if sender.name == self.me.name:
            self._twin_ns = now_ns
        stats.bus_received_bytes += len(data)
        heard = self._followers.hear(envelope, now_ns, self._link.member_ns, self._numbered)
        if not heard.is_new:
            stats.bus_late_messages += parcel.messages
            return batch
        if heard.lost:
            stats.bus_gaps += 1
            stats.bus_lost_messages += heard.lost
            self._hand_out(batch)  # what came before the gap is heard before the notice
            self._delivery.miss(heard.lost)
            batch = Batch()
        if parcel.messages:
            stats.bus_received_batches += 1
            stats.bus_received_messages += parcel.messages
            stats.bus_lag_seconds.observe(max(0, time_ns() - parcel.sent_ns))
            batch.add(ELSEWHERE, parcel.lines, parcel.messages)
        return batch

    def _hand_out(self, batch: Batch) -> None:
        if batch.messages:
            self._delivery.deliver(batch)
