"""Clients that do not read while others talk: bounded memory, every message accounted for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.system.rig import Crowd, DaemonProcess, assert_ledger, total

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., DaemonProcess]

SLEEPERS, TALKERS = 50, 4
HIGH_WATER_BYTES = 64 * 1024
LINE_BYTES = 512
ROUND = 100  # lines of one talker that are on their way at one time
LINE = re.compile(rb"\[USER\d+\] \d{10}x{501}\n|\[etltd\] \d+ messages dropped\n")
SLACK_BYTES = 24 << 20  # the interpreter's own: read buffers, batches, metrics


def test_sleepers_cost_bounded_memory_and_learn_what_they_missed(daemon: Start, mode: str) -> None:
    running = daemon(
        mode, "--high-water-bytes", str(HIGH_WATER_BYTES), "--sndbuf", "4096", "--rcvbuf", "65536"
    )
    sleepers = running.crowd(SLEEPERS, rcvbuf=4096)
    talkers = running.crowd(TALKERS)
    before = running.quiet_metrics()

    said = 0
    growth = 0.0
    while (now := running.metrics())["messages_dropped_total slow_consumer"] < SLEEPERS * 4_000:
        for talker in talkers.clients:
            talker.say(b"".join(b"%010d%b\n" % (said + i, b"x" * 501) for i in range(ROUND)))
            said += ROUND
        talkers.until(lambda: running.metrics()["messages_received_total"] == said)
        growth = max(growth, now["resident_memory_bytes"] - before["resident_memory_bytes"])
    assert growth < SLEEPERS * HIGH_WATER_BYTES + SLACK_BYTES
    talkers.until(
        lambda: all(len(t.lines()) + t.missed() == said * 3 // 4 for t in talkers.clients)
    )

    asleep = running.quiet_metrics()
    assert asleep["messages_received_total"] == said
    assert asleep["outbox_connections"] == SLEEPERS
    # The tick that fills an empty outbox may go over the high water: by one batch, which is shared.
    one_batch = TALKERS * ROUND * (LINE_BYTES + len("[USER54] "))
    assert asleep["outbox_bytes"] <= SLEEPERS * (HIGH_WATER_BYTES + one_batch)
    assert total(asleep, "connections_closed_total") == 0
    assert_ledger(asleep)

    everybody = Crowd(sleepers.clients + talkers.clients)
    everybody.until(
        lambda: all(
            len(sleeper.inbox) > said  # parse only what may be complete
            and len(sleeper.lines()) + sleeper.missed() == said
            for sleeper in sleepers.clients
        )
    )

    awake = running.quiet_metrics()
    assert awake["outbox_connections"] == awake["outbox_messages"] == awake["outbox_bytes"] == 0
    heard = sum(len(client.lines()) for client in everybody.clients)
    missed = sum(client.missed() for client in everybody.clients)
    assert heard == awake["messages_delivered_total"]
    assert missed == awake["messages_dropped_total slow_consumer"]
    assert heard + missed == awake["messages_enqueued_total"]
    assert_ledger(awake)
    for sleeper in sleepers.clients:
        assert LINE.sub(b"", bytes(sleeper.inbox)) == b"", "a torn line"
        numbers = [line.split(b" ")[1][:10] for line in sleeper.lines()]
        assert len(set(numbers)) == len(numbers), "a message came twice"

    for talker in talkers.clients[:1]:
        talker.say(b"%010d%b\n" % (said, b"x" * 501))
    everybody.until(
        lambda: all(s.inbox.endswith(b"%010d%b\n" % (said, b"x" * 501)) for s in sleepers.clients)
    )


def test_an_evicted_sleeper_is_gone_and_counted(daemon: Start, mode: str) -> None:
    running = daemon(
        mode, "--high-water-bytes", "65536", "--sndbuf", "4096", "--slow-consumer", "evict"
    )
    talker = running.crowd(1)
    running.crowd(1, rcvbuf=4096)

    while running.metrics()["connections"] == 2:
        talker.clients[0].say((b"x" * 511 + b"\n") * 100)
        talker.until(lambda: not talker.clients[0].outgoing)

    found = running.quiet_metrics()
    assert found["connections_closed_total slow_consumer"] == 1
    assert found["messages_dropped_total evicted"] > 0
    assert found["outbox_bytes"] == 0
    assert_ledger(found)
