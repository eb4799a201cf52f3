from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.stats import Log2Histogram, LoopStats


@given(st.lists(st.integers(0, 2**40)), st.integers(0, 10), st.integers(10, 45))
def test_buckets_count_exactly_what_is_at_most_their_edge(
    values: list[int], lowest: int, highest: int
) -> None:
    """An edge that is off by one puts every power of two into the wrong bucket."""
    histogram = Log2Histogram()
    for value in values:
        histogram.observe(value)

    edges = histogram.edges(lowest, highest)
    *counts, infinite, count, total = histogram.exported(lowest, highest, per_unit=4)

    assert edges == [2**k - 1 for k in range(lowest, highest + 1)]
    assert counts == [sum(value <= edge for value in values) for edge in edges]
    assert infinite == count == len(values)
    assert total == sum(values) / 4


def test_every_field_says_what_it_is() -> None:
    for declared in fields(LoopStats):
        assert declared.metadata["help"].endswith("."), declared.name
        assert declared.metadata["kind"] in {"counter", "counters", "gauge", "histogram"}


def test_all_syscalls_include_the_two_counted_elsewhere() -> None:
    stats = LoopStats(epoll_waits=3)
    stats.epoll_ctl["add"] = 2
    stats.epoll_ctl["mod"] = 5

    assert stats.all_syscalls["epoll_wait"] == 3
    assert stats.all_syscalls["epoll_ctl"] == 7


def test_what_was_counted_before_goes_on() -> None:
    first, second = LoopStats(), LoopStats()
    first.messages_received = 23
    first.connections_closed["eof"] = 5
    first.tick_seconds.observe(1000)
    second.resume(first.saved())
    second.messages_received += 1

    assert second.messages_received == 24
    assert second.connections_closed["eof"] == 5
    assert second.tick_seconds.slots == first.tick_seconds.slots
    assert first.messages_received == 23


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        ({"second_turns": 1}, "nothing is counted as second_turns here"),
        ({"messages_dropped": {"gone": 1}}, r"nothing is counted as messages_dropped\{gone\} here"),
    ],
)
def test_a_count_that_has_no_place_is_refused(saved: dict[str, Any], sentence: str) -> None:
    """Forgotten, it would be missing from the ledger of whoever takes over."""
    with pytest.raises(ValueError, match=sentence):
        LoopStats().resume(saved)
