from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from etltd.bus.buffer import ITEM_BYTES, Buffer


def test_what_is_put_is_taken_in_order() -> None:
    buffer: Buffer[str] = Buffer(10_000)

    assert all(buffer.put(item, 1) for item in "abc")
    assert [buffer.take() for _ in range(4)] == ["a", "b", "c", None]
    assert buffer.held_bytes == 0


def test_beyond_the_limit_an_item_is_refused_whole_and_taken_again_when_there_is_room() -> None:
    """Memory is bounded while the other side does not answer."""
    buffer: Buffer[str] = Buffer(2 * ITEM_BYTES + 20)

    assert buffer.put("a", 10)
    assert buffer.put("b", 10)
    assert not buffer.put("c", 1)
    assert buffer.take() == "a"
    assert buffer.put("c", 1)


def test_what_is_over_the_limit_by_itself_passes_alone() -> None:
    """Refused for ever, it would be lost for ever, on an idle bus."""
    buffer: Buffer[str] = Buffer(1)

    assert buffer.put("big", 1000)
    assert not buffer.put("small", 1)


def test_the_last_item_finds_room() -> None:
    """A full buffer would keep the others waiting for a goodbye."""
    buffer: Buffer[str] = Buffer(1)
    buffer.put("big", 1000)

    assert buffer.put("goodbye", 0, is_last=True)
    assert list(buffer) == ["big", "goodbye"]


@given(st.lists(st.integers(0, 2000)))
def test_it_never_holds_more_than_its_limit_and_an_item(sizes: list[int]) -> None:
    buffer: Buffer[int] = Buffer(5000)

    for size in sizes:
        buffer.put(size, size)
        assert buffer.held_bytes <= 5000
    while buffer.take() is not None:
        pass
    assert buffer.held_bytes == 0


def test_two_threads_lose_nothing() -> None:
    buffer: Buffer[int] = Buffer(1 << 30)
    taken: list[int] = []

    def take() -> None:
        while len(taken) < 20_000:
            item = buffer.take()
            if item is not None:
                taken.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    for number in range(1, 20_001):
        assert buffer.put(number, 1)
    taker.join(30)

    assert taken == list(range(1, 20_001))
    assert buffer.held_bytes == 0
