"""Clients that mean harm, and two bystanders who go on talking; in both modes.

Each attack here is the short form. ``python -m tests.fire.hostile`` runs them at full size and
prints what the bystanders' latency was beside what it is without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fire.hostile import ATTACKS, Bystanders, dial_from
from tests.system.rig import Crowd, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

ROUNDS = 40
GROWTH_BYTES = 48 << 20  # outboxes up to the high water, and the interpreter's own
SLOWEST_SECONDS = 10.0  # a machine may stall; a chat that is taken down does not come back


@pytest.mark.parametrize("name", ATTACKS)
def test_bystanders_go_on_talking_and_nothing_is_left_behind(
    start: Start, mode: str, name: str
) -> None:
    attack = ATTACKS[name]
    daemon = start(mode, *attack.options)
    bystanders = Bystanders(daemon)
    before = daemon.quiet_metrics()

    with attack.begin(daemon, attack.short):
        slowest = max(bystanders.talk(ROUNDS))
    assert slowest < SLOWEST_SECONDS
    bystanders.until_alone()

    after = daemon.quiet_metrics()
    assert_ledger(after)
    assert after["open_fds"] <= before["open_fds"] + 8  # scrapes that are on their way out
    assert after["resident_memory_bytes"] - before["resident_memory_bytes"] < GROWTH_BYTES


def test_one_address_cannot_take_every_place(start: Start) -> None:
    """The limit of an address; those of another are still let in."""
    daemon = start("et", "--max-connections-per-ip", "3", "--host", "0.0.0.0")
    many = [daemon.dial() for _ in range(6)]
    refused = Crowd(many[3:])
    refused.until_end()
    assert {bytes(one.inbox) for one in refused.clients} == {b"[etltd] too many connections\n"}

    stranger = dial_from("127.0.0.2", daemon)
    until(lambda: daemon.metrics()["connections"] == 4)
    stranger.close()


def test_the_limit_of_connections_leaves_those_who_are_in_alone(start: Start) -> None:
    daemon = start("lt", "--max-connections", "2")
    bystanders = Bystanders(daemon)
    refused = Crowd(daemon.dial() for _ in range(50))
    refused.until_end()

    assert max(bystanders.talk(10)) < SLOWEST_SECONDS
    assert daemon.metrics()["connections_rejected_total max_connections"] == 50


def test_a_flood_is_cut_to_the_rate_and_bystanders_hear_no_more(start: Start) -> None:
    daemon = start("et", "--rate-limit", "50")
    bystanders = Bystanders(daemon)
    flooder = daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 3)
    flooder.say(b"flood\n" * 20_000)
    Crowd([flooder]).until(lambda: not flooder.outgoing)
    until(lambda: daemon.metrics()["messages_discarded_total rate_limited"] > 19_000)

    assert max(bystanders.talk(10)) < SLOWEST_SECONDS
    heard = bystanders.first.inbox.count(b"flood\n")
    assert 50 <= heard < 1000


def test_one_who_says_nothing_gives_up_its_place(start: Start, mode: str) -> None:
    """Half-open peers, too: who is gone without a word says nothing."""
    daemon = start(mode, "--max-connections", "3", "--idle-timeout", "1.5")
    bystanders = Bystanders(daemon)
    silent = daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 3)
    while not silent.at_end:
        bystanders.talk(1)
        bystanders.second.say(b"still here\n")
        Crowd([silent]).step()

    assert daemon.metrics()["connections_closed_total idle"] == 1
    assert daemon.metrics()["connections"] == 2
