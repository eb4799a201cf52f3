"""Accounting: what was owed, what came, and whether every difference has an explanation.

Rule: a difference is explained by a witness (a notice, a closed connection, a counter of the
server) or it makes the run invalid. Nothing is rounded away.

Messages of one sender have one size, so bytes prove counts, also where senders differ: a receiver
is owed the frames of every sender but itself, and what it read must be exactly that, less what the
server said it dropped. It does not say whose messages those were, so they are taken to be of any
length that there is. All of this holds only at quiescence; the runner sees to that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadclient.voices import Voices


REFUSALS = ("line too long", "rate limited")  # as the server's notices word them


class Profile(StrEnum):
    """How a connection reads."""

    READER = "reader"
    SLOW = "slow"
    NEVER = "never"


class Closed(StrEnum):
    """How the server ended a connection."""

    EOF = "eof"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Account:
    """One connection's totals over the measured phase."""

    profile: Profile = Profile.READER
    sender: int | None = None
    due: int = 0  # messages that the schedule asked of it
    sent_bytes: int = 0
    received_bytes: int = 0
    notice_bytes: int = 0
    announced: int = 0  # dropped messages, by the server's own notices
    unread_bytes: int = 0  # received by the kernel, not read by us
    closed: Closed | None = None
    too_long: int = 0  # messages of its own that the server refused, by the server's own notices
    rate_limited: int = 0
    sent_late: int = 0  # messages whose last byte left after the schedule's end
    looks: int = 0  # while the schedule ran
    unread_looks: int = 0  # of these, how many found bytes that we had not read
    unread_look_bytes: int = 0  # their sum

    @property
    def refused(self) -> int:
        """Messages that the server read and would not deliver, and said so."""
        return self.too_long + self.rate_limited


@dataclass(slots=True)
class Churned:
    """What became of the connections that came and went."""

    dialled: int = 0
    connected: int = 0
    failed: int = 0  # no connection came of them
    ended_by_server: int = 0
    received: int = 0  # whole messages
    announced: int = 0  # dropped messages, by the server's own notices
    out_of_order: int = 0  # messages that do not follow the one before of the same sender
    damaged: int = 0
    lived_ns: int = 0  # from dialling to leaving, of all that were connected

    def __add__(self, other: Churned) -> Churned:
        """Return the sums."""
        return Churned(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Churned)))


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The receivers' side of the ledger, in copies of messages."""

    expected: int = 0  # owed to connections that read
    received: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    owed_to_never_readers: int = 0
    surplus_bytes: int = 0
    reasons: tuple[str, ...] = ()


def settle_deliveries(
    accounts: Iterable[Account],
    prefix_bytes: Mapping[int, int],
    voices: Voices,
    *,
    waited_seconds: float | None = None,
) -> Deliveries:
    """Compare what each connection read with what it was owed.

    *prefix_bytes* says how long the server's prefix of each sender is, as its hello showed. What is
    missing is lost if a witness says that nothing more will come; otherwise it may be late, and
    *waited_seconds* says how long we waited for it.
    """
    accounts = list(accounts)
    owed = _Owed(accounts, prefix_bytes, voices)
    tally: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    strays: list[str] = []
    for index, account in enumerate(accounts):
        messages, payload = owed.to(account)
        if account.profile is Profile.NEVER:
            tally["never"] += messages
            continue
        gap = owed.gap(account, payload - (account.received_bytes - account.notice_bytes))
        tally["expected"] += messages
        tally["received"] += messages - account.announced - gap.messages
        tally["surplus"] += gap.surplus_bytes
        lost["announced"] += account.announced
        lost[gap.reason] += gap.messages
        if gap.stray:
            strays.append(f"connection {index} {gap.stray}")
    return Deliveries(
        expected=tally["expected"],
        received=tally["received"],
        lost={reason: lost[reason] for reason in ("announced", "closed", "unexplained")},
        owed_to_never_readers=tally["never"],
        surplus_bytes=tally["surplus"],
        reasons=(
            *_refusal_reasons(accounts, voices),
            *_delivery_reasons(tally, lost, strays, waited_seconds),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Gap:
    """What one connection lacks, or has, beside what it was told that it would not get."""

    reason: str  # why it lacks messages, one of those of `Deliveries.lost`
    messages: int = 0
    surplus_bytes: int = 0
    stray: str = ""  # what cannot be explained, in words


class _Owed:
    """What the senders' totals owe to each connection."""

    def __init__(
        self, accounts: list[Account], prefix_bytes: Mapping[int, int], voices: Voices
    ) -> None:
        self._voices = voices
        self._frame = {n: prefix + voices.size(n) for n, prefix in prefix_bytes.items()}
        senders = [account for account in accounts if account.sender is not None]
        owed = [self._own(account) for account in senders]
        self._messages = sum(messages for messages, _ in owed)
        self._bytes = sum(octets for _, octets in owed)
        self.shortest = min(self._frame.values(), default=voices.sizes[0])
        self.longest = max(self._frame.values(), default=voices.sizes[-1])
        self.mean = voices.mean_frame(prefix_bytes)
        # Nobody knows how much a server read of a connection that it reset.
        self.uncertain_bytes = sum(self._own(account)[1] for account in senders if account.closed)

    def _own(self, account: Account) -> tuple[int, int]:
        """Return what *account* made the server owe: nobody is owed what was refused."""
        if account.sender is None:
            return 0, 0
        size = self._voices.size(account.sender)
        messages = max(0, account.sent_bytes // size - account.refused)
        return messages, messages * self._frame.get(account.sender, size)

    def to(self, account: Account) -> tuple[int, int]:
        """Return the messages and bytes owed to *account*: everybody's but its own."""
        messages, payload = self._own(account)
        return self._messages - messages, self._bytes - payload

    def gap(self, account: Account, missing: int) -> _Gap:
        """Explain the *missing* bytes of *account*."""
        low = account.announced * self.shortest
        high = account.announced * self.longest + self.uncertain_bytes
        if account.closed is not None:
            absent = round(max(0, missing) / self.mean)
            return _Gap("closed", max(0, absent - account.announced))
        absent = round((missing - low) / self.mean)
        if missing > high:
            told = f"lacks {missing} bytes and was told of {account.announced}"
            return _Gap("unexplained", max(1, absent), stray=told)
        if missing < low:
            more = low - missing
            return _Gap("closed", 0, more, f"got {more} bytes more than it was owed")
        return _Gap("closed", absent if self.uncertain_bytes else 0)


def sent_by(accounts: Iterable[Account], voices: Voices) -> int:
    """Return how many whole messages were sent."""
    return sum(
        account.sent_bytes // voices.size(account.sender)
        for account in accounts
        if account.sender is not None
    )


def _refusal_reasons(accounts: list[Account], voices: Voices) -> Iterable[str]:
    """Quote what the server said of messages that it would not deliver."""
    sent = sent_by(accounts, voices)
    too_long = sum(account.too_long for account in accounts)
    rate_limited = sum(account.rate_limited for account in accounts)
    for said, refused in zip(REFUSALS, (too_long, rate_limited), strict=True):
        if refused:
            yield f"the server refused {refused} of {sent} messages: {said}"


def _delivery_reasons(
    tally: Mapping[str, int], lost: Mapping[str, int], strays: list[str], waited: float | None
) -> tuple[str, ...]:
    example = f" (for example, {strays[0]})" if strays else ""
    late = "" if waited is None else f", or had not come {waited:g} s after the last one was due"
    reasons = []
    if lost["unexplained"]:
        reasons.append(
            f"the clients are owed {tally['expected']} copies and received {tally['received']}: "
            f"{lost['unexplained']} were lost without a notice{late}{example}"
        )
    if tally["surplus"]:
        reasons.append(
            f"the clients received {tally['surplus']} bytes more than they were owed: "
            f"duplicates, foreign messages or notices of an unknown kind{example}"
        )
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What the server counted over the same phase, in messages."""

    received: int
    refused: int  # too long or over the rate limit: never became messages
    enqueued: int
    dropped: int
    dropped_and_told: int  # of the dropped, those that it announces to who missed them
    unread_bytes: int | None = None  # waiting in its sockets; None when that cannot be seen
    evicted: int = 0  # connections that it ended because they did not read
    accepted: int = 0  # connections
    closed: int = 0


def owed_to_churned(server: ServerSide, accounts: Sequence[Account], voices: Voices) -> int:
    """Return the copies that the server owed to connections that came and went.

    That is all that it enqueued but for what it owed to those that stayed.
    """
    sent = sent_by(accounts, voices)
    return server.enqueued - (sent - server.refused) * (len(accounts) - 1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What there was to be owed while somebody was there."""

    messages: int
    rate: float  # messages per second, all senders together
    senders: int  # that may speak at one moment
    slack_seconds: float | None  # how far owing may lag behind sending; None if nothing showed it

    def most_owed(self, churned: Churned) -> int:
        """Return how many copies those who came and went can have been owed at most.

        One that was there from here to there is owed what was due in that time; before it, what was
        on its way when it came, and after it, what the server read before it saw that it had gone.
        """
        all_of_it = churned.connected * self.messages
        if self.slack_seconds is None:
            return all_of_it
        seconds = churned.lived_ns / 1e9 + 2 * self.slack_seconds * churned.connected
        return min(all_of_it, ceil(self.rate * seconds) + churned.connected * self.senders)


def churn_reasons(
    server: ServerSide, owed: int, churned: Churned, traffic: Traffic
) -> Iterable[str]:
    """Return a sentence for each thing about the connections that came and went that cannot be."""
    if not server.accepted == server.closed == churned.connected:
        yield (
            f"{churned.connected} connections came and went, but the server accepted "
            f"{server.accepted} and closed {server.closed}"
        )
    if owed < churned.received + churned.announced:
        yield (
            f"connections that came and went received {churned.received} copies and were told of "
            f"{churned.announced} dropped, but the server owed them {owed}"
        )
    if owed > (most := traffic.most_owed(churned)):
        yield (
            f"while connections came and went, at most {most} copies can have been owed to them, "
            f"but the server says that it owed them {owed}"
        )
    if churned.ended_by_server:
        number = churned.ended_by_server
        yield f"the server ended {number} connections that were to come and go by themselves"
    for number, what in (
        (churned.out_of_order, "did not follow the one before it"),
        (churned.damaged, "was damaged"),
    ):
        if number:
            yield (
                f"of {churned.received} messages to connections that came and went, {number} times "
                f"one {what}"
            )


def join_reasons(
    server: ServerSide,
    accounts: Iterable[Account],
    deliveries: Deliveries,
    voices: Voices,
    churn: tuple[Churned, Traffic] | None = None,
) -> list[str]:
    """Return a sentence for each place where the server's counts and ours contradict."""
    accounts = list(accounts)
    if any(account.closed for account in accounts):
        return []  # the server knows how much it read of a lost connection; we do not
    sent = sent_by(accounts, voices)
    told = sum(account.refused for account in accounts)
    reasons = [*_sent_reasons(server, sent, told, voices)]
    if churn is None:
        return [*reasons, *_copies_reasons(server, accounts, deliveries, sent)]
    owed = owed_to_churned(server, accounts, voices)
    return [*reasons, *churn_reasons(server, owed, *churn)]


def _sent_reasons(server: ServerSide, sent: int, told: int, voices: Voices) -> Iterable[str]:
    octets = server.unread_bytes or 0
    least, most = octets // voices.sizes[-1], octets // voices.sizes[0]
    unread = sent - server.received - server.refused
    if server.refused != told:
        yield (
            f"the server refused {server.refused} of {sent} messages (too long, or rate limit), "
            f"but told the clients of {told}"
        )
    if not least <= unread <= most:
        known = str(least) if least == most else f"{least} to {most}"
        known = "an unknown number" if server.unread_bytes is None else known
        yield (
            f"the clients sent {sent} messages, but the server processed {server.received} "
            f"and {known} wait unread in its sockets"
        )
    elif unread:
        yield f"the server left {unread} of {sent} messages unread in its sockets"


def _copies_reasons(
    server: ServerSide, accounts: list[Account], deliveries: Deliveries, sent: int
) -> Iterable[str]:
    accepted = sent - server.refused
    owed = accepted * (len(accounts) - 1)  # nobody hears itself
    # It owes nothing more to whom it evicted. When that was, we cannot see: the FIN of a connection
    # whose window is shut waits behind the bytes that we never read.
    least = owed - accepted * server.evicted
    if server.received == accepted and not least <= server.enqueued <= owed:
        yield (
            f"the server enqueued {server.enqueued} copies, but {accepted} messages to "
            f"{len(accounts)} connections make {owed}: was somebody else connected?"
        )
        return
    in_flight = server.enqueued - server.dropped - deliveries.received
    if not 0 <= in_flight <= deliveries.owed_to_never_readers:
        yield (
            f"the server enqueued {server.enqueued} copies and dropped {server.dropped}, but the "
            f"clients received {deliveries.received}: {in_flight} are in nobody's hands"
        )
    announced = deliveries.lost.get("announced", 0)
    if not deliveries.owed_to_never_readers and announced != server.dropped_and_told:
        yield (
            f"the server dropped {server.dropped_and_told} copies of which it tells the clients "
            f"(slow readers, or lost on the bus), but told them of {announced}"
        )
