"""The long run, cut short: its rules hold from the first second on. For longer: ``make soak``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fire.hearing import Hearing, assert_accounted
from tests.fire.soak import Figures, soak_both

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 5.0

# What USER3 heard of two who number their lines; it missed one of each, and a visitor's two.
HEARD = (
    b"[USER1] 1 a\n",
    b"[USER2] 1 b\n",
    b"[USER9] 1 hello\n",
    b"[USER9] \n",
    b"[USER1] 2 a\n",
    b"[etltd] 4 messages dropped\n",
    b"[USER1] 4 a\n",
    b"[USER2] 3 b\n",
    b"[USER9] half a line\n",
)
SAID = {1: 4, 2: 3, 3: 0}
RECEIVED = 4 + 3 + 5


def account(*lines: bytes) -> Hearing:
    """Check *lines* as a soak does; return what was heard."""
    hearing = Hearing()
    hearing.hear(b"".join(lines))
    assert_accounted({3: hearing}, SAID, RECEIVED)
    return hearing


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


def test_what_was_missed_and_announced_is_accounted_for() -> None:
    hearing = account(*HEARD)

    assert (hearing.heard, hearing.told, hearing.last) == (8, 4, {1: 4, 2: 3, 9: 3})


def without(number: int, *instead: tuple[int, bytes]) -> list[bytes]:
    """Return what was heard without one line, and with others before those of their numbers."""
    lines = [[line] for line in HEARD]
    lines[number] = []
    for place, line in instead:
        lines[place].insert(0, line)
    return [line for some in lines for line in some]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (without(4, (1, HEARD[0])), "line 1 of USER1 came after its line 1"),
        (without(1, (2, HEARD[0])), "line 1 of USER1 came after its line 1"),
        (without(6, (8, HEARD[7])), "line 3 of USER2 came after its line 3"),
        (without(0, (5, HEARD[0])), "1 missed before line 2"),
        (without(6, (5, HEARD[6])), "1 missed before line 4"),
        (without(5, (7, HEARD[5])), "1 missed before line 4"),
    ],
    ids=[
        "one lost, another of its speaker twice",
        "one lost, another speaker's twice",
        "the last lost, another speaker's twice",
        "two changed places",
        "one overtook the notice",
        "the notice is late",
    ],
)
def test_what_cancels_out_in_the_sum_is_a_failure(lines: list[bytes], said: str) -> None:
    """Heard and told of together are as many as ever; which they are is not."""
    assert sum(line.startswith(b"[USER") for line in lines) == 8

    with pytest.raises(AssertionError, match=said):
        account(*lines)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (without(7), "missed 5, and was told of 4"),
        (without(8, (8, b"[USER2] 4 b\n")), "heard more of USER2"),
        (without(8, (8, b"[USER3] 1 c\n")), "heard itself"),
        (without(8, (8, b"[USER9] half")), "damaged: b'.USER9. half'"),
        (without(8, (0, b"half\n")), "damaged: b'half"),
    ],
)
def test_what_is_missing_or_was_never_said_is_a_failure(lines: list[bytes], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        account(*lines)


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
