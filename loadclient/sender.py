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
    from collections.abc import Callable, Sequence

    from loadclient.pacing import Schedule
    from loadclient.payload import Payloads
    from loadclient.peer import Peer
    from loadclient.voices import Voices

SENDS_PER_TURN = 512  # about 5 ms; then receiving has its turn


class Sender:
    """Sends every due message of *peers*, some of all *senders*, lowest number first."""

    def __init__(
        self,
        peers: list[Peer],
        payloads: Payloads,
        *,
        voices: Voices,
        interval: int,
        on_full: Callable[[Peer], None],
        on_lost: Callable[[Peer], None],
    ) -> None:
        self._peers = peers
        self._payloads = {peer.number: payloads.of(peer.number) for peer in peers}
        self._interval = interval
        self._senders = voices.senders
        self._turns = _Turns(peers, voices)
        self._on_full = on_full
        self._on_lost = on_lost
        self._schedule: Schedule | None = None
        self._round = 0
        self._due: Sequence[Peer] = ()  # who takes part in the round
        self._at = 0  # of these, how many had their turn
        self._is_cut = False
        self._offered = 0
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
        self._round = self._at = self._offered = 0
        self._due = self._turns.of(0)
        self._is_cut = False
        numbers = (peer.number for peer in self._peers)
        self._end = sum(schedule.voices.messages(number, schedule.rounds) for number in numbers)
        self._end_ns = schedule.end_ns
        self.next_due_ns = schedule.start_ns if self._end else NEVER_NS

    def cut(self) -> None:
        """Let nothing more become due, though the schedule goes on."""
        self._is_cut = True
        self._end = self._offered
        self.next_due_ns = NEVER_NS

    @property
    def offered(self) -> int:
        """Messages that came due and were offered to a socket, or wait for one that is full."""
        return self._offered

    @property
    def remaining(self) -> int:
        """Messages of the schedule that have not been offered to a socket yet."""
        return self._end - self._offered

    def rounds_begun(self, rounds: int) -> int:
        """Return how many of a phase's *rounds* came due; without senders here, all of them."""
        return self._round + (self._at > 0) if self._is_cut and self._peers else rounds

    def send_due(self, now_ns: int) -> None:
        """Send what is due at *now_ns*, within a turn's budget, and set `next_due_ns`."""
        schedule = self._schedule
        if schedule is None:
            return
        for _ in range(min(SENDS_PER_TURN, self._end - self._offered)):
            while self._at == len(self._due):
                self._round += 1
                self._due = self._turns.of(self._round)
                self._at = 0
            peer = self._due[self._at]
            due_ns = schedule.due_ns(self._round, peer.number)
            if due_ns > now_ns:
                self.next_due_ns = due_ns
                return
            self._at += 1
            self._offered += 1
            peer.due += 1
            if not peer.blocked and not peer.closed:
                self._send_next(peer, due_ns, self.lag)
        if self._offered == self._end:
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
            due_ns = schedule.message_due_ns(peer.built, peer.number)
            if not self._send_next(peer, due_ns, self.lag_blocked):
                return False
        return False

    def _send_next(self, peer: Peer, due_ns: int, lag: Histogram) -> bool:
        """Send *peer*'s next message; return whether its socket took it whole."""
        number, sequence = peer.number, peer.built
        now_ns = monotonic_ns()
        interval = self._interval
        payload = self._payloads[number]
        if interval and (sequence * self._senders + number) % interval == 0:
            message = payload.marked(number, sequence, due_ns, now_ns)
        else:
            message = payload.plain(number, sequence)
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
        if n == len(message):
            peer.pending = b""
            return True
        peer.pending = message[n:]
        if not peer.blocked:
            peer.blocked = True
            self._on_full(peer)
        return False


class _Turns:
    """Who takes part in which round: a slow sender in every n-th, beginning with its own."""

    def __init__(self, peers: Sequence[Peer], voices: Voices) -> None:
        self._peers = peers
        self._by_every: dict[int, dict[int, list[Peer]]] = {}
        for peer in peers:
            every = voices.every(peer.number)
            rows = self._by_every.setdefault(every, {})
            rows.setdefault(peer.number % every, []).append(peer)
        self._are_alike = self._by_every.keys() <= {1}

    def of(self, round_: int) -> Sequence[Peer]:
        """Return them by their numbers, as they are due."""
        if self._are_alike:
            return self._peers
        rows = (rows.get(round_ % every, ()) for every, rows in self._by_every.items())
        return sorted((peer for row in rows for peer in row), key=lambda peer: peer.number)
