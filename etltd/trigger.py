"""Level-triggered and edge-triggered: the whole difference between the two modes.

Facts (epoll(7); each has a test):

- LT reports a descriptor as long as it *is* readable or writable. ET reports it when it *becomes*
  so: bytes left unread are not mentioned again until the peer sends more.
- Under ET with IN|OUT, one OUT edge comes right after the registration, and later edges carry OUT
  along with IN. OUT therefore means something only to a peer that is owed bytes.
- Any ``epoll_ctl(MOD)`` reports the current readiness anew, which hides a stranded connection.
- Data and FIN that are queued together give one edge.

What follows from them is in three answers and nothing else:

- *Which interest mask?* LT wants OUT only while bytes are owed, else every wait would return at
  once: each change is a MOD. ET registers everything once and never modifies.
- *How many reads per turn?* LT may stop at any point, one read is the usual choice. ET must read
  until there is nothing, within a budget so that one flooding peer cannot stop the others.
- *Who remembers what a bounded turn left unread?* LT: the kernel. ET: we do, on a revisit list,
  and while that is not empty the next poll must not block.

The price: ET pays about one read that finds nothing per drained event, LT pays MODs on the write
side and has its ready list polled again. `--drain short-read` takes ET's price away, and is safe
only while no hang-up is pending (the reactor sees to that).

A listener of one process stays level-triggered in both modes: accepting is no part of the
experiment. One port for several processes makes it the experiment (`accept_mask`): the kernel wakes
one of them for a connection or all (EPOLLEXCLUSIVE: epoll_ctl(2)), once or until it is accepted.
"""

from __future__ import annotations

from select import EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from etltd.connection import Connection

READ = EPOLLIN | EPOLLRDHUP


class Trigger(Protocol):
    """The three answers."""

    name: str
    reads_per_event: int
    accept: int  # interest in a listener that other processes wait for, too

    def mask(self, *, wants_read: bool, wants_write: bool) -> int:
        """Return the interest mask of a peer in this state."""

    def unfinished(self, conn: Connection, revisit: dict[int, Connection]) -> None:
        """Remember, if need be, that *conn* may have more to read."""


class LevelTriggered:
    """The kernel remembers: unread bytes mean it will call again."""

    name = "lt"
    reads_per_event = 1
    accept = EPOLLIN

    def mask(self, *, wants_read: bool, wants_write: bool) -> int:
        """Return what is wanted now; every change costs one ``epoll_ctl``."""
        return (READ if wants_read else 0) | (EPOLLOUT if wants_write else 0)

    def unfinished(self, conn: Connection, revisit: dict[int, Connection]) -> None:
        """Leave it: epoll reports it again."""


class EdgeTriggered:
    """We remember: no second call until something new happens."""

    name = "et"
    reads_per_event = 16  # 1 MiB at the default buffer size; then the neighbours have a turn
    accept = EPOLLIN | EPOLLET

    def mask(self, *, wants_read: bool, wants_write: bool) -> int:  # noqa: ARG002 - always the same
        """Return everything, once and for all."""
        return READ | EPOLLOUT | EPOLLET

    def unfinished(self, conn: Connection, revisit: dict[int, Connection]) -> None:
        """Put it on the revisit list: nobody else will mention it."""
        revisit[conn.fd] = conn


def named(mode: str) -> Trigger:
    """Return the trigger called *mode*, ``lt`` or ``et``."""
    return LevelTriggered() if mode == "lt" else EdgeTriggered()


def accept_mask(trigger: Trigger, listener: str) -> int:
    """Return the interest in a listening socket that is used as ``--listener`` says."""
    if listener == "own":
        return EPOLLIN
    return trigger.accept | (EPOLLEXCLUSIVE if listener == "exclusive" else 0)


def forgets(mask: int) -> bool:
    """Whether who is interested by *mask* must remember itself what it left undone."""
    return bool(mask & EPOLLET)
