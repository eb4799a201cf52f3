"""Nothing that the loop makes waits for the garbage collector: reference counts free it at once."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.daemon.rig import Peer, Rig

VISITS = 30


@pytest.fixture
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def visit_and_leave(rig: Rig, talker: Peer, *, half_close: bool) -> None:
    guest = rig.dial()
    guest.say(b"hello\nhalf a li")
    talker.say(b"x" * 1000 + b"\n" + b"y" * 9000 + b"\n")
    rig.tick_until(lambda: guest.hear() and guest.conn.outbox is None)
    if half_close:
        guest.finish()
        rig.tick_until(lambda: guest.conn.ended)
    guest.reset()
    rig.tick_until(lambda: rig.stats.connections == 2)
    rig.peers.remove(guest)


@pytest.mark.usefixtures("_without_collector")
def test_connections_and_ticks_leave_no_cycles(make_rig: Callable[..., Rig]) -> None:
    """A cycle a visit would be memory that grows until a collector stops a tick to look for it."""
    rig = make_rig(high_water_bytes=4096, rate_limit=100, sndbuf=4096)
    talker, slow = rig.dial(), rig.dial(rcvbuf=4096)
    for visit in range(VISITS):
        visit_and_leave(rig, talker, half_close=bool(visit % 2))
    slow.reset()
    rig.tick_until(lambda: rig.stats.connections == 1)
    rig.peers.remove(slow)
    del slow

    assert gc.collect() < VISITS


OBJECTS = """
import gc
from dataclasses import replace
from etltd import process
from etltd.cli import main
process.set_aside_start()
print(len(gc.get_objects()), gc.get_freeze_count(), gc.isenabled())
"""


def test_the_start_is_set_aside() -> None:
    """Walking through what was imported would hold a tick for 11 ms."""
    run = subprocess.run(
        [sys.executable, "-c", OBJECTS], check=True, capture_output=True, text=True
    )
    walked, aside, enabled = run.stdout.split()

    assert int(aside) > 100 * int(walked)
    assert enabled == "True"
