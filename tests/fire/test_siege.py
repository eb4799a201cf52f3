"""What `tests.fire.siege` makes of what it saw; the attacks themselves take minutes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.fire.hostile import ATTACKS
from tests.fire.siege import HERE, LARGEST, QUIET, Block, Pair, Seen, measure
from tests.system.rig import DaemonProcess

if TYPE_CHECKING:
    from pathlib import Path


def seen(*here: float, name: str = "flood-limited", unheard: int = 0) -> Seen:
    """Return rounds in which every word took so long, and a millisecond in quiet."""
    found = Seen(name, "et")
    found.blocks[QUIET] = [Block([0.001] * 100) for _ in here]
    found.blocks[HERE] = [Block([taken] * (100 - unheard), [7.0] * unheard) for taken in here]
    found.blocks["elsewhere"] = found.blocks[QUIET]
    return found


def test_what_was_not_heard_is_late() -> None:
    """A daemon that withholds every second word would shine by the other half."""
    assert Block([0.001] * 50, [7.0] * 50).p99 == 7.0
    assert Block([], [7.0, 6.0]).p99 == 7.0
    assert not Block([0.001] * 400, [7.0]).is_bound, "less than one in a hundred"
    assert "| >7000.0 | >7000.0 " in seen(0.001, 0.001, unheard=50).row()
    assert "| 50 of 200 |" in seen(0.001, 0.001, unheard=25).row()


def test_a_factor_above_what_is_stated_is_too_much() -> None:
    """It had to be above with all of an interval of four rounds: hardly anything is."""
    largest = LARGEST["flood-limited"] / 1000

    assert seen(0.5 * largest, 2 * largest, 9 * largest).is_too_much
    assert "EXCEEDED" in seen(0.5 * largest, 2 * largest, 9 * largest).row()
    assert not seen(0.1 * largest, 2 * largest, 3 * largest).is_too_much
    assert not seen(900, 900, name="flood").is_too_much, "without a limit nothing is stated"


def test_a_factor_holds_only_if_all_of_its_interval_does() -> None:
    """From 1 to 362 with 20 in the middle was called no more than 30."""
    largest = LARGEST["flood-limited"] / 1000

    assert "shown" in seen(0.4 * largest, 0.5 * largest, 0.6 * largest).row()
    assert "open" in seen(0.1 * largest, 2 * largest, 3 * largest).row()


def test_the_bystanders_own_kernel_keeps_nothing_back(tmp_path: Path) -> None:
    """Nagle's algorithm made quiet blocks after an attack as late as the attack."""
    daemon = DaemonProcess("lt", log=tmp_path / "log")
    try:
        daemon.wait_until_listening()
        speaker = Pair(daemon).speaker
        assert speaker.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        daemon.close()


def test_something_is_stated_of_every_attack() -> None:
    assert LARGEST.keys() == ATTACKS.keys()


def test_a_storm_ends_with_its_block(tmp_path: Path) -> None:
    """Those who came and went at once stay for a word: without one the siege would not end."""
    found = measure("et", "connect-storm", rounds=1, seconds=0.2, folder=tmp_path)

    assert all(len(blocks) == 1 for blocks in found.blocks.values())
