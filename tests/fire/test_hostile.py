"""Clients that mean harm, and two bystanders who go on talking; in both modes.

Each attack here is the short form, or the whole one with FULL_ATTACKS=1 in the environment.
``make siege`` says what the bystanders' latency is under each beside what it is without.
"""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.fire.hostile import ATTACKS, Bystanders, dial_from
from tests.system.rig import Crowd, assert_ledger, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

IS_FULL = "FULL_ATTACKS" in os.environ
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

    with attack.begin(daemon, attack.full if IS_FULL else attack.short):
        slowest = max(bystanders.talk(ROUNDS))
    assert slowest < SLOWEST_SECONDS
    bystanders.until_alone()

    after = daemon.quiet_metrics()
    assert_ledger(after)
    assert after["open_fds"] <= before["open_fds"] + 8  # scrapes that are on their way out
    assert after["resident_memory_bytes"] - before["resident_memory_bytes"] < GROWTH_BYTES


def places_for_a_stranger(daemon: DaemonProcess) -> bool:
    """Take every place from one address; return whether somebody from another gets in."""
    many = [daemon.dial() for _ in range(12)]
    settled = daemon.metrics
    until(lambda: settled()["connections_accepted_total"] + refusals(settled()) == len(many))
    stranger = dial_from("127.0.0.2", daemon)
    stranger.settimeout(20)
    many[0].say(b"is anybody there\n")
    Crowd(many[:1]).until(lambda: not many[0].outgoing)
    is_in = stranger.recv(1000).startswith(b"[USER")
    stranger.close()
    return is_in


def refusals(found: Mapping[str, float]) -> float:
    """Return how many were turned away."""
    return total(found, "connections_rejected_total")


def test_one_address_cannot_take_every_place(start: Start, mode: str) -> None:
    """With the limit of an address those of another are let in, without it they are not."""
    options = ("--max-connections", "8", "--host", "0.0.0.0")

    assert places_for_a_stranger(start(mode, *options, "--max-connections-per-ip", "3"))
    assert not places_for_a_stranger(start(mode, *options))


def goodbye_in_silence(daemon: DaemonProcess, many: int) -> None:
    """Come and say goodbye at once, *many* times; wait until the daemon has heard it."""
    before = daemon.metrics()["epoll_events_total hup"]
    for _ in range(many):
        sock = daemon.dial().sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # not a minute, tcp(7)
        sock.close()
    until(lambda: daemon.metrics()["epoll_events_total hup"] >= before + many)


def gets_in(daemon: DaemonProcess, address: str) -> bool:
    """Whether somebody from *address* is taken in."""
    before = daemon.metrics()
    asked = before["connections_accepted_total"] + refusals(before) + 1
    with dial_from(address, daemon):
        until(
            lambda: (now := daemon.metrics())["connections_accepted_total"] + refusals(now) == asked
        )
    return refusals(daemon.metrics()) == refusals(before)


def test_in_a_silent_room_those_who_left_keep_their_places_until_a_word(
    start: Start, mode: str
) -> None:
    """A peer that closed looks like one that only finished talking, until it is sent something.

    A word sends everybody something.
    """
    daemon = start(mode, "--max-connections", "8")
    bystanders = Bystanders(daemon)
    goodbye_in_silence(daemon, 6)

    assert not gets_in(daemon, "127.0.0.2")
    bystanders.until_alone()
    assert gets_in(daemon, "127.0.0.2")


def test_those_who_left_a_silent_room_are_found_out_in_time(start: Start, mode: str) -> None:
    """A kernel that has forgotten the connection answers the next keepalive probe with a reset."""
    limits = {"eof": "--peer-timeout=3", "idle": "--idle-timeout=1"}
    daemons = {reason: start(mode, limit) for reason, limit in limits.items()}
    for daemon in daemons.values():
        goodbye_in_silence(daemon, 3)

    for reason, daemon in daemons.items():
        until(lambda: daemon.metrics()["connections"] == 0)
        assert daemon.metrics()[f"connections_closed_total {reason}"] == 3


def test_the_limit_of_connections_leaves_those_who_are_in_alone(start: Start, mode: str) -> None:
    daemon = start(mode, "--max-connections", "2")
    bystanders = Bystanders(daemon)
    before = daemon.quiet_metrics()
    refused = Crowd(daemon.dial() for _ in range(50))
    refused.until_end()

    assert {bytes(one.inbox) for one in refused.clients} == {b"[etltd] too many connections\n"}
    assert max(bystanders.talk(10)) < SLOWEST_SECONDS
    after = daemon.quiet_metrics()
    assert after["connections_rejected_total max_connections"] == 50
    assert after["connections_high_water"] == 2
    assert after["open_fds"] <= before["open_fds"] + 8


@pytest.mark.parametrize("limit", [50, 0])
def test_a_flood_is_cut_to_the_rate_and_bystanders_hear_no_more(
    start: Start, mode: str, limit: int
) -> None:
    """With the limit a bystander hears a second's worth a second, without it everything."""
    said = 5000
    daemon = start(mode, "--rate-limit", str(limit))
    bystanders = Bystanders(daemon)
    flooder = daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 3)
    began = monotonic()
    flooder.say(b"flood\n" * said)
    Crowd([flooder, *bystanders.crowd.clients]).until(lambda: not flooder.outgoing)

    def is_read() -> bool:
        bystanders.crowd.step()
        found = daemon.metrics()
        counts = ("messages_received_total", "messages_discarded_total rate_limited")
        return sum(found[name] for name in counts) == said

    until(is_read)
    seconds = monotonic() - began
    assert max(bystanders.talk(10)) < SLOWEST_SECONDS
    heard = bystanders.first.inbox.count(b"flood\n")
    if limit:
        assert limit <= heard <= limit * (1 + seconds)
    else:
        assert heard == said


def test_who_comes_again_and_again_is_cut_to_the_rate(start: Start, mode: str) -> None:
    """Each connection began with a second's worth: the limit was none.

    Its address may have two connections at one time, which have a rate each.
    """
    attack = ATTACKS["reconnecting-flood-limited"]
    daemon = start(mode, *attack.options)
    bystanders = Bystanders(daemon)
    began = monotonic()
    with attack.begin(daemon, attack.short):
        bystanders.talk(ROUNDS)
    bystanders.until_alone()
    seconds = monotonic() - began

    found = daemon.quiet_metrics()
    said = found["messages_received_total"] - bystanders.words
    assert 300 <= said <= 2 * 300 * (1 + seconds)
    assert found["messages_discarded_total rate_limited"] > said


def test_one_who_says_nothing_gives_up_its_place(start: Start, mode: str) -> None:
    """Who is silent, keeps somebody out who would talk; those who talk, stay."""
    daemon = start(mode, "--max-connections", "3", "--idle-timeout", "1.5")
    bystanders = Bystanders(daemon)
    silent = daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 3)
    newcomer = daemon.dial()
    Crowd([newcomer]).until(lambda: newcomer.at_end)
    while not silent.at_end:
        bystanders.talk(1)
        bystanders.second.say(b"still here\n")
        Crowd([silent]).step()

    assert daemon.metrics()["connections_closed_total idle"] == 1
    assert daemon.metrics()["connections"] == 2
    daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 3)
