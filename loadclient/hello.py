"""The hello before the load: who hears whom, and how the server names each sender.

Rule: no load before every connection has received something. A connection in the backlog looks open
to us, and the server owes it nothing; what it then "misses" would be called loss.

Every sender says hello once. Two readers of each worker listen (nobody hears itself), parse the
server's prefix and so learn the length of that sender's frames. Hellos that do not come back are
said again, for whoever was accepted after the first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadclient.protocol import Heard, SayHello

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadclient.crew import Crew
    from loadclient.protocol import Snapshot

TIMEOUT_SECONDS = 5.0
AGAIN_SECONDS = 0.5
LISTEN_SECONDS = 0.05
OTHERS_SECONDS = 1.0  # between two hellos to parts that may not be there yet


@dataclass(frozen=True, slots=True)
class Echo:
    """What came back of *senders* hellos."""

    senders: int
    prefix_bytes: dict[int, int]
    silent: int  # connections that received nothing
    closed: int  # connections that the server ended

    @property
    def complete(self) -> bool:
        """Tell whether everybody is known to hear and be heard."""
        return len(self.prefix_bytes) == self.senders and not self.silent

    def why_not(self, connections: int, total: Snapshot, unread_bytes: int | None) -> str:
        """Say what the server did instead: the negative control ends here."""
        if self.closed:
            said = f', saying "{total.notice}"' if total.notice else ""
            return (
                f"the server closed {total.closed_by_server} of {connections} connections "
                f"before the load began{said}"
            )
        unread = f"; {unread_bytes} bytes lie unread in its sockets" if unread_bytes else ""
        said = f': it says "{total.notice}"' if total.notice else ""
        if not self.prefix_bytes:
            why = said or ": it does not read or does not broadcast"
            return (
                f"the server accepted {connections} connections but delivered nothing{why}{unread}"
            )
        return (
            f"after {TIMEOUT_SECONDS:g} s only {len(self.prefix_bytes)} of {self.senders} senders "
            f"were heard, and {self.silent} of {connections} connections received nothing"
            f"{said}{unread}"
        )


def exchange(crew: Crew, senders: int, pause: Callable[[float], None]) -> Echo:
    """Say hello until everybody has heard one, a connection is lost, or time is up."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    wanted = everyone = frozenset(range(senders))
    while True:
        crew.ask(SayHello(wanted), Heard)
        echo = _listen(crew, senders, pause)
        if echo.complete or echo.closed or time.monotonic() > deadline:
            return echo
        wanted = (everyone - echo.prefix_bytes.keys()) or frozenset(sorted(everyone)[:2])


def exchange_with_others(
    crew: Crew, own: range, senders: int, until: float, pause: Callable[[float], None]
) -> Echo:
    """Say hello until the Unix time *until*: other parts of the run come when they come."""
    while True:
        crew.ask(SayHello(frozenset(own)), Heard)
        echo = _listen(crew, senders, pause)
        if echo.closed or time.time() > until:
            return echo
        pause(min(OTHERS_SECONDS, max(0.0, until - time.time())))


def _listen(crew: Crew, senders: int, pause: Callable[[float], None]) -> Echo:
    """Wait until every hello has come back, or until it is time to repeat some."""
    until = time.monotonic() + AGAIN_SECONDS
    while True:
        answers = crew.ask(SayHello(frozenset()), Heard)
        echo = Echo(
            senders,
            {k: v for answer in answers for k, v in answer.prefix_bytes.items()},
            sum(answer.silent for answer in answers),
            sum(answer.closed for answer in answers),
        )
        if echo.complete or echo.closed or time.monotonic() > until:
            return echo
        pause(LISTEN_SECONDS)
