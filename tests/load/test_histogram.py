from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.histogram import LARGEST, SLOTS, Histogram, merged, middle

values = st.integers(0, LARGEST)
many = st.lists(values, max_size=60)


def recorded(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.record(number)
    return histogram


@given(values)
def test_a_value_comes_back_within_four_tenths_of_a_percent(value: int) -> None:
    """The promise that percentiles rest on, up to 292 years."""
    histogram = recorded([value, LARGEST])

    assert abs(histogram.percentile(0.5) - value) <= value * 0.004


@given(many, many)
def test_merging_equals_recording_everything_in_one(one: list[int], other: list[int]) -> None:
    """Workers record apart; nothing may be lost by putting them together."""
    assert merged([recorded(one), recorded(other)]) == recorded(one + other)


@given(many, many)
def test_the_difference_of_two_readings_is_what_came_between(
    before: list[int], after: list[int]
) -> None:
    difference = recorded(before + after).since(recorded(before))

    assert difference.counts == recorded(after).counts
    assert difference.sum == sum(after)


@given(many)
def test_storing_loses_nothing(numbers: list[int]) -> None:
    histogram = recorded(numbers)

    assert Histogram.from_json(histogram.as_json()) == histogram


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=50), st.integers(1, 50))
def test_bounds_at_powers_of_two_are_exact(numbers: list[int], bits: int) -> None:
    """Prometheus buckets are cut there; a value on the wrong side would be a lie."""
    assert recorded(numbers).at_most_power(bits) == sum(n < 1 << bits for n in numbers)


def test_slots_neither_overlap_nor_leave_gaps() -> None:
    middles = [middle(slot) for slot in range(SLOTS)]

    assert middles == list(accumulate(middles, max))
    assert len(set(middles)) == SLOTS


def test_an_empty_histogram_has_no_percentile() -> None:
    """0 would read as: infinitely fast."""
    assert Histogram().percentile(0.99) is None


def test_negative_and_enormous_values_are_kept_at_the_ends() -> None:
    histogram = recorded([-5, 1 << 80])

    assert histogram.percentile(0) == 0
    assert histogram.max == LARGEST
    assert histogram.count == 2


def test_the_highest_percentile_is_not_above_the_maximum() -> None:
    assert recorded([1_000_003]).percentile(1) == 1_000_003


def test_slots_of_another_width_do_not_merge() -> None:
    with pytest.raises(ValueError, match="5 sub-bits"):
        Histogram.from_json({"sub_bits": 5, "sum": 0, "max": 0, "slots": {}})


def test_a_histogram_differs_from_everything_else() -> None:
    assert Histogram() != 0
