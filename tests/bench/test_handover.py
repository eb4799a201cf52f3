"""5,000 clients under load, ten successors in a row: a pause each, and nothing else.

Fifty of them read too slowly and are owed bytes all the time; every line is read and checked.

Also the CPU that a hand-over takes, which is Python's start twice: the rehearsal's and its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench import rig

if TYPE_CHECKING:
    from pathlib import Path

CONNS = int(os.environ.get("HANDOVER_CONNS", "5000"))
TIMES = 10
SENDERS, RATE, SECONDS, SLOW = 5, 5, 60, 50
SMALL_BUFFERS = "4608"  # so that who is slow is felt by the daemon, not by the kernel alone
PATIENCE_SECONDS = 30


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_five_thousand_clients_see_ten_pauses(mode: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    with rig.daemon("--mode", mode, "--sndbuf", SMALL_BUFFERS) as server:
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "loadclient", "run", server.host, str(server.port)),
                *("--conns", str(CONNS), "--senders", str(SENDERS), "--rate", str(RATE)),
                *("--duration", str(SECONDS), "--warmup", "1", "--drain-timeout", "60"),
                *("--slow-readers", str(SLOW), "--slow-reader-rate", "500"),
                *("--rcvbuf", SMALL_BUFFERS, "--verify", "full"),
                *("--connect-rate", "2000", "--quiet", "--json", str(result)),
                *("--server-metrics", server.metrics),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: server.scrape()["connections"] == CONNS)
            wait_for(lambda: server.scrape()["outbox_connections"] >= SLOW)
            pauses = [hand_over(server.process) for _ in range(TIMES)]
            assert client.poll() is None, "the load was over before the hand-overs"
            client.wait()
        finally:
            client.kill()
            client.wait()
        metrics = server.scrape()

    found = json.loads(result.read_text())
    latency = found["latency_seconds"]
    print(
        f"{mode}: {CONNS} clients, {TIMES} hand-overs, pauses of {min(pauses):.2f} to "
        f"{max(pauses):.2f} s; {found['messages_received']:,} of {found['messages_expected']:,} "
        f"copies received, latency p50 {latency['p50'] * 1e3:.1f} ms, max {latency['max']:.2f} s"
    )
    assert found["lost"] == found["duplicated"] == found["reordered"] == found["damaged"] == 0
    assert found["messages_received"] == found["messages_expected"]
    assert found["messages_expected"] == SENDERS * RATE * SECONDS * (CONNS - 1)
    assert [why for why in found["invalid_reasons"] if "bottleneck" not in why] == []
    assert metrics["handovers_total"] == TIMES


def hand_over(process: subprocess.Popen[str]) -> float:
    """Have a successor take over; return for how long peers waited."""
    process.send_signal(signal.SIGUSR2)
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "took over":
            assert event["peers"] == CONNS
            return float(event["pause_seconds"])
        assert event["event"] != "hand-over refused", event
    raise AssertionError("the daemon ended")


def wait_for(predicate: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not predicate():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.2)
