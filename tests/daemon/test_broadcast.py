import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.broadcast import Batch

turns = st.dictionaries(
    st.integers(1, 50),
    st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"") + b"\n"), min_size=1),
    min_size=1,
    max_size=6,
)


def batch_of(turns: dict[int, list[bytes]]) -> Batch:
    batch = Batch()
    for sender, lines in turns.items():
        for line in lines:
            batch.add(sender, line, 1)
    batch.seal()
    return batch


@given(turns)
def test_nobody_hears_itself_and_everybody_hears_the_rest(turns: dict[int, list[bytes]]) -> None:
    batch = batch_of(turns)

    for sender in turns:
        pieces = batch.without(sender)
        others = [line for other, lines in turns.items() if other != sender for line in lines]
        assert b"".join(bytes(piece.data) for piece in pieces) == b"".join(others)
        assert [bytes(piece.data).count(b"\n") for piece in pieces] == [
            piece.messages for piece in pieces
        ]


@given(turns)
def test_single_messages_are_the_batch_in_the_same_order(turns: dict[int, list[bytes]]) -> None:
    """The control that writes message by message would measure different traffic."""
    batch = batch_of(turns)

    singles = list(batch.single_messages())

    assert b"".join(single.shared for single in singles) == batch.shared
    assert len(singles) == batch.messages
    assert all(single.messages == 1 for single in singles)
    assert [next(iter(single.spans)) for single in singles] == [
        sender for sender, lines in turns.items() for _ in lines
    ]


def test_a_second_turn_in_one_tick_is_refused() -> None:
    """A sender would hear its own first words."""
    batch = Batch()
    batch.add(1, b"a\n", 1)
    batch.add(2, b"b\n", 1)

    with pytest.raises(ValueError, match="client 1 had two turns in one tick"):
        batch.add(1, b"c\n", 1)


def test_recipients_share_one_object() -> None:
    """A copy per recipient would cost memory and time with every slow peer."""
    batch = batch_of({1: [b"a\n"], 2: [b"b\n"]})

    assert all(piece.data.obj is batch.shared for piece in batch.without(1))  # type: ignore[union-attr]
