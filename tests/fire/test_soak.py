"""The long run, cut short: its rules hold from the first second on. For longer: ``make soak``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fire.soak import Figures, soak_both

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 5.0


def figures(minutes: int, growth: float, swing: int = 4096) -> Figures:
    """Return a run in which so many bytes an hour stayed behind, on top of ups and downs."""
    found = Figures()
    for second in range(minutes * 60):
        ups_and_downs = swing * (second * 7919 % 17)
        found.seconds.append(second)
        found.memory.append(30e6 + ups_and_downs + growth * second / 3600)
    return found


def test_nothing_is_lost_or_leaks_while_many_come_and_go(tmp_path: Path) -> None:
    told = soak_both(SECONDS, tmp_path)

    assert told.keys() == {"lt", "et"}
    assert all("exact" in seen for seen in told.values())


@pytest.mark.parametrize(("minutes", "growth"), [(60, 3e6), (10, 20e6), (1, 400e6)])
def test_memory_that_grows_is_a_failure(minutes: int, growth: float) -> None:
    """Little by the hour, or much in a minute: neither excuses the other."""
    with pytest.raises(AssertionError, match="MB"):
        figures(minutes, growth).assert_flat()


@pytest.mark.parametrize(("minutes", "growth"), [(60, 2e4), (10, 2e4), (1, 6e7)])
def test_memory_that_goes_up_and_down_is_none(minutes: int, growth: float) -> None:
    """In a minute the interpreter's caches fill, which would make a slope."""
    figures(minutes, growth).assert_flat()


def test_memory_that_does_not_move_is_flat() -> None:
    """There is no interval around what has no spread."""
    still = figures(10, growth=0, swing=0)
    still.assert_flat()
    assert "nan" not in still.told_slope(still.memory, 0.2)
