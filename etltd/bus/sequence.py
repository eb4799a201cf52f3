"""Numbers that find gaps: what each other instance has said, and what of it never came; sans-IO.

Rules:

1. What has a higher number than expected follows a gap; the gap is lost, and known by number.
2. What has a lower number was delivered or given up already, and is not delivered again: so nobody
   hears a message twice, or one that was announced as dropped, and every sender's order is kept.
3. An incarnation that is heard for the first time is expected to begin at nought if it is younger
   than our membership, since then all it ever said was owed to us. An older one begins where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from etltd.bus.envelope import Envelope

MOST_FOLLOWED = 4096  # incarnations remembered; then the one that has been silent longest goes
ALIVE_NS = 5_000_000_000  # five signs of life


class Heard(NamedTuple):
    """What an envelope means to us."""

    lost: int  # messages missing before it
    is_new: bool  # its own messages are to be delivered


class _Follower:
    """One incarnation of another instance."""

    __slots__ = ("heard_ns", "is_gone", "next")

    def __init__(self, expected: int) -> None:
        self.next = expected
        self.heard_ns = 0
        self.is_gone = False


class Followers:
    """Everybody else on the bus."""

    def __init__(self) -> None:
        self._followed: dict[int, _Follower] = {}  # by incarnation; heard longest ago first

    def hear(self, envelope: Envelope, now_ns: int, member_ns: int) -> Heard:
        """Take note of *envelope*, heard at *now_ns*; we have been on the bus since *member_ns*."""
        incarnation, parcel = envelope.sender.incarnation, envelope.parcel
        follower = self._followed.pop(incarnation, None)
        if follower is None:
            is_younger = envelope.age_ns < now_ns - member_ns
            follower = _Follower(0 if is_younger else parcel.first)
            self._forget_the_silent()
        self._followed[incarnation] = follower
        follower.heard_ns = now_ns
        follower.is_gone = parcel.is_last
        if parcel.first < follower.next:
            return Heard(0, is_new=False)
        lost = parcel.first - follower.next
        follower.next = parcel.first + parcel.messages
        return Heard(lost, is_new=True)

    def alive(self, now_ns: int) -> int:
        """Count the instances heard of lately that have not said that they leave."""
        return sum(
            not follower.is_gone and now_ns - follower.heard_ns < ALIVE_NS
            for follower in self._followed.values()
        )

    def _forget_the_silent(self) -> None:
        if len(self._followed) >= MOST_FOLLOWED:
            del self._followed[next(iter(self._followed))]
