"""Out of descriptors, and ten thousand peers."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.system.rig import Crowd, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., DaemonProcess]

IDLERS = 10_000
SPARE = 200  # descriptors of either process beside the peers'


def test_out_of_descriptors_it_stays_responsive_and_does_not_spin(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    here = running.crowd(2)
    anna, bert = here.clients
    before = running.quiet_metrics()
    limits = running.without_descriptors()

    waiting = [running.dial() for _ in range(6)]
    process = psutil.Process(running.pid)
    cpu_before, began = process.cpu_times(), monotonic()
    words = 0
    while monotonic() < began + 0.8 or words < 20:  # a while in which it could spin
        anna.say(b"still here\n")
        words += 1
        here.until(lambda: bert.inbox.count(b"\n") >= words)
        here.step(milliseconds=20)
        here.step(milliseconds=20)
    cpu_after, elapsed = process.cpu_times(), monotonic() - began
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, limits)

    crowd = Crowd([*here.clients, *waiting])
    until(lambda: running.metrics()["connections"] == 8)
    anna.say(b"welcome\n")
    crowd.until(lambda: all(client.inbox.endswith(b"welcome\n") for client in waiting))
    after = running.quiet_metrics()
    assert after["connections_rejected_total no_descriptors"] >= 1
    waits = after["epoll_waits_total"] - before["epoll_waits_total"]
    assert waits < 10 * (words + len(waiting)) + 100
    used = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    assert used < elapsed / 2, "it spins"
    assert_ledger(after)


def test_a_scrape_waits_for_a_descriptor_without_spinning(daemon: Start) -> None:
    """Its own thread would take the interpreter's lock from the loop."""
    running = daemon("et")
    limits = running.without_descriptors()
    process = psutil.Process(running.pid)

    scrape = subprocess.Popen(
        [sys.executable, "-c", SCRAPE, running.scrape_address], stdout=subprocess.PIPE
    )
    cpu_before, began = process.cpu_times(), monotonic()
    until(lambda: monotonic() > began + 0.8)
    cpu_after, elapsed = process.cpu_times(), monotonic() - began
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, limits)

    assert scrape.communicate(timeout=60)[0] == b"200"
    used = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    assert used < elapsed / 2, "it spins"


SCRAPE = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://{sys.argv[1]}/metrics", timeout=60).status, end="")
"""


@pytest.fixture
def idlers() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the process that holds the idle connections."""
    started: list[subprocess.Popen[str]] = []

    def start(address: tuple[str, int], count: int, lines: int) -> subprocess.Popen[str]:
        script = Path(__file__).parent / "idlers.py"
        words = [*map(str, address), str(count), str(lines)]
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ten_thousand_idle_peers_hear_five_talkers(
    daemon: Start, mode: str, idlers: Callable[..., subprocess.Popen[str]]
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < IDLERS + SPARE:
        pytest.skip(f"the hard limit of descriptors is {hard}: {IDLERS + SPARE} are needed")
    running = daemon(mode)
    talkers = running.crowd(5)
    before = running.quiet_metrics()

    crowd = idlers(running.address, IDLERS, 2 * len(talkers.clients))
    assert crowd.stdout is not None
    assert crowd.stdout.readline() == "connected\n"
    until(lambda: running.metrics()["connections"] == IDLERS + 5, seconds=60)
    settled = running.quiet_metrics()
    for talker in talkers.clients:
        talker.say(b"one\ntwo\n")
    talkers.until(lambda: all(len(talker.lines()) == 8 for talker in talkers.clients), 60)

    _, streams, text = crowd.stdout.readline().split(" ", 2)
    assert int(streams) == 1, "two idle peers heard different things"
    lines = [text, *(crowd.stdout.readline() for _ in range(9))]
    assert lines == sorted(f"[USER{n}] {word}\n" for n in range(1, 6) for word in ("one", "two"))
    after = running.quiet_metrics()
    assert after["messages_delivered_total"] == 10 * (IDLERS + 4)
    assert_ledger(after)
    grown = settled["resident_memory_bytes"] - before["resident_memory_bytes"]
    print(f"\n{mode}: {grown / IDLERS:.0f} bytes of resident memory per idle connection")  # noqa: T201
    assert grown / IDLERS < 4096
