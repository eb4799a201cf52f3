"""The long run, cut short: its rules hold from the first second on. For longer: ``make soak``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fire.soak import soak

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 5.0


def test_nothing_is_lost_or_leaks_while_many_come_and_go(mode: str, tmp_path: Path) -> None:
    assert "exact" in soak(mode, SECONDS, tmp_path)
