"""What one publish carries: a tick's lines, who said them, and their numbers; sans-IO.

The lines have their prefixes already and are passed on as they are. The number of the first one
counts all that the instance has said before, so that a receiver knows how many it has missed.
An envelope without lines is a sign of life, and tells the number of the next line to come: what was
lost at the end of a conversation is known within a second, too. Instead of lines it may carry
welcomes: to instances that were first heard of lately, the number from which on all is owed them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"ETLB"
VERSION = 1
LAST = 1  # a flag: the instance leaves, nothing follows
WELCOMES = 2  # a flag: what follows the name are welcomes, and no lines
MOST_NUMBER = 1 << 63  # no instance says so much: what claims it would shut its victim out for good

# magic, version, flags, length of the name, incarnation, first, age, sent, messages
HEAD = struct.Struct("!4sBBBxQQQQI")
MOST_NAME_BYTES = 32
MOST_HEAD_BYTES = HEAD.size + MOST_NAME_BYTES
WELCOME = struct.Struct("!QQ")  # incarnation, first
MOST_WELCOMES = 32  # in one envelope; more newcomers than these take turns
LEAST_PAYLOAD_BYTES = MOST_HEAD_BYTES + MOST_WELCOMES * WELCOME.size  # welcomes go in no parts
LINE_HEAD = b"[USER"  # of every line: a stranger's is no notice of the server, nor without a sender


class EnvelopeError(ValueError):
    """These bytes are no envelope of ours."""


class Identity(NamedTuple):
    """Who speaks: a name that users see, and a number that no restart repeats."""

    name: str
    incarnation: int


class Welcome(NamedTuple):
    """To a newcomer: what we numbered from *first* on is owed to it."""

    incarnation: int
    first: int


class Parcel(NamedTuple):
    """What one tick has to say to the other instances."""

    first: int  # messages that this incarnation numbered before
    messages: int
    lines: bytes
    sent_ns: int  # Unix time at which the loop handed it over
    is_last: bool = False
    welcomes: tuple[Welcome, ...] = ()  # only where there are no lines


class Envelope(NamedTuple):
    """A parcel as it came over the bus."""

    sender: Identity
    age_ns: int  # of the sender's incarnation when it published
    parcel: Parcel


def pack(sender: Identity, age_ns: int, parcel: Parcel) -> bytes:
    """Return the bytes of an envelope."""
    name = sender.name.encode()
    flags = (LAST if parcel.is_last else 0) | (WELCOMES if parcel.welcomes else 0)
    numbers = (sender.incarnation, parcel.first, age_ns, parcel.sent_ns, parcel.messages)
    body = b"".join(WELCOME.pack(*welcome) for welcome in parcel.welcomes) or parcel.lines
    return HEAD.pack(MAGIC, VERSION, flags, len(name), *numbers) + name + body


def unpack(data: bytes) -> Envelope:
    """Return what `pack` packed.

    Raises:
        EnvelopeError: it is none, or its lines are not whole: passed on, they would tear others';
            or they are not what clients say: they would pass for notices of the server.
    """
    try:
        magic, version, flags, size, *numbers = HEAD.unpack_from(data)
        name = data[HEAD.size : HEAD.size + size].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None
    if (magic, version) != (MAGIC, VERSION):
        raise EnvelopeError(f"it begins with {data[:5]!r}")
    incarnation, first, age_ns, sent_ns, messages = numbers
    if first + messages >= MOST_NUMBER:
        raise EnvelopeError(f"its number is {first}")
    body = data[HEAD.size + size :]
    welcomes = _welcomes(body) if flags & WELCOMES else ()
    if welcomes:
        body = b""
    _check_lines(body, messages)
    parcel = Parcel(first, messages, body, sent_ns, bool(flags & LAST), welcomes)
    return Envelope(Identity(name, incarnation), age_ns, parcel)


def _welcomes(body: bytes) -> tuple[Welcome, ...]:
    try:
        return tuple(Welcome(*numbers) for numbers in WELCOME.iter_unpack(body))
    except struct.error as error:
        raise EnvelopeError(str(error)) from None


def _check_lines(lines: bytes, messages: int) -> None:
    if lines.count(b"\n") != messages or (lines and not lines.endswith(b"\n")):
        raise EnvelopeError(f"it announces {messages} lines and holds others")
    said = lines.startswith(LINE_HEAD) + lines.count(b"\n" + LINE_HEAD)
    if said != messages:
        raise EnvelopeError(f"{messages - said} of its lines are said by no client")


def messages_in(data: bytes) -> int:
    """Return how many messages the bytes of an envelope claim to hold; 0 if they are none.

    Cheaper than `unpack`, for what is thrown away. (Counting newlines would count the head's.)
    """
    return (
        int(HEAD.unpack_from(data)[-1]) if data.startswith(MAGIC) and len(data) >= HEAD.size else 0
    )


def parts(parcel: Parcel, most_bytes: int) -> Iterator[Parcel]:
    """Yield *parcel* in parts with at most *most_bytes* of lines each, cut between lines.

    A line that is longer by itself is left out; its number stays, so that it will be missed.
    """
    lines = parcel.lines
    start, first = 0, parcel.first
    while len(lines) - start > most_bytes:
        end = lines.rfind(b"\n", start, start + most_bytes) + 1
        if not end:
            start = lines.find(b"\n", start) + 1
            first += 1
            continue
        messages = lines.count(b"\n", start, end)
        yield Parcel(first, messages, lines[start:end], parcel.sent_ns)
        start, first = end, first + messages
    messages = parcel.first + parcel.messages - first
    yield parcel._replace(first=first, messages=messages, lines=lines[start:])
