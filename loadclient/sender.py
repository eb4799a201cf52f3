"""Follows the schedule of one worker's senders.

Rule: no message is skipped. What a socket does not take stays due, with the due time it always had;
the wait shows as schedule lag and as corrected latency, which is where a slow server belongs.

Lag has two causes and is recorded apart: a message whose socket took it at once was late because of
us, one whose socket was full was late because of the server.
"""

from __future__ import annotations

from collections import Counter
from time import monotonic_ns
from typing import TYPE_CHECKING

from loadclient.histogram import Histogram
from loadclient.protocol import NEVER_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.pacing import Schedule
    from loadclient.payload import Payload
    from loadclient.peer import Peer

SENDS_PER_TURN = 512  # about 5 ms; then receiving has its turn


class Sender:
    """Sends every due message of *peers*, some of all *senders*, lowest number first."""

    def __init__(
        self,
        peers: list[Peer],
        payload: Payload,
        *,
        senders: int,
        interval: int,
        on_full: Callable[[Peer], None],
        on_lost: Callable[[Peer], None],
    ) -> None:
        self._peers = peers
        self._payload = payload
        self._interval = interval
        self._senders = senders
        self._on_full = on_full
        self._on_lost = on_lost
        self._schedule: Schedule | None = None
        self._cursor = 0
        self._end = 0
        self._end_ns = NEVER_NS
        self.next_due_ns = NEVER_NS
        self.forget()

    def forget(self) -> None:
        """Start a phase with empty counts."""
        self.lag = Histogram()
        self.lag_blocked = Histogram()
        self.late: Counter[int] = Counter()  # by peer, messages whole only after the schedule's end

    def follow(self, schedule: Schedule) -> None:
        """Begin *schedule* with its first message."""
        self._schedule = schedule
        self._cursor = 0
        self._end = schedule.rounds * len(self._peers)
        self._end_ns = schedule.end_ns
        self.next_due_ns = schedule.start_ns if self._end else NEVER_NS

    def cut(self) -> None:
        """Let nothing more become due, though the schedule goes on."""
        self._end = self._cursor
        self.next_due_ns = NEVER_NS

    @property
    def offered(self) -> int:
        """Messages that came due and were offered to a socket, or wait for one that is full."""
        return self._cursor

    @property
    def remaining(self) -> int:
        """Messages of the schedule that have not been offered to a socket yet."""
        return self._end - self._cursor

    def rounds_begun(self, rounds: int) -> int:
        """Return how many of a phase's *rounds* came due; without senders here, all of them."""
        return -(-self._end // len(self._peers)) if self._peers else rounds

    def send_due(self, now_ns: int) -> None:
        """Send what is due at *now_ns*, within a turn's budget, and set `next_due_ns`."""
        schedule = self._schedule
        if schedule is None:
            return
        peers = self._peers
        for cursor in range(self._cursor, min(self._end, self._cursor + SENDS_PER_TURN)):
            round_, column = divmod(cursor, len(peers))
            peer = peers[column]
            due_ns = schedule.due_ns(round_, peer.number)
            if due_ns > now_ns:
                self.next_due_ns = due_ns
                return
            self._cursor = cursor + 1
            peer.due += 1
            if not peer.blocked and not peer.closed:
                self._send_next(peer, due_ns, self.lag)
        if self._cursor == self._end:
            self.next_due_ns = NEVER_NS

    def on_writable(self, peer: Peer) -> bool:
        """Send what *peer*'s socket refused before; return whether it has caught up."""
        if peer.pending:
            if not self._push(peer, peer.pending):
                return False
            self.late[peer.index] += monotonic_ns() >= self._end_ns
        schedule = self._schedule
        for _ in range(SENDS_PER_TURN):
            if peer.built == peer.due or schedule is None:
                peer.blocked = False
                return True
            due_ns = schedule.due_ns(peer.built, peer.number)
            if not self._send_next(peer, due_ns, self.lag_blocked):
                return False
        return False

    def _send_next(self, peer: Peer, due_ns: int, lag: Histogram) -> bool:
        """Send *peer*'s next message; return whether its socket took it whole."""
        round_ = peer.built
        now_ns = monotonic_ns()
        interval = self._interval
        if interval and (round_ * self._senders + peer.number) % interval == 0:
            message = self._payload.marked(peer.number, round_, due_ns, now_ns)
        else:
            message = self._payload.plain(peer.number, round_)
        before = peer.sent_bytes
        whole = self._push(peer, message)
        if peer.sent_bytes > before:
            peer.built += 1
            lag.record(now_ns - due_ns)
            if whole and now_ns >= self._end_ns:
                self.late[peer.index] += 1
        else:
            peer.pending = b""  # not begun: it will be built anew, with its real time of sending
        return whole

    def _push(self, peer: Peer, message: bytes) -> bool:
        """Hand *message* to the socket and keep the rest; return whether there is none."""
        try:
            n = peer.send(message)
        except BlockingIOError:
            n = 0
        except OSError:
            self._on_lost(peer)
            return False
        peer.sent_bytes += n
        peer.pending = message[n:]
        if peer.pending and not peer.blocked:
            peer.blocked = True
            self._on_full(peer)
        return not peer.pending
