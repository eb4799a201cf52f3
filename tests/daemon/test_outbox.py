from hypothesis import given
from hypothesis import strategies as st

from etltd.broadcast import Piece
from etltd.outbox import HEAD_PIECES, MERGED_BYTES, Outbox, rest

line = st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"") + b"\n")
pieces = st.lists(
    st.one_of(
        st.lists(line, min_size=1, max_size=4).map(lambda ls: Piece(b"".join(ls), len(ls))),
        st.just(Piece(b"[etltd] 1 messages dropped\n", 0)),
    ),
    max_size=8,
)


def messages_in(owed: list[Piece], sent: int) -> int:
    """Count, byte by byte, the messages whose last byte is among the first *sent*."""
    finished, position = 0, 0
    for piece in owed:
        for byte in bytes(piece.data):
            position += 1
            if position <= sent and byte == 10 and piece.messages:
                finished += 1
    return finished


@given(pieces, st.lists(st.integers(1, 9)))
def test_what_goes_in_comes_out_under_any_short_writes(
    owed: list[Piece], writes: list[int]
) -> None:
    outbox = Outbox()
    outbox.push(owed)
    whole = b"".join(bytes(piece.data) for piece in owed)
    sent, out, finished = 0, b"", 0

    for write in [*writes, *([1] * len(whole))]:
        took = min(write, outbox.size)
        out += b"".join(bytes(buffer) for buffer in outbox.head())[:took]
        finished += outbox.advance(took)
        sent += took
        assert outbox.size == len(whole) - sent
        assert finished == messages_in(owed, sent)
        assert outbox.messages == sum(piece.messages for piece in owed) - finished

    assert out == whole
    assert not outbox


@given(pieces, st.integers(0, 60))
def test_rest_is_what_a_short_write_left(owed: list[Piece], sent: int) -> None:
    whole = b"".join(bytes(piece.data) for piece in owed)
    sent = min(sent, len(whole))

    left = rest(owed, sent)

    assert b"".join(bytes(piece.data) for piece in left) == whole[sent:]
    assert sum(piece.messages for piece in left) == sum(
        piece.messages for piece in owed
    ) - messages_in(owed, sent)


def test_head_stays_under_the_kernels_limit_of_iovecs() -> None:
    """Sendmsg would refuse more than IOV_MAX buffers with EMSGSIZE."""
    outbox = Outbox()
    line = b"x" * MERGED_BYTES + b"\n"
    outbox.push([Piece(line, 1)] * 2000)

    assert len(outbox.head()) == HEAD_PIECES
    assert outbox.advance(len(line) * HEAD_PIECES) == HEAD_PIECES


def test_many_short_lines_do_not_cost_many_times_their_bytes() -> None:
    """Ten bytes a tick, each in an object of its own: a megabyte owed would hold thirty."""
    outbox = Outbox()
    for _ in range(100_000):
        outbox.push([Piece(b"[USER1] x\n", 1)])

    assert len(outbox._pieces) < 2 * outbox.size / MERGED_BYTES
    assert outbox.messages == 100_000


def test_a_notice_among_merged_lines_is_still_no_message() -> None:
    outbox = Outbox()
    notice = Piece(b"[etltd] 1 messages dropped\n", 0)
    for piece in (Piece(b"a\n", 1), notice, notice, Piece(b"b\n", 1)):
        outbox.push([piece])

    assert outbox.advance(outbox.size - 1) == 1
    assert outbox.advance(1) == 1


@given(pieces, st.integers(0, 60))
def test_what_is_resumed_is_owed_as_it_was(owed: list[Piece], sent: int) -> None:
    outbox, resumed = Outbox(), Outbox()
    outbox.push(owed)
    outbox.advance(min(sent, outbox.size))

    resumed.resume(outbox.pieces())

    assert resumed.pieces() == outbox.pieces()
    assert (resumed.size, resumed.messages) == (outbox.size, outbox.messages)


def test_a_cut_piece_is_a_view() -> None:
    """A copy per slow peer would multiply memory by the number of slow peers."""
    shared = b"hello\nworld\n"

    (left,) = rest([Piece(shared, 2)], 3)

    assert isinstance(left.data, memoryview)
    assert left.data.obj is shared
