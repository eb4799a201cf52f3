"""N non-blocking sockets on one level-triggered epoll: the load of one process.

Rule: the receive path does a handful of Python operations per `recv` and none per message. It
counts bytes, and one memchr finds the rare byte that needs a second look (`receiver.py`).

Facts this relies on, all observed here:

* `epoll.poll` rounds its timeout up to whole milliseconds, too coarse to pace with. An epoll
  descriptor is itself readable when it has events, so `select` on it waits to the microsecond and
  still wakes for input.
* A peer whose mask is 0 is still told of ERR and HUP. Slow readers use that: nobody wakes us for
  bytes that we do not want yet, and a connection that the server resets is noticed.
* HUP needs both directions shut. A never-reader, which will not read up to the end, asks for RDHUP
  as well. Even that is late while its window is shut: the FIN waits behind the bytes.
* Sending and receiving take turns (`SENDS_PER_TURN`, `EVENTS_PER_TURN`). A turn of receiving is
  short, a turn of sending long: a late send is our fault, a late read waits in the kernel. At
  500 x 50 msg/s x 64 B all-to-all (12.5 M copies/s) a `recv` costs about 6 us and a `send` 9 us of
  CPU, all told 70 % of a core; 64 events of up to 256 KiB per turn made turns of 30 ms and the
  schedule's p99 lag 90 ms, 16 of up to 64 KiB make it 5 ms.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from dataclasses import replace
from random import randrange
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from time import monotonic_ns
from typing import TYPE_CHECKING

from loadclient.churn import Churn
from loadclient.ledger import Closed, Profile
from loadclient.payload import Payloads, hello
from loadclient.peer import Peer
from loadclient.protocol import (
    NEVER_NS,
    Begin,
    Heard,
    Latencies,
    Plan,
    Settled,
    Snapshot,
)
from loadclient.receiver import Receiver
from loadclient.sender import Sender
from loadclient.sequences import censored
from loadclient.stationarity import Windows

if TYPE_CHECKING:
    import socket

    from loadclient.ledger import Account

EVENTS_PER_TURN = 16  # at most 1 MiB, so that a due message waits about a millisecond
LONGEST_WAIT_SECONDS = 0.5
NO_FD = -1
SLOW_READ_NS = 20_000_000  # a slow reader reads its share 50 times a second
SPOT_TURNS = 64  # from one random look into a whole buffer to the next, on average half of it
SCOUTS = 2  # nobody hears itself, so the second one hears the first


class Fleet:
    """The connections of one worker; call `turn` for ever, and the other methods between turns."""

    def __init__(self, plan: Plan, sockets: list[socket.socket], control_fd: int) -> None:
        self._plan = plan
        self._payloads = Payloads(plan.voices, plan.clock_ns)
        self._epoll = select.epoll()
        self._epoll.register(control_fd, EPOLLIN)
        self._control_fd = control_fd
        self._churn = Churn(plan, self._epoll)
        self._peers = [
            Peer(index, sock, place)
            for index, (sock, place) in enumerate(zip(sockets, plan.places, strict=True))
        ]
        self._by_fd = {peer.fd: peer for peer in self._peers}
        self._readers = [peer for peer in self._peers if peer.profile is not Profile.NEVER]
        self._slow = [peer for peer in self._peers if peer.profile is Profile.SLOW]
        self._receiver = Receiver(
            self._payloads,
            senders=plan.voices.senders,
            interval=plan.marking_interval,
            full=plan.verify_full,
        )
        self._sender = Sender(
            [peer for peer in self._peers if peer.sender is not None],
            self._payloads,
            voices=plan.voices,
            interval=plan.marking_interval,
            on_full=self._watch,
            on_lost=lambda peer: self._lose(peer, Closed.RESET),
        )
        self._frame_bytes: dict[int, int] = {}
        self._begin: Begin | None = None
        self._next_slow_ns = NEVER_NS
        self._last_slow_ns = 0
        self._cpu_ns = 0
        self._last_received_ns = 0
        self._turns_to_spot = SPOT_TURNS
        self._is_scheduled = False
        self._looks = 0
        self._unread_looks: Counter[int] = Counter()  # by peer
        self._unread_look_bytes: Counter[int] = Counter()
        for peer in self._peers:
            self._epoll.register(peer.fd, self._mask(peer))

    # One turn: send what is due, receive what is there, wait for the earlier of the next two.

    def turn(self) -> bool:
        """Do one turn's work, waiting for it if there is none; return whether the parent calls."""
        sender = self._sender
        now_ns = monotonic_ns()
        if now_ns >= sender.next_due_ns:
            sender.send_due(now_ns)
        if now_ns >= self._next_slow_ns:
            self._read_slowly(now_ns)
        if now_ns >= self._churn.next_due_ns:
            self._churn.move(now_ns)
        events = self._epoll.poll(0, EVENTS_PER_TURN)
        if not events:
            self._wait(min(sender.next_due_ns, self._next_slow_ns, self._churn.next_due_ns))
            return False
        return self._receive(events)

    def _wait(self, until_ns: int) -> None:
        seconds = (until_ns - monotonic_ns()) / 1e9
        if seconds > 0:
            select.select([self._epoll], [], [], min(seconds, LONGEST_WAIT_SECONDS))

    def _receive(self, events: list[tuple[int, int]]) -> bool:
        """Read once from everyone who has something; return whether the parent calls."""
        by_fd = self._by_fd
        receiver = self._receiver
        buffer = receiver.buffer
        seek = receiver.seek
        called = False
        spot = self._spot(events)
        for fd, mask in events:
            peer = by_fd.get(fd)
            if peer is None:
                called = called or fd == self._control_fd
                self._churn.serve(fd, mask)
                continue
            if mask != EPOLLIN or peer.tail is not None:
                self._unusual(peer, mask)
                continue
            try:
                n = peer.recv_into(buffer)
            except OSError:
                self._lose(peer, Closed.RESET)
                continue
            if not n:
                self._lose(peer, Closed.EOF)
                continue
            peer.received += n
            if fd == spot:
                receiver.spot_check(peer, n)
            at = seek(0, n)
            if at >= 0:
                receiver.inspect(peer, at, n)
        if len(events) > called:
            self._last_received_ns = monotonic_ns()
        return called

    def _spot(self, events: list[tuple[int, int]]) -> int:
        """Return the descriptor to look at closely in this turn; nearly always none."""
        self._turns_to_spot -= 1
        if self._turns_to_spot > 0 or not self._receiver.spots_needed:
            return NO_FD
        self._turns_to_spot = randrange(SPOT_TURNS)  # noqa: S311 - hard to foresee is enough
        return events[randrange(len(events))][0]  # noqa: S311

    def _unusual(self, peer: Peer, mask: int) -> None:
        """Serve a peer with more than plain input: an unfinished line, room to send, an end."""
        if mask & EPOLLIN:
            self._take(peer)
        if mask & EPOLLOUT and not peer.closed and self._sender.on_writable(peer):
            self._watch(peer)
        if mask & (EPOLLERR | EPOLLHUP | EPOLLRDHUP) and not mask & EPOLLIN and not peer.closed:
            self._lose(peer, peer.why_closed())

    def _take(self, peer: Peer, limit: int | None = None) -> int:
        try:
            n = self._receiver.take(peer, len(self._receiver.buffer) if limit is None else limit)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose(peer, Closed.RESET)
            return 0
        if not n:
            self._lose(peer, Closed.EOF)
        return n

    def _read_slowly(self, now_ns: int) -> None:
        """Let each slow reader read what its rate has earned since the last time."""
        earned = self._plan.slow_reader_rate * (now_ns - self._last_slow_ns) / 1e9
        self._last_slow_ns = now_ns
        self._next_slow_ns = now_ns + SLOW_READ_NS
        for peer in self._slow:
            peer.credit += earned
            if peer.credit >= 1 and not peer.closed:
                peer.credit -= self._take(peer, int(peer.credit))

    # Interest: compute what each peer should be watched for, then make it so.

    def _mask(self, peer: Peer) -> int:
        reads = peer.profile is Profile.READER or (
            peer.profile is Profile.SLOW and self._next_slow_ns == NEVER_NS
        )
        ends = EPOLLRDHUP if peer.profile is Profile.NEVER else 0
        return (EPOLLIN if reads else ends) | (EPOLLOUT if peer.blocked else 0)

    def _watch(self, peer: Peer) -> None:
        self._epoll.modify(peer.fd, self._mask(peer))

    def _lose(self, peer: Peer, how: Closed) -> None:
        """Give up a connection that the server ended."""
        peer.closed = how
        self._epoll.unregister(peer.fd)
        del self._by_fd[peer.fd]
        peer.sock.close()

    def _pace_slow_readers(self, *, paced: bool) -> None:
        self._last_slow_ns = monotonic_ns()
        self._next_slow_ns = self._last_slow_ns if paced and self._slow else NEVER_NS
        for peer in self._slow:
            if not peer.closed:
                self._watch(peer)

    # What the parent asks for, between turns.

    def say_hello(self, senders: frozenset[int]) -> Heard:
        """Send hellos and report which have come back so far."""
        if not self._receiver.is_scouting:
            self._receiver.scout(self._readers, SCOUTS)
        for peer in self._peers:
            if peer.sender in senders and not peer.closed:
                try:
                    peer.send(hello(peer.number))
                except BlockingIOError:  # a full socket already holds enough hellos
                    continue
                except OSError:
                    self._lose(peer, Closed.RESET)
        return self.heard()

    def heard(self) -> Heard:
        """Report the hellos heard, and who received nothing at all yet."""
        lone = self._plan.voices.senders == 1  # a single sender has nobody to hear
        silent = sum(
            not peer.received and not peer.unread_bytes()
            for peer in self._peers
            if not (lone and peer.sender is not None)
        )
        closed = len(self._peers) - len(self._by_fd)
        return Heard(dict(self._receiver.prefix_bytes), silent, closed)

    def begin(self, begin: Begin) -> Snapshot:
        """Forget all counts and follow a schedule."""
        self._begin = begin
        self._frame_bytes = {
            number: prefix + self._plan.voices.size(number)
            for number, prefix in begin.prefix_bytes.items()
        }
        for peer in self._peers:
            peer.forget()
        self._receiver.forget()
        self._receiver.windows = Windows.over(begin.schedule)
        self._receiver.measure(self._readers)
        self._sender.forget()
        self._sender.follow(begin.schedule)
        self._pace_slow_readers(paced=True)
        self._churn.begin(begin.schedule.start_ns)
        self._looks = 0
        self._unread_looks.clear()
        self._unread_look_bytes.clear()
        self._is_scheduled = True
        self._cpu_ns = time.process_time_ns()
        return self.look(histograms=False)

    def stop(self, *, cut: bool) -> Snapshot:
        """Read freely from now on; with *cut*, let nothing more become due."""
        snapshot = self.look(histograms=False)
        self._look_for_backlog()
        self._is_scheduled = False
        self._churn.stop()
        if cut:
            self._sender.cut()
        self._pace_slow_readers(paced=False)
        return snapshot

    def look(self, *, histograms: bool) -> Snapshot:
        """Return the totals of the phase so far.

        What is owed is owed to open connections: nothing more comes to those that the server ended,
        and what these did get is taken off. Nor does it owe what it said that it refused.
        """
        if histograms:
            self._look_for_backlog()
        sent = sent_bytes = unsent = received = notices = announced = closed = framed = own = 0
        for peer in self._peers:
            reads = peer.profile is not Profile.NEVER
            received += peer.received
            notices += peer.notice_bytes
            announced += peer.announced
            if peer.closed is not None:
                closed += 1
                own -= peer.received - peer.notice_bytes
            if peer.sender is not None:
                size = peer.msg_bytes
                whole = peer.sent_bytes // size
                accepted = max(0, whole - self._receiver.refused(peer))
                frames = accepted * self._frame_bytes.get(peer.sender, size)
                sent += whole
                sent_bytes += peer.sent_bytes
                framed += frames
                if peer.closed is None:
                    unsent += peer.due * size - peer.sent_bytes
                    own += frames if reads else 0
        return Snapshot(
            now_ns=monotonic_ns(),
            cpu_ns=time.process_time_ns() - self._cpu_ns,
            offered=self._sender.offered,
            sent=sent,
            sent_bytes=sent_bytes,
            unsent_bytes=unsent,
            overdue=self._sender.remaining,
            received_bytes=received,
            notice_bytes=notices,
            announced=announced,
            readers=sum(peer.closed is None for peer in self._readers),
            frame_bytes=framed,
            own_frame_bytes=own,
            last_received_ns=self._last_received_ns,
            connections=len(self._peers) - closed,
            closed_by_server=closed,
            notice=self._receiver.notice,
            latencies=self._latencies() if histograms else None,
        )

    def _look_for_backlog(self) -> None:
        """Note which readers have bytes that we have not read: their latency is ours.

        An ioctl takes a microsecond, so this is for the looks of once a second.
        """
        if not self._is_scheduled:
            return
        self._looks += 1
        for peer in self._readers:
            if peer.profile is Profile.READER and (unread := peer.unread_bytes()):
                self._unread_looks[peer.index] += 1
                self._unread_look_bytes[peer.index] += unread

    def _latencies(self) -> Latencies:
        receiver, sender = self._receiver, self._sender
        return Latencies(receiver.corrected, receiver.uncorrected, sender.lag, sender.lag_blocked)

    def settle(self) -> Settled:
        """Return every connection's account, at quiescence."""
        sequences = self._receiver.sequences
        missing, oldest_ns = self._missing_marks()
        return Settled(
            accounts=[self._account(peer) for peer in self._peers],
            ports=self._local_ports(),
            marks_seen=self._receiver.marks,
            marks_missing=missing,
            oldest_missing_due_ns=oldest_ns,
            lost=sequences.lost,
            duplicated=sequences.duplicated,
            reordered=sequences.reordered,
            damaged=sequences.damaged,
            latencies=self._latencies(),
            windows=self._receiver.windows,
            churned=self._churn.account,
            unacknowledged_bytes=sum(peer.unacknowledged_bytes() for peer in self._peers),
        )

    def _account(self, peer: Peer) -> Account:
        return replace(
            peer.account(),
            too_long=self._receiver.too_long[peer.index],
            rate_limited=self._receiver.rate_limited[peer.index],
            sent_late=self._sender.late[peer.index],
            looks=self._looks if peer.profile is Profile.READER else 0,
            unread_looks=self._unread_looks[peer.index],
            unread_look_bytes=self._unread_look_bytes[peer.index],
        )

    def _missing_marks(self) -> tuple[int, int | None]:
        """Return how many samples never came, and when the oldest of them was due."""
        begin = self._begin
        if begin is None or not self._plan.marking_interval:
            return 0, None
        voices = self._plan.voices
        rounds = self._sender.rounds_begun(begin.schedule.rounds)
        return censored(
            self._receiver.sequences,
            [(peer.index, peer.sender) for peer in self._readers],
            interval=self._plan.marking_interval,
            said=[voices.messages(number, rounds) for number in range(voices.senders)],
            when=begin.schedule.message_due_ns,
        )

    def _local_ports(self) -> list[int]:
        if isinstance(self._plan.address, str):
            return []
        return [peer.sock.getsockname()[1] for peer in self._peers if not peer.closed]

    def abort(self) -> None:
        """Close everything at once."""
        self._churn.stop()
        for peer in self._by_fd.values():
            peer.abort()
        self._by_fd.clear()
        self._epoll.close()
