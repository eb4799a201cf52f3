from __future__ import annotations

from fractions import Fraction
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from loadclient.pacing import SAMPLES_PER_SECOND, Schedule, first_marked, marking_interval
from loadclient.voices import Voices

rates = st.floats(0.01, 100_000)
crowds = st.integers(1, 2000)


def schedule(seconds: float = 10, **kwargs: object) -> Schedule:
    rate, senders = kwargs.pop("rate", 50.0), kwargs.pop("senders", 5)
    defaults = {"start_ns": 1_000, "burst": True, "voices": Voices.alike(senders, rate, 64)}
    return Schedule.lasting(seconds, **{**defaults, **kwargs})


def test_a_burst_is_one_moment_for_all() -> None:
    plan = schedule()

    assert {plan.due_ns(3, number) for number in range(5)} == {1_000 + 3 * 20_000_000}
    assert plan.interval_ns == 20_000_000


def test_without_bursts_the_senders_share_the_interval_evenly() -> None:
    plan = schedule(burst=False)

    assert [plan.due_ns(1, number) - 1_000 for number in range(5)] == [
        20_000_000, 24_000_000, 28_000_000, 32_000_000, 36_000_000,
    ]  # fmt: skip


def test_a_phase_holds_exactly_rate_times_seconds() -> None:
    plan = schedule(20)

    assert plan.messages == 5 * 1000
    assert plan.end_ns == 1_000 + 20_000_000_000


@given(rate=rates, senders=crowds, burst=st.booleans(), round_=st.integers(0, 10_000_000))
def test_due_times_never_drift(rate: float, senders: int, *, burst: bool, round_: int) -> None:
    """Each due time is within a nanosecond of the ideal, however many went before."""
    plan = schedule(1, rate=rate, senders=senders, burst=burst)
    number = senders - 1
    ideal = (round_ + (0 if burst else Fraction(number, senders))) / plan.rate

    assert 0 <= ideal * 10**9 - (plan.due_ns(round_, number) - 1_000) < 1


@given(rate=rates, senders=crowds, burst=st.booleans(), index=st.integers(0, 1000))
def test_due_times_grow_with_the_index(
    rate: float, senders: int, *, burst: bool, index: int
) -> None:
    """A worker walks the indices in order and would send an earlier one late."""
    plan = schedule(1, rate=rate, senders=senders, burst=burst)
    due = [plan.due_ns(*divmod(i, senders)) for i in (index, index + 1)]

    assert due[0] <= due[1]


@given(st.floats(0.01, 100), rates)
def test_nothing_is_due_after_the_end_and_nothing_before_it_is_left_out(
    seconds: float, rate: float
) -> None:
    plan = schedule(seconds, rate=rate)
    end_ns = 1_000 + seconds * 1e9

    assert plan.due_ns(plan.rounds - 1, 0) <= end_ns + 1_001  # seconds are exact to a microsecond
    assert plan.due_ns(plan.rounds, 0) >= end_ns - 1_001


@given(rates, crowds, st.integers(1, 2000))
def test_marks_are_few_enough_and_favour_no_sender(
    rate: float, senders: int, receivers: int
) -> None:
    interval = marking_interval(rate=rate, senders=senders, receivers=receivers)

    assert gcd(interval, senders) == 1
    assert rate * senders * receivers / interval <= SAMPLES_PER_SECOND * (1 + 1e-9)


@given(rates, st.integers(1, 60), st.integers(1, 60))
def test_the_first_mark_of_each_sender_is_found(rate: float, senders: int, receivers: int) -> None:
    """Receivers expect that one first; a wrong guess would be reported as loss."""
    interval = marking_interval(rate=rate, senders=senders, receivers=receivers)
    for number in range(senders):
        first = first_marked(number, senders=senders, interval=interval)

        assert 0 <= first < interval
        assert (first * senders + number) % interval == 0
