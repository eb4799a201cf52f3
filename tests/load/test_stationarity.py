"""Whether a phase was one state: rarely a false alarm, and a growing backlog is seen."""

from __future__ import annotations

from math import comb, exp
from random import Random
from typing import TYPE_CHECKING

import pytest
from scipy.stats import mannwhitneyu

from loadclient.pacing import Schedule
from loadclient.stationarity import WINDOWS, Windows, _ways, rank_sum_p, shift, windows_of
from loadclient.verdict import not_stationary
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND_NS = 1_000_000_000


def noisy(
    lot: Random, memory: float = 0.5, spread: float = 0.3, spikes: float = 0.05
) -> list[float]:
    """Draw windows of a shared machine: each resembles the one before, and some have a spike."""
    level, drawn = 0.0, []
    for _ in range(WINDOWS):
        level = memory * level + lot.gauss(0, spread * (1 - memory**2) ** 0.5)
        drawn.append(exp(level) * (lot.uniform(3, 20) if lot.random() < spikes else 1))
    return drawn


def share_of_alarms(draw: Callable[[], list[float]], studies: int) -> float:
    return sum(shift(draw()) is not None for _ in range(studies)) / studies


@pytest.mark.parametrize(
    ("memory", "spread", "most"), [(0.0, 0.3, 0.002), (0.5, 0.3, 0.003), (0.8, 0.3, 0.005)]
)
def test_a_state_that_stays_is_rarely_called_a_change(
    memory: float, spread: float, most: float
) -> None:
    """A false alarm costs a pair of good slices."""
    lot = Random(1)  # noqa: S311

    assert share_of_alarms(lambda: noisy(lot, memory, spread), 1500) <= most


def test_a_backlog_that_grows_is_seen() -> None:
    """A server that cannot keep up answers each second later than the one before."""
    lot = Random(1)  # noqa: S311

    def growing(spikes: float) -> list[float]:
        return [v * (1 + i) for i, v in enumerate(noisy(lot, spread=0.2, spikes=spikes))]

    assert share_of_alarms(lambda: growing(0.0), 300) > 0.65
    assert share_of_alarms(lambda: growing(0.05), 300) > 0.45


def test_the_sign_and_the_size_of_a_step_come_out() -> None:
    lot = Random(1)  # noqa: S311
    low, high = noisy(lot, spikes=0)[:8], [4 * v for v in noisy(lot, spikes=0)[:8]]

    assert shift([*low, *high]) == pytest.approx(4, rel=0.5)
    assert shift([*high, *low]) == pytest.approx(1 / 4, rel=0.5)
    assert "times that in the first" in not_stationary([*low, *high])
    assert not_stationary([*low, *low]) == ""


def test_a_clear_order_that_does_not_matter_is_no_alarm() -> None:
    assert shift([1 + i / 100 for i in range(16)]) is None


@pytest.mark.parametrize(
    "windows",
    [[], [1.0] * 11, [None] * 16, [None] * 8 + [5.0] * 8, [1.0] * 5 + [None] * 6 + [9.0] * 5],
)
def test_too_little_is_not_judged(windows: list[float | None]) -> None:
    assert shift(windows) is None


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 5), (8, 8), (6, 8)])
def test_the_rank_sum_test_is_the_textbooks(m: int, n: int) -> None:
    lot = Random(m * n)  # noqa: S311
    assert sum(_ways(m, n)) == comb(m + n, m)
    for _ in range(20):
        first = [lot.gauss(0, 1) for _ in range(m)]
        second = [lot.gauss(1, 1) for _ in range(n)]
        known = mannwhitneyu(first, second, method="exact").pvalue
        assert rank_sum_p(first, second) == pytest.approx(known)


def test_samples_fall_into_the_window_in_which_they_were_due() -> None:
    schedule = Schedule.lasting(2, start_ns=SECOND_NS, voices=Voices.alike(3, 16, 64), burst=True)
    parts = [Windows.over(schedule), Windows.over(schedule)]
    for round_ in range(schedule.rounds):
        parts[round_ % 2].record(schedule.due_ns(round_, 0), (1 + round_ // 2) * 1000)
    parts[0].record(schedule.start_ns - 1, 7)
    parts[0].record(schedule.end_ns, 7)

    assert Windows.means(parts) == pytest.approx([(1 + n) / 1e6 for n in range(16)])


def test_a_phase_of_less_than_a_second_is_not_judged() -> None:
    """A neighbour that takes the processor for some tenths of one would be half of it."""
    schedule = Schedule.lasting(0.9, start_ns=0, voices=Voices.alike(3, 100, 64), burst=True)

    assert Windows.over(schedule).counts == []


@pytest.mark.parametrize(("rounds", "windows"), [(11, 0), (12, 12), (15, 15), (400, 16)])
def test_a_window_has_at_least_one_round(rounds: int, windows: int) -> None:
    assert windows_of(rounds) == windows
