"""Numbers that find gaps: what each other instance has said, and what of it never came; sans-IO.

Rules:

1. What has a higher number than expected follows a gap; the gap is lost, and known by number.
2. What has a lower number was delivered or given up already, and is not delivered again: so nobody
   hears a message twice, or one that was announced as dropped, and every sender's order is kept.
3. An incarnation that is heard for the first time is expected to begin at nought if it is younger
   than our membership, since then all it ever said was owed to us. An older one begins where it is.
4. From the moment in which an older one hears of us for the first time, all that it says is owed to
   us. Its number at that moment is our welcome. It is said thirty times, and again after a silence;
   if it is lower than the first number that came, what is between them is lost.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from etltd.bus.envelope import MOST_WELCOMES, Welcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from etltd.bus.envelope import Envelope, Parcel

MOST_FOLLOWED = 4096  # incarnations remembered; then the one that has been silent longest goes
ALIVE_NS = 5_000_000_000  # five signs of life
TIMES_WELCOMED = 30  # once a second, if no more than MOST_WELCOMES came lately; else in turn


class Heard(NamedTuple):
    """What an envelope means to us."""

    lost: int  # messages missing before it, or from our beginning if it welcomes us
    is_new: bool  # its own messages are to be delivered


class _Follower:
    """One incarnation of another instance."""

    __slots__ = ("began", "heard_ns", "is_gone", "is_welcomed", "next", "owed_from")

    def __init__(self, expected: int, *, is_welcomed: bool, owed_from: int) -> None:
        self.began = self.next = expected
        self.is_welcomed = is_welcomed  # or owes us all it ever said
        self.owed_from = owed_from  # our number when we first heard of it
        self.heard_ns = -ALIVE_NS
        self.is_gone = False

    def missed_at_first(self, parcel: Parcel, me: int) -> int:
        """Return how much we had missed before we heard it at all, if *parcel* tells us now."""
        for welcome in parcel.welcomes:
            if welcome.incarnation == me and not self.is_welcomed:
                self.is_welcomed = True
                return max(0, self.began - welcome.first)
        return 0


class Followers:
    """Everybody else on the bus; *me* is our own incarnation."""

    def __init__(self, me: int) -> None:
        self._me = me
        self._followed: dict[int, _Follower] = {}  # by incarnation; heard longest ago first
        self._newcomers: dict[Welcome, int] = {}  # how many times more; who waits longest first

    def hear(self, envelope: Envelope, now_ns: int, member_ns: int, numbered: int) -> Heard:
        """Take note of *envelope*, heard at *now_ns*.

        We have been on the bus since *member_ns*, and have said *numbered* messages up to now.
        """
        incarnation, parcel = envelope.sender.incarnation, envelope.parcel
        follower = self._followed.pop(incarnation, None)
        if follower is None:
            is_younger = envelope.age_ns < now_ns - member_ns
            first = 0 if is_younger else parcel.first
            follower = _Follower(first, is_welcomed=is_younger, owed_from=numbered)
            self._forget_the_silent()
        self._followed[incarnation] = follower
        if now_ns - follower.heard_ns >= ALIVE_NS:
            self._newcomers[Welcome(incarnation, follower.owed_from)] = TIMES_WELCOMED
            if len(self._newcomers) > MOST_FOLLOWED:
                del self._newcomers[next(iter(self._newcomers))]
        follower.heard_ns = now_ns
        follower.is_gone = parcel.is_last
        if follower.is_gone:
            self._newcomers.pop(Welcome(incarnation, follower.owed_from), None)
        if parcel.first < follower.next:
            return Heard(0, is_new=False)
        lost = parcel.first - follower.next + follower.missed_at_first(parcel, self._me)
        follower.next = parcel.first + parcel.messages
        return Heard(lost, is_new=True)

    def welcomes(self) -> tuple[Welcome, ...]:
        """Return what is to be said now to those who came lately; who waits longest comes first.

        Each of many is welcomed as often as one of few, at longer intervals: what is said in one
        round is bounded, since everybody hears it. `have_been_told` when it is on its way.
        """
        return tuple(islice(self._newcomers, MOST_WELCOMES))

    def have_been_told(self, welcomes: Iterable[Welcome]) -> None:
        """Count *welcomes* as said once."""
        for welcome in welcomes:
            times = self._newcomers.pop(welcome) - 1
            if times:
                self._newcomers[welcome] = times

    def alive(self, now_ns: int) -> int:
        """Count the instances heard of lately that have not said that they leave."""
        return sum(
            not follower.is_gone and now_ns - follower.heard_ns < ALIVE_NS
            for follower in self._followed.values()
        )

    def _forget_the_silent(self) -> None:
        if len(self._followed) >= MOST_FOLLOWED:
            del self._followed[next(iter(self._followed))]
