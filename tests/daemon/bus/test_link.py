"""The link's thread against a real server: what it does when the loop does not keep up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from etltd.bus.buffer import Buffer
from etltd.bus.envelope import Identity, Parcel, unpack
from etltd.bus.link import Link
from etltd.bus.settings import Settings
from etltd.bus.stats import BusStats
from etltd.config import Config
from tests.system.nats import NatsServer, needs_nats
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_nats


class Instance:
    """A link and its two buffers, without a loop."""

    def __init__(
        self,
        url: str,
        incarnation: int,
        incoming_bytes: int = 1 << 20,
        kind: type[Settings] = Settings,
    ) -> None:
        self.stats = BusStats()
        self.outgoing: Buffer[Parcel] = Buffer(1 << 20)
        self.incoming: Buffer[bytes] = Buffer(incoming_bytes)
        settings = kind(replace(Config(), bus=url), {})
        me = Identity(f"i{incarnation}", incarnation)
        self.link = Link(settings, me, self.stats, self.outgoing, self.incoming)
        self.link.start()

    def say(self, first: int, *lines: bytes) -> None:
        self.outgoing.put(Parcel(first, len(lines), b"".join(lines), 0), 0)
        self.link.wake()

    def close(self) -> None:
        self.link.finish()
        self.link.join(PATIENCE_SECONDS)
        assert not self.link.is_alive()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


def test_what_the_loop_does_not_take_is_bounded_and_counted(nats: NatsServer) -> None:
    """A loop that hangs would else fill the memory with what the others say."""
    talker, hung = Instance(nats.url, 1), Instance(nats.url, 2, incoming_bytes=3000)
    until(lambda: talker.stats.bus_connected and hung.stats.bus_connected)

    for number in range(100):
        talker.say(number, b"[USER1] " + b"x" * 91 + b"\n")
    until(lambda: hung.stats.bus_dropped_messages["incoming_full"] >= 80)
    talker.say(100, b"[USER1] that was all\n")
    until(lambda: talker.stats.bus_published_messages == 101)
    talker.close()
    hung.close()

    kept = 0
    while (data := hung.incoming.take()) is not None:
        kept += unpack(data).parcel.messages
    assert kept + hung.stats.bus_dropped_messages["incoming_full"] == 101


def test_what_cannot_be_said_at_the_end_is_counted(nats: NatsServer) -> None:
    nats.kill()
    alone = Instance(nats.url, 1)
    until(lambda: alone.stats.bus_connect_failures)
    alone.say(0, b"one\n", b"two\n")

    alone.close()

    assert alone.stats.bus_dropped_messages["unsent"] == 2
    assert alone.link.problem is not None
    assert "no connection to NATS" in alone.link.problem


class Broken(Settings):
    """Settings with a fault of ours in them."""

    def credentials(self) -> dict[str, Any]:
        return {"fault": 1 / 0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_failed_is_not_taken_for_a_bus_that_is_well(nats: NatsServer) -> None:
    """It would be ready for ever, and nobody would hear anybody."""
    failed = Instance(nats.url, 1, kind=Broken)

    failed.link.join(PATIENCE_SECONDS)

    assert failed.link.problem is not None
    assert "has failed" in failed.link.problem
