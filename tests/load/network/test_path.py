"""One direction of an emulated link, with a clock of the test's own."""

from __future__ import annotations

from random import Random

import pytest

from loadclient.network.conditions import parse
from loadclient.network.path import NEVER_NS, Path

MS = 1_000_000


def arrivals(path: Path) -> list[tuple[int, bytes]]:
    return list(path.arrived(NEVER_NS))


def test_a_frame_arrives_after_the_delay_and_not_before() -> None:
    path = Path(parse("delay=20ms"))
    path.offer(b"frame", 5 * MS)

    assert path.next_due_ns == 25 * MS
    assert list(path.arrived(25 * MS - 1)) == []
    assert list(path.arrived(25 * MS)) == [(25 * MS, b"frame")]
    assert path.next_due_ns == NEVER_NS


def test_a_rate_lets_frames_pass_one_after_the_other() -> None:
    """1250 bytes at 10 Mbit/s take a millisecond, and a pause is not saved up."""
    path = Path(parse("rate=10mbit,delay=1ms"))
    for _ in range(3):
        path.offer(bytes(1250), 0)
    path.offer(bytes(1250), 10 * MS)

    assert [due for due, _ in arrivals(path)] == [2 * MS, 3 * MS, 4 * MS, 12 * MS]


def test_jitter_spreads_the_delay_both_ways_and_may_change_the_order() -> None:
    path = Path(parse("delay=20ms,jitter=5ms"), Random(1))  # noqa: S311
    for number in range(2000):
        path.offer(number.to_bytes(2, "big"), 0)
    found = arrivals(path)

    assert 15 * MS <= found[0][0] < 15.1 * MS
    assert 24.9 * MS < found[-1][0] <= 25 * MS
    assert sum(due for due, _ in found) / len(found) == pytest.approx(20 * MS, rel=0.01)
    assert [frame for _, frame in found] != sorted(frame for _, frame in found)


def test_the_share_that_is_lost_is_the_one_asked_for_and_is_counted() -> None:
    path = Path(parse("loss=10%"), Random(1))  # noqa: S311
    for _ in range(10_000):
        path.offer(b"frame", 0)

    assert path.lost == pytest.approx(1000, abs=100)
    assert len(arrivals(path)) == path.offered - path.lost


def test_a_calm_path_loses_nothing() -> None:
    """A reset that got lost would leave its connection at the server for ever."""
    path = Path(parse("loss=50%"), Random(1))  # noqa: S311
    path.is_calm = True
    for _ in range(100):
        path.offer(b"frame", 0)

    assert path.lost == 0
    assert len(arrivals(path)) == 100


def test_a_full_queue_drops_what_comes_last_and_counts_it() -> None:
    path = Path(parse("rate=0.1mbit"))
    for number in range(150):
        path.offer(number.to_bytes(2, "big"), 0)

    assert path.overflowed == 50
    assert [int.from_bytes(frame, "big") for _, frame in arrivals(path)] == list(range(100))
