"""What goes over the bus and comes back as it was, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.bus.envelope import (
    HEAD,
    LEAST_PAYLOAD_BYTES,
    MOST_HEAD_BYTES,
    MOST_NUMBER,
    MOST_WELCOMES,
    EnvelopeError,
    Identity,
    Parcel,
    Welcome,
    messages_in,
    pack,
    parts,
    unpack,
)

ME = Identity("north-1", 7)
WHOLE = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(0, MOST_NUMBER - 100)
BODIES = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20)


def parcel_of(bodies: list[bytes], first: int = 0, *, is_last: bool = False) -> Parcel:
    lines = b"".join(b"[USER" + body + b"\n" for body in bodies)
    return Parcel(first, len(bodies), lines, 123, is_last)


@given(bodies=BODIES, incarnation=WHOLE, first=NUMBERS, age_ns=WHOLE, is_last=st.booleans())
def test_what_is_packed_is_unpacked(
    bodies: list[bytes], incarnation: int, first: int, age_ns: int, *, is_last: bool
) -> None:
    sender = Identity("x" * 32, incarnation)
    parcel = parcel_of(bodies, first, is_last=is_last)

    data = pack(sender, age_ns, parcel)

    assert unpack(data) == (sender, age_ns, parcel)
    assert len(data) == MOST_HEAD_BYTES + len(parcel.lines)
    assert messages_in(data) == len(bodies)


@given(st.binary())
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    """Anybody may publish on the subject; our clients hear nothing of it, and the loop goes on."""
    with pytest.raises(EnvelopeError):
        unpack(data)
    assert messages_in(data) == 0


@pytest.mark.parametrize(
    "lines",
    [b"", b"[USER1] one\n[USER1] two\n", b"[USER1] no end", b"[USER1] one\n[USER1] and a half"],
    ids=["none", "two", "half", "torn"],
)
def test_lines_that_are_not_whole_are_refused(lines: bytes) -> None:
    """Passed on, half a line would swallow the next sender's prefix."""
    with pytest.raises(EnvelopeError, match="announces 1 lines"):
        unpack(pack(ME, 0, Parcel(0, 1, lines, 0)))


@pytest.mark.parametrize(
    "lines",
    [b"[etltd] server is stopping\n", b"no sender\n", b"\n", b"[USER1] x\n[etltd] y\n"],
    ids=["notice", "no sender", "empty", "notice after a message"],
)
def test_what_no_client_can_have_said_is_refused(lines: bytes) -> None:
    """Passed on, it would be taken for a word of the server."""
    with pytest.raises(EnvelopeError, match="1 of its lines are said by no client"):
        unpack(pack(ME, 0, Parcel(0, lines.count(b"\n"), lines, 0)))


@pytest.mark.parametrize("first", [MOST_NUMBER - 1, 2**64 - 1])
def test_a_number_that_nobody_reaches_is_refused(first: int) -> None:
    """All that its alleged sender says from then on would be late."""
    with pytest.raises(EnvelopeError, match="its number is"):
        unpack(pack(ME, 0, parcel_of([b"hello"], first)))


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=1))
def test_welcomes_are_unpacked_as_they_were(welcomes: list[tuple[int, int]]) -> None:
    parcel = Parcel(5, 0, b"", 123, welcomes=tuple(Welcome(*pair) for pair in welcomes))

    assert unpack(pack(ME, 0, parcel)).parcel == parcel


def test_a_server_that_is_not_refused_takes_a_full_welcome_of_the_longest_name() -> None:
    """It would end the connection, each second anew."""
    full = Parcel(5, 0, b"", 123, welcomes=(Welcome(1, 2),) * MOST_WELCOMES)

    assert len(pack(Identity("x" * 32, 1), 0, full)) == LEAST_PAYLOAD_BYTES


def test_half_a_welcome_is_refused() -> None:
    with pytest.raises(EnvelopeError):
        unpack(pack(ME, 0, Parcel(5, 0, b"", 0, welcomes=(Welcome(1, 2),)))[:-1])


def test_lines_in_place_of_welcomes_are_refused() -> None:
    """Their number would be taken for said, and what was really said after it for late."""
    data = bytearray(pack(ME, 0, Parcel(5, 3, b"", 0, welcomes=(Welcome(1, 2),))))

    with pytest.raises(EnvelopeError, match="announces 3 lines"):
        unpack(bytes(data))


def test_another_version_is_refused() -> None:
    data = bytearray(pack(ME, 0, parcel_of([b"hello"])))
    data[4] = 2

    with pytest.raises(EnvelopeError, match="begins with"):
        unpack(bytes(data))


def test_a_name_that_is_no_text_is_refused() -> None:
    data = bytearray(pack(ME, 0, parcel_of([b"hello"])))
    data[HEAD.size] = 0xFF

    with pytest.raises(EnvelopeError):
        unpack(bytes(data))


@given(bodies=BODIES, most_bytes=st.integers(1, 60), is_last=st.booleans())
def test_parts_fit_and_are_the_whole_but_for_lines_that_never_fit(
    bodies: list[bytes], most_bytes: int, *, is_last: bool
) -> None:
    """NATS refuses what is over its limit, and ends the connection."""
    parcel = parcel_of(bodies, 100, is_last=is_last)

    found = list(parts(parcel, most_bytes))

    assert all(len(part.lines) <= most_bytes for part in found)
    assert all(part.lines.count(b"\n") == part.messages for part in found)
    said = [b"[USER" + body + b"\n" for body in bodies]
    fitting = [line for line in said if len(line) <= most_bytes]
    assert b"".join(part.lines for part in found) == b"".join(fitting)
    numbers = [
        (number, line + b"\n")
        for part in found
        for number, line in enumerate(part.lines.split(b"\n")[:-1], part.first)
    ]
    assert all(said[number - 100] == line for number, line in numbers)
    assert [part.is_last for part in found] == [False] * (len(found) - 1) + [is_last]
