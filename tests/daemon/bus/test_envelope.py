"""What goes over the bus and comes back as it was, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.bus.envelope import (
    HEAD,
    MOST_HEAD_BYTES,
    EnvelopeError,
    Identity,
    Parcel,
    messages_in,
    pack,
    parts,
    unpack,
)

ME = Identity("north-1", 7)
WHOLE = st.integers(0, 2**64 - 1)
BODIES = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20)


def parcel_of(bodies: list[bytes], first: int = 0, *, is_last: bool = False) -> Parcel:
    lines = b"".join(body + b"\n" for body in bodies)
    return Parcel(first, len(bodies), lines, 123, is_last)


@given(bodies=BODIES, incarnation=WHOLE, first=WHOLE, age_ns=WHOLE, is_last=st.booleans())
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
    [b"", b"one\ntwo\n", b"no end", b"one\nand a half"],
    ids=["none", "two", "half", "torn"],
)
def test_lines_that_are_not_whole_are_refused(lines: bytes) -> None:
    """Passed on, half a line would swallow the next sender's prefix."""
    with pytest.raises(EnvelopeError, match="announces 1 lines"):
        unpack(pack(ME, 0, Parcel(0, 1, lines, 0)))


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
    fitting = [body + b"\n" for body in bodies if len(body) < most_bytes]
    assert b"".join(part.lines for part in found) == b"".join(fitting)
    numbers = [
        (part.first + index, line)
        for part in found
        for index, line in enumerate(part.lines.split(b"\n")[:-1])
    ]
    assert all(bodies[number - 100] == line for number, line in numbers)
    assert [part.is_last for part in found] == [False] * (len(found) - 1) + [is_last]
