from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd import handover
from etltd.broadcast import Piece
from etltd.handover import Bucket, Peer, Port, State, UnfitError, decode, encode
from etltd.stats import LoopStats

WHOLE = st.integers(0, 1 << 62)
PIECES = st.builds(Piece, st.binary(min_size=1, max_size=50), st.integers(0, 9))
PEERS = st.builds(
    Peer,
    fd=WHOLE,
    inode=WHOLE,
    id=WHOLE,
    ip=st.text(),
    heard_ns=WHOLE,
    wants_read=st.booleans(),
    ended=st.booleans(),
    hung_up=WHOLE,
    withheld=WHOLE,
    discarding=st.booleans(),
    bucket=st.none() | st.builds(Bucket, st.floats(0, 1e9), WHOLE, WHOLE),
    tail=st.binary(max_size=50),
    owed=st.lists(PIECES, max_size=3),
)
EMPTY = State(
    fixed={"mode": "et"},
    ports=[Port("chat", 3, 77, "/run/chat"), Port("metrics", 4, 78, passed=True)],
    peers=[],
    next_id=1,
    counters=LoopStats().saved(),
    began_ns=5,
)
PLAIN = Peer(
    fd=7,
    inode=70,
    id=1,
    ip="",
    heard_ns=0,
    wants_read=True,
    ended=False,
    hung_up=0,
    withheld=0,
    discarding=False,
)


def written(state: State) -> bytes:
    return b"".join(encode(state))


def read(data: bytes) -> State:
    return decode(io.BytesIO(data))


@given(st.lists(PEERS, max_size=4), WHOLE)
def test_what_is_handed_over_is_what_arrives(peers: list[Peer], next_id: int) -> None:
    state = replace(EMPTY, peers=peers, next_id=next_id)

    assert read(written(state)) == state


def test_what_many_are_owed_is_handed_over_once() -> None:
    """A thousand slow readers share one batch; each with a copy would be a gigabyte here."""
    batch = bytes(range(256)) * 4096
    view = memoryview(batch)
    owed = [view[k:] for k in range(500)] + [view[:-k] for k in range(1, 500)]
    state = replace(EMPTY, peers=[replace(PLAIN, owed=[Piece(data, 1)]) for data in owed])

    data = written(state)
    arrived = read(data)

    assert len(data) < 2 * len(batch)
    assert [peer.owed[0].data for peer in arrived.peers] == owed
    shared = {id(memoryview(peer.owed[0].data).obj) for peer in arrived.peers}
    assert len(shared) == 1


def test_a_piece_from_the_middle_of_a_batch_arrives_too() -> None:
    middle = memoryview(b"one\ntwo\nthree\n")[4:8]
    merged = memoryview(bytearray(b"four\n"))

    (peer,) = read(
        written(replace(EMPTY, peers=[replace(PLAIN, owed=[Piece(middle, 1), Piece(merged, 1)])]))
    ).peers

    assert peer.owed == [Piece(b"two\n", 1), Piece(b"four\n", 1)]


def test_another_format_is_refused_in_a_sentence() -> None:
    """An older version that is put back must not guess what the newer one meant."""
    data = written(EMPTY).replace(b"hand-over 2\n", b"hand-over 3\n", 1)

    with pytest.raises(UnfitError, match="in format 3, this version takes format 2"):
        read(data)


def test_what_is_not_ours_is_refused() -> None:
    with pytest.raises(UnfitError, match="no state of etltd"):
        read(b"\x7fELF" * 100)


@pytest.mark.parametrize("left", [18, 20, 40, -1])
def test_half_a_state_is_refused(left: int) -> None:
    """Nobody may be lost because memory ran out while it was written."""
    state = replace(EMPTY, peers=[replace(PLAIN, tail=b"unfinished")])

    with pytest.raises(UnfitError, match="damaged"):
        read(written(state)[:left])


@pytest.mark.parametrize("place", [b"[1, 0, 10]", b"[0, 1, 10]", b'["0", 0, 10]'])
def test_a_reference_to_nowhere_is_refused(place: bytes) -> None:
    state = replace(EMPTY, peers=[replace(PLAIN, tail=b"unfinished")])
    data = written(state)
    assert data.count(b"[0, 0, 10]") == 1
    broken = data.replace(b"[0, 0, 10]", place)
    size = len(broken) - len(data)
    start = len(handover.MAGIC) + 2
    header = int.from_bytes(broken[start : start + 8], "big") + size
    broken = broken[:start] + header.to_bytes(8, "big") + broken[start + 8 :]

    with pytest.raises(UnfitError, match="damaged"):
        read(broken)
