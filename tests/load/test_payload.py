from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.payload import (
    MARK,
    MAX_SENDERS,
    SAMPLE_BYTES,
    SEQUENCE_BYTES,
    SEQUENCE_MASK,
    TIME_MASK,
    Payload,
    hello,
    latency_ns,
    read_hello,
)

sizes = st.integers(2, 3000)
senders = st.integers(0, MAX_SENDERS - 1)
sequences = st.integers(0, 1 << 40)
times = st.integers(0, 1 << 62)


@given(sizes, senders, sequences)
def test_a_message_has_exactly_the_length_asked_for(size: int, sender: int, sequence: int) -> None:
    """Receivers count messages by dividing bytes."""
    message = Payload(size).plain(sender, sequence)

    assert len(message) == size
    assert message.index(b"\n") == size - 1
    assert MARK not in message


@given(st.integers(SEQUENCE_BYTES, 3000), senders, sequences)
def test_a_plain_message_comes_back(size: int, sender: int, sequence: int) -> None:
    payload = Payload(size)

    assert payload.read_plain(payload.plain(sender, sequence)) == (
        sender,
        sequence & SEQUENCE_MASK,
    )


@given(st.integers(SAMPLE_BYTES, 3000), senders, sequences, times, st.integers(0, 1 << 50))
def test_a_marked_message_comes_back(
    size: int, sender: int, sequence: int, due_ns: int, lag_ns: int
) -> None:
    payload = Payload(size)
    message = payload.marked(sender, sequence, due_ns, due_ns + lag_ns)
    mark = payload.read_marked(message)

    assert len(message) == size
    assert message.count(MARK) == 1
    assert message.startswith(MARK)
    assert mark[:3] == (sender, sequence & SEQUENCE_MASK, due_ns & TIME_MASK)
    assert mark.lag_ns == min(lag_ns // 1000, (1 << 32) - 1) * 1000


@given(times, st.integers(1, TIME_MASK >> 1))
def test_a_due_time_ahead_of_our_clock_is_no_latency_of_hours(now_ns: int, ahead: int) -> None:
    """Two hosts' clocks differ; a fast way between them can look as if it took less than none."""
    assert latency_ns((now_ns + ahead) & TIME_MASK, now_ns) == 0


def test_times_can_be_told_by_a_clock_that_others_know() -> None:
    ours, theirs = Payload(64, clock_ns=1000), Payload(64)

    assert theirs.read_marked(ours.marked(1, 2, 5000, 7000)) == (1, 2, 6000, 2000)


@given(times, st.integers(0, TIME_MASK >> 1))
def test_a_latency_survives_the_wrap_of_its_clock(due_ns: int, latency: int) -> None:
    """The time field wraps every 4.9 hours, in the middle of somebody's run."""
    assert latency_ns(due_ns & TIME_MASK, due_ns + latency) == latency


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"e\n", b"#" * 63 + b"\n", b"." * 63 + b"\n", b"+1" * 31 + b".\n"]
)
def test_damaged_messages_are_not_read(line: bytes) -> None:
    """int() would take signs, blanks and underscores; a wire check must not."""
    payload = Payload(64)

    assert payload.read_plain(line) is None
    assert payload.read_marked(line) is None


@pytest.mark.parametrize("place", [1, 12, 40, 63])
def test_one_changed_byte_is_damage(place: int) -> None:
    payload = Payload(64)
    for message in (payload.plain(3, 4), payload.marked(3, 4, 5, 6)):
        damaged = message[:place] + b"z" + message[place + 1 :]

        assert payload.read_plain(damaged) is None
        assert payload.read_marked(damaged) is None


@given(senders, st.binary(max_size=20).filter(lambda prefix: b"\n" not in prefix))
def test_a_hello_tells_the_length_of_any_prefix(sender: int, prefix: bytes) -> None:
    """Whatever the server puts before a line, its length is all that counting needs."""
    if b"HELLO " in prefix:
        return
    line = (prefix + hello(sender)).removesuffix(b"\n")

    assert read_hello(line) == (sender, len(prefix))


@pytest.mark.parametrize("line", [b"", b"[USER1] good day", b"[USER1] HELLO ", b"HELLO zz"])
def test_what_is_not_a_hello_is_passed_over(line: bytes) -> None:
    assert read_hello(line) is None


def test_messages_too_short_for_numbers_say_so() -> None:
    assert not Payload(SEQUENCE_BYTES - 1).has_sequence
    assert Payload(SEQUENCE_BYTES).has_sequence
    assert not Payload(SAMPLE_BYTES - 1).has_samples
    assert Payload(SAMPLE_BYTES).has_samples
