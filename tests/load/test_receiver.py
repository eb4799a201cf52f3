"""The receive path on a real socket pair: what a `recv` cuts in two must not matter."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.ledger import Profile
from loadclient.payload import Payload, Payloads, hello
from loadclient.peer import Peer
from loadclient.protocol import Place
from loadclient.receiver import BUFFER_BYTES, KNOWN_BYTES, Known, Receiver
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 64
PAYLOAD = Payload(SIZE)
MESSAGES = [
    (PAYLOAD.marked if n % 3 == 0 else lambda s, q, *_: PAYLOAD.plain(s, q))(n % 2, n // 2, n, n)
    for n in range(12)
]


def stream(name: bytes = b"") -> bytes:
    return b"".join(
        b"[USER%d%s] %s%s"
        % (8 + n % 2, name, message, b"[etltd] 2 messages dropped\n" if n == 5 else b"")
        for n, message in enumerate(MESSAGES)
    )


STREAM = stream()
NAME = b"@etltd-e7.e"  # of an instance on a bus: it holds the letter of the marks


class Ear:
    """A receiver at the end of a socket pair, fed by hand."""

    def __init__(self, *, full: bool, profile: Profile = Profile.READER, name: bytes = b"") -> None:
        self.far, near = socket.socketpair()
        near.setblocking(False)
        self.peer = Peer(0, near, Place(profile, None))
        self.receiver = Receiver(
            Payloads(Voices.alike(2, 20, SIZE)), senders=2, interval=3, full=full
        )
        if name:
            self.receiver.scout([self.peer], 1)
            self.hear(b"[USER8%s] %s" % (name, hello(0)))
            self.peer.received = 0
        self.receiver.measure([self.peer])

    def hear(self, data: bytes) -> None:
        self.far.sendall(data)
        if self.peer.tail is None:  # as the fleet does
            n = self.peer.recv_into(self.receiver.buffer)
            self.peer.received += n
            at = self.receiver.seek(0, n)
            if at >= 0:
                self.receiver.inspect(self.peer, at, n)
        else:
            self.receiver.take(self.peer)

    def close(self) -> None:
        self.far.close()
        self.peer.sock.close()


@pytest.fixture(params=[False, True], ids=["sampled", "full"])
def ear(request: pytest.FixtureRequest) -> Iterator[Ear]:
    started = Ear(full=request.param)
    yield started
    started.close()


def findings(ear: Ear) -> tuple[int, ...]:
    sequences = ear.receiver.sequences
    return (
        ear.peer.received, ear.peer.notice_bytes, ear.peer.announced, ear.receiver.marks,
        sequences.seen, sequences.lost, sequences.duplicated, sequences.damaged,
    )  # fmt: skip


WHOLE = {
    False: (len(STREAM), 27, 2, 4, 4, 0, 0, 0),
    True: (len(STREAM), 27, 2, 4, 12, 0, 0, 0),
}


def chunked(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < end:
            yield data[start:end]


@pytest.mark.parametrize("full", [False, True], ids=["sampled", "full"])
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_it_does_not_matter_where_the_stream_is_cut(*, full: bool, cuts: list[int]) -> None:
    ear = Ear(full=full)
    for chunk in chunked(STREAM, cuts):
        ear.hear(chunk)
    found = findings(ear)
    ear.close()

    assert found == WHOLE[full]


@given(cuts=st.lists(st.integers(0, len(stream(NAME))), max_size=8).map(sorted))
def test_an_instance_may_have_any_name(cuts: list[int]) -> None:
    """The letter of the marks in it would make every message a damaged one."""
    ear = Ear(full=False, name=NAME)
    for chunk in chunked(stream(NAME), cuts):
        ear.hear(chunk)
    found = findings(ear)
    ear.close()

    assert found == (len(stream(NAME)), *WHOLE[False][1:])


def test_byte_by_byte_is_the_same_as_at_once(ear: Ear) -> None:
    for n in range(len(STREAM)):
        ear.hear(STREAM[n : n + 1])

    assert findings(ear) == WHOLE[ear.receiver._full]


def test_garbage_after_the_stream_is_damage_and_no_crash(ear: Ear) -> None:
    ear.hear(STREAM)
    ear.hear(b"the e's of a stranger\nee\n[etltd] new kind of notice\n" + bytes(range(256)) + b"\n")

    assert ear.receiver.sequences.damaged > 0
    assert ear.receiver.notice == "[etltd] new kind of notice"


def test_a_line_without_end_does_not_grow_for_ever(ear: Ear) -> None:
    """A server gone wrong may send megabytes without a newline."""
    for _ in range(40):
        ear.hear(b"et" + b"t" * 8190)

    assert len(ear.peer.tail or b"") <= BUFFER_BYTES // 2
    assert ear.receiver.sequences.damaged > 0


def test_what_is_known_of_a_line_hides_neither_a_second_nor_a_damaged_copy(ear: Ear) -> None:
    """Lines are read once and then recognised; a copy must be judged as if it were the first."""
    *_, lines, _, _, _ = WHOLE[ear.receiver._full]
    ear.hear(STREAM)
    ear.hear(STREAM)
    ear.hear(STREAM.replace(b".\n", b":\n"))  # every line but the notice

    sequences = ear.receiver.sequences
    assert (sequences.lost, sequences.duplicated, sequences.damaged) == (0, lines, lines)


def test_what_is_known_of_lines_is_bounded() -> None:
    """A run of days hears lines without end, and they may be a megabyte long."""
    known = Known(lambda line: None if line == b"damaged" else len(line), 9, KNOWN_BYTES // 3)
    found = [known[line] for line in (b"a", b"bb", b"bb", b"damaged", b"ccc", b"dddd")]

    assert found == [1, 2, 2, None, 3, 4]
    assert list(known) == [b"dddd"]


def test_a_slow_readers_own_delay_is_not_the_servers_latency() -> None:
    ear = Ear(full=False, profile=Profile.SLOW)
    ear.hear(STREAM)
    ear.close()

    assert ear.receiver.marks == 0
    assert ear.receiver.sequences.seen == 4


def test_scouts_learn_prefixes_and_others_only_count() -> None:
    ear, other = Ear(full=False), Ear(full=False)
    ear.receiver.scout([ear.peer, other.peer], 1)
    ear.hear(b"Welcome\n[USER12] " + hello(1)[:4])
    ear.hear(hello(1)[4:] + b"[etltd] 1 messages dropped\n")
    scouting = ear.receiver.prefix_bytes
    tails = (ear.peer.tail, other.peer.tail)
    ear.close()
    other.close()

    assert scouting == {1: 9}
    assert tails == (b"", None)


def test_marks_nobody_sent_are_damage() -> None:
    """Messages of 16 bytes carry no samples, so an ``e`` can only be a server's."""
    ear = Ear(full=False)
    ear.receiver = Receiver(Payloads(Voices.alike(2, 20, 16)), senders=2, interval=0, full=False)
    ear.hear(b"[USER1] e..............\n")
    ear.close()

    assert ear.receiver.sequences.damaged == 1


def test_the_end_of_a_connection_is_told() -> None:
    ear = Ear(full=True)
    ear.far.close()
    n = ear.receiver.take(ear.peer)
    ear.close()

    assert n == 0
