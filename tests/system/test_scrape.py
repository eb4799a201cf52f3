"""The scrape of a live daemon: valid, and consistent with itself and with what clients saw."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.system.rig import DaemonProcess, assert_ledger, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., DaemonProcess]


def promtool(text: str) -> str:
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    return check.stdout + check.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (package prometheus)")
def test_promtool_has_no_complaint_idle_or_under_load(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    assert promtool(running.get("/metrics")[1]) == ""
    crowd = running.crowd(4)

    scrapes: list[str] = []
    while len(scrapes) < 3:
        for client in crowd.clients:
            client.say(b"x" * 100 + b"\n" + b"y" * 9_000 + b"\n")
        crowd.until(lambda: not any(client.outgoing for client in crowd.clients))
        scrapes.append(running.get("/metrics")[1])

    assert [promtool(text) for text in scrapes] == ["", "", ""]


def test_counters_agree_with_each_other_and_with_the_clients(daemon: Start, mode: str) -> None:
    running = daemon(mode, "--max-connections", "5")
    crowd = running.crowd(5)
    rejected = running.dial()
    for client in crowd.clients:
        client.say(b"hello\n" * 1000 + b"z" * 10_000 + b"\n" + b"half")
    crowd.clients.append(rejected)
    crowd.until(lambda: all(len(c.lines()) == 4000 for c in crowd.clients[:5]) and rejected.at_end)
    crowd.clients[0].sock.shutdown(1)
    crowd.until(lambda: running.metrics()["messages_discarded_total truncated"] == 1)

    found = running.quiet_metrics()

    assert_ledger(found)
    assert rejected.inbox == b"[etltd] too many connections\n"
    assert found["connections_rejected_total max_connections"] == 1
    assert found["connections_high_water"] == found["connections"] == 5
    assert found["messages_received_total"] == 5000
    assert found["messages_enqueued_total"] == found["messages_delivered_total"] == 20_000
    assert found["messages_discarded_total too_long"] == 5
    assert found["received_bytes_total"] == 5 * (6000 + 10_001 + 4)
    assert found["sent_bytes_total"] == sum(len(client.inbox) for client in crowd.clients)
    calls = {key.split(" ")[1]: value for key, value in found.items() if key[:9] == "syscalls_"}
    assert calls["epoll_wait"] == found["epoll_waits_total"]
    assert calls["epoll_ctl"] == total(found, "epoll_ctl_total")
    assert calls["accept4"] == 6 + found["syscall_eagain_total accept4"]
    assert calls["close"] == 1
    for call in ("recvfrom", "sendto", "sendmsg", "accept4"):
        assert calls[call] >= found[f"syscall_eagain_total {call}"]
    process = psutil.Process(running.pid)
    until(lambda: running.metrics()["open_fds"] == process.num_fds() + 1)  # the scrape's own


def test_the_mode_is_on_every_series(daemon: Start, mode: str) -> None:
    text = daemon(mode).get("/metrics")[1]

    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(series) < 200
    assert all(f'mode="{mode}"' in line for line in series)
