"""What peers are owed: fan-out, outboxes, the slow-consumer policy, notices.

No message is lost silently. Whatever a peer is owed is delivered, in its outbox, or counted as
dropped: ``enqueued = delivered + dropped + outbox_messages`` holds between any two ticks.

What was read in a tick is joined once and offered to every peer once, by one ``send`` or, around a
sender's own lines, one ``sendmsg``; only what the kernel does not take goes to an outbox. Under
load the number of system calls then depends on ticks and peers, not on messages. It costs no
latency when there is little to do: a message leaves in the tick in which it came.

A short write is the kernel's word that the buffer is full: it has noted that we wait
(SOCK_NOSPACE, net/ipv4/tcp.c) and will report OUT, level or edge, when there is room. So a flush
ends there and needs no EAGAIN.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING

from etltd import wire
from etltd.broadcast import Batch, Piece
from etltd.outbox import Outbox, rest
from etltd.stats import CloseReason, DropReason, LoopStats

if TYPE_CHECKING:
    from etltd.config import Config
    from etltd.connection import Connection
    from etltd.roster import Roster


class Delivery:
    """Hands peers what they are owed."""

    def __init__(self, config: Config, stats: LoopStats, roster: Roster) -> None:
        self._config = config
        self._stats = stats
        self._roster = roster
        self._one_write_per_message = config.fan_out == "message"

    def fan_out(self, batch: Batch) -> None:
        """Owe everybody the tick's messages, and hand over what the kernel takes."""
        self._stats.messages_received += batch.messages
        self._stats.batch_messages.observe(batch.messages)
        self.deliver(batch)

    def deliver(self, batch: Batch) -> None:
        """Owe everybody *batch*, wherever it is from."""
        batch.seal()
        if self._one_write_per_message:
            for single in batch.single_messages():
                self._deliver(single)
        else:
            self._deliver(batch)

    def _deliver(self, batch: Batch) -> None:
        """Offer the batch to every peer, once; what the kernel does not take goes to outboxes."""
        shared, total_bytes, total, spans = batch.shared, batch.size, batch.messages, batch.spans
        view: memoryview | None = None
        enqueued = delivered = sent_bytes = sendtos = sendmsgs = 0
        for conn in self._roster.connections.values():
            if conn.close_reason is not None:
                continue
            span = spans.get(conn.id)
            messages = total if span is None else total - span[3]
            if not messages:
                continue
            enqueued += messages
            if conn.outbox is not None:
                self._queue(conn, batch, messages)
                continue
            try:
                if span is None:
                    sendtos += 1
                    size = total_bytes
                    sent = conn.sock.send(shared)
                else:
                    sendmsgs += 1
                    start, end, _, _ = span
                    view = view or memoryview(shared)
                    size = total_bytes - end + start
                    sent = conn.sock.sendmsg((view[:start], view[end:]))
            except BlockingIOError:
                self._stats.syscall_eagain["sendto" if span is None else "sendmsg"] += 1
                sent = 0
            except OSError as error:
                self._stats.messages_dropped[DropReason.CLOSED] += messages
                self._roster.condemn_for(conn, error)
                continue
            sent_bytes += sent
            if sent == size:
                delivered += messages
            else:
                left = rest(self._pieces(conn, batch), sent)
                delivered += messages - self._owe(conn, left)
        stats = self._stats
        stats.messages_enqueued += enqueued
        stats.messages_delivered += delivered
        stats.sent_bytes += sent_bytes
        stats.syscalls["sendto"] += sendtos
        if sendmsgs:
            stats.syscalls["sendmsg"] += sendmsgs

    @staticmethod
    def _pieces(conn: Connection, batch: Batch) -> list[Piece]:
        if conn.id in batch.spans:
            return batch.without(conn.id)
        return [Piece(batch.shared, batch.messages)]

    def _queue(self, conn: Connection, batch: Batch, messages: int) -> None:
        """Owe a peer that is behind the batch too, or apply the slow-consumer policy."""
        outbox = conn.outbox
        assert outbox is not None  # noqa: S101 - the caller's condition, for the type checker
        is_over = outbox.size + batch.size > self._config.high_water_bytes
        if not is_over and not conn.withheld:
            self._owe(conn, self._pieces(conn, batch))
        elif self._config.slow_consumer == "evict":
            self._stats.messages_dropped[DropReason.EVICTED] += messages
            self._roster.condemn(conn, CloseReason.SLOW_CONSUMER)
        else:
            conn.withheld += messages
            self._stats.messages_dropped[DropReason.SLOW_CONSUMER] += messages

    def _owe(self, conn: Connection, pieces: list[Piece]) -> int:
        """Put *pieces* into the peer's outbox; return how many messages they hold."""
        stats = self._stats
        if conn.outbox is None:
            conn.outbox = Outbox()
            stats.outbox_connections += 1
            self._roster.changed.append(conn)
        outbox = conn.outbox
        before_bytes, before_messages = outbox.size, outbox.messages
        outbox.push(pieces)
        stats.outbox_bytes += outbox.size - before_bytes
        stats.outbox_messages += outbox.messages - before_messages
        return outbox.messages - before_messages

    def miss(self, count: int) -> None:
        """Count *count* messages that every peer was owed and that never came; tell each."""
        stats = self._stats
        for conn in self._roster.connections.values():
            if conn.close_reason is not None:
                continue
            stats.messages_enqueued += count
            stats.messages_dropped[DropReason.BUS] += count
            if conn.withheld or not self.can_notify(conn):
                conn.withheld += count  # told with the rest, when the outbox has emptied
            else:
                self.notify(conn, wire.messages_dropped(count))

    def can_notify(self, conn: Connection) -> bool:
        """Whether *conn* may be told something now.

        A peer that does not read must not grow its outbox by provoking notices: beyond the high
        water it is told nothing more until it has read.
        """
        outbox = conn.outbox
        return outbox is None or outbox.size <= self._config.high_water_bytes

    def notify(self, conn: Connection, notice: bytes) -> None:
        """Tell *conn* something, in order with what it is owed, if `can_notify`."""
        if conn.close_reason is not None:
            return
        if conn.outbox is None:
            self._owe(conn, [Piece(notice, 0)])
            self.flush(conn)
        elif self.can_notify(conn):
            self._owe(conn, [Piece(notice, 0)])

    def say_last(self, notice: bytes) -> None:
        """Tell every peer *notice*, after what it is owed and what it has not been told yet."""
        for conn in self._roster.connections.values():
            last = [notice]
            if conn.bucket is not None and conn.bucket.refused:
                last.insert(0, wire.rate_limited(conn.bucket.confess()))
            if conn.withheld:
                last.insert(0, wire.messages_dropped(conn.withheld))
                conn.withheld = 0
            self._owe(conn, [Piece(b"".join(last), 0)])
            self.flush(conn)

    def flush(self, conn: Connection) -> None:
        """Send what *conn* is owed until it is all gone or the kernel takes no more."""
        outbox, stats = conn.outbox, self._stats
        while outbox and conn.close_reason is None:
            buffers = outbox.head()
            stats.syscalls["sendmsg"] += 1
            try:
                sent = conn.sock.sendmsg(buffers)
            except BlockingIOError:
                stats.syscall_eagain["sendmsg"] += 1
                return
            except OSError as error:
                self._roster.condemn_for(conn, error)
                return
            messages = outbox.advance(sent)
            stats.sent_bytes += sent
            stats.outbox_bytes -= sent
            stats.outbox_messages -= messages
            stats.messages_delivered += messages
            if sent < sum(map(len, buffers)):
                return
        if outbox is not None and not outbox:
            self._caught_up(conn)

    def offer_again(self) -> None:
        """Offer every peer what it is owed, whether or not OUT was reported.

        The kernel reports it. What stands between it and us (a filter, a tracer, another kernel's
        imitation of it) may refuse a write and owe us no edge, and under ET nobody would ever know.
        """
        for conn in self._roster.connections.values():
            self.flush(conn)

    def _caught_up(self, conn: Connection) -> None:
        """Let the stream go on at a message boundary, after saying what was missed."""
        conn.outbox = None
        self._stats.outbox_connections -= 1
        self._roster.changed.append(conn)
        if conn.withheld:
            missed, conn.withheld = conn.withheld, 0
            self.notify(conn, wire.messages_dropped(missed))

    def finish_output(self) -> None:
        """Tell every peer that is owed nothing that nothing more will come (FIN)."""
        for conn in self._roster.connections.values():
            if conn.outbox is None:
                with contextlib.suppress(OSError):  # it left first
                    conn.sock.shutdown(socket.SHUT_WR)

    def unacknowledged_bytes(self) -> int:
        """Return what the peers' kernels have not confirmed (SIOCOUTQ, tcp(7)).

        Closing a socket with unread input resets it, and a reset overtakes bytes still on the way.
        What a Unix peer has not read is in its own queue already, and survives.
        """
        return sum(
            struct.unpack("i", fcntl.ioctl(conn.fd, termios.TIOCOUTQ, b"\0" * 4))[0]
            for conn in self._roster.connections.values()
            if conn.outbox is None and conn.ip
        )
