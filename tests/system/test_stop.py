"""The end: under load, with a stuck peer, twice; whatever was taken in is accounted for."""

from __future__ import annotations

import re
import signal
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.system.rig import GOODBYE, Crowd, DaemonProcess
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., DaemonProcess]

LINE = re.compile(rb"\[USER\d+\] #\d+ [x]{100}\n|\[etltd\] \d+ messages dropped\n")


def flood_until(crowd: Crowd, predicate: Callable[[], object]) -> None:
    """Let everybody talk without pause and listen, until *predicate* holds."""
    number = 0

    def step() -> object:
        nonlocal number
        for client in crowd.clients:
            if len(client.outgoing) < 10_000 and not client.at_end:
                client.say(b"".join(b"#%d %b\n" % (number + i, b"x" * 100) for i in range(100)))
        number += 100
        return predicate()

    crowd.until(step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stop_under_load_accounts_for_every_message(
    daemon: Start, mode: str, number: signal.Signals
) -> None:
    running = daemon(mode, "--grace-seconds", "60")
    crowd = running.crowd(6)
    flood_until(crowd, lambda: sum(len(c.inbox) for c in crowd.clients) > 2_000_000)

    running.signal(number)
    flood_until(crowd, lambda: all(client.at_end for client in crowd.clients))
    stopped = running.stopped()

    assert stopped["messages_abandoned"] == 0, "everybody was listening"
    assert stopped["messages_enqueued"] == stopped["messages_received"] * 5
    assert stopped["messages_enqueued"] == (
        stopped["messages_delivered"] + stopped["messages_dropped"]
    )
    assert sum(len(c.lines()) for c in crowd.clients) == stopped["messages_delivered"]
    assert sum(c.missed() for c in crowd.clients) == stopped["messages_dropped"]
    for client in crowd.clients:
        assert not client.was_reset
        assert LINE.sub(b"", bytes(client.inbox)) == GOODBYE, "a torn or foreign line"
        assert client.inbox.endswith(GOODBYE)


def stuck(daemon: Start, mode: str, grace_seconds: str) -> DaemonProcess:
    """Return a daemon that owes bytes to a peer that never reads."""
    running = daemon(mode, "--grace-seconds", grace_seconds, "--sndbuf", "4096")
    talker = running.crowd(1)
    running.crowd(1, rcvbuf=4096)
    talker.clients[0].say(b"x" * 1000 + b"\n")

    def is_behind() -> bool:
        if not talker.clients[0].outgoing:
            talker.clients[0].say((b"x" * 1000 + b"\n") * 1000)
        talker.step()
        return total_dropped(running) > 0

    until(is_behind)
    return running


def total_dropped(running: DaemonProcess) -> float:
    return running.metrics()["messages_dropped_total slow_consumer"]


def test_a_stuck_peer_costs_the_grace_and_is_reported(daemon: Start, mode: str) -> None:
    running = stuck(daemon, mode, "0.2")

    running.signal()
    stopped = running.stopped()

    assert stopped["peers_behind"] == 1
    assert stopped["messages_abandoned"] > 0
    assert stopped["bytes_abandoned"] > 0
    assert stopped["messages_enqueued"] == (
        stopped["messages_delivered"] + stopped["messages_dropped"]
    )


def test_a_second_signal_leaves_at_once(daemon: Start, mode: str) -> None:
    running = stuck(daemon, mode, "3600")

    running.signal()
    until(lambda: running.events("stopping"))
    assert running.process.poll() is None
    running.signal(signal.SIGINT)
    began = monotonic()

    assert running.stopped()["peers_behind"] == 1
    assert monotonic() - began < PATIENCE_SECONDS


def test_nobody_is_let_in_while_it_stops(daemon: Start, mode: str) -> None:
    running = stuck(daemon, mode, "3600")

    running.signal()
    until(lambda: running.get("/readyz")[0] == 503)

    with pytest.raises(ConnectionRefusedError):
        running.dial()
    assert running.get("/healthz") == (200, "ok\n")
    running.signal()
    running.stopped()
