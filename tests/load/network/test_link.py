"""Real namespaces with a real link between them: what it adds, and that nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from loadclient.network.conditions import parse
from loadclient.network.link import ENDS, LOAD, METRICS, Network, NetworkFailedError, network
from loadclient.network.weather import Weather
from tests.load.network.holding import held_by
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed"),
]
PATIENCE_SECONDS = 60.0  # TCP repeats what is lost again and again later each time
HELD = """
import time
from loadclient.network.conditions import parse
from loadclient.network.link import network
with network(parse("delay=1ms")) as made, made.client.entered():
    print(made.client.inode, made.server.inode, flush=True)
    time.sleep(60)
"""


@contextmanager
def connected(made: Network, name: str = LOAD) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect the client's side with the server's."""
    with ExitStack() as stack:
        with made.server.entered():
            listener = stack.enter_context(socket.create_server((ENDS[name][1], 0)))
        listener.settimeout(PATIENCE_SECONDS)
        with made.client.entered():
            address = listener.getsockname()
            client = stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS))
        server = stack.enter_context(listener.accept()[0])
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(PATIENCE_SECONDS)
        yield client, server


def round_trip_seconds(client: socket.socket, server: socket.socket) -> float:
    begun = time.perf_counter()
    client.send(b"x")
    server.recv(1)
    server.send(b"x")
    client.recv(1)
    return time.perf_counter() - begun


def emulations() -> set[str]:
    return {"netem", "tap"}


def test_a_delay_each_way_is_two_in_a_round_trip() -> None:
    with network(parse("delay=20ms")) as made, connected(made) as ends:
        times = [round_trip_seconds(*ends) for _ in range(10)]

        assert made.emulation.name in emulations()
        assert min(times) >= 0.040
        assert median(times) < 0.2  # on a loaded machine


def test_metrics_have_a_link_of_their_own_that_nothing_is_added_to() -> None:
    """A scrape over the bad link would take its share of it, and fall to its losses."""
    with network(parse("delay=50ms,loss=20%")) as made, connected(made, METRICS) as ends:
        before = made.emulation.counts()
        times = [round_trip_seconds(*ends) for _ in range(20)]

        assert min(times) < 0.05
        assert made.emulation.counts()["frames_forwarded"] == before["frames_forwarded"]


def carry(size: int, client: socket.socket, server: socket.socket) -> float:
    """Bring so many bytes across; return the seconds that took."""
    client.setblocking(False)
    payload, received = memoryview(bytes(size)), 0
    begun = time.perf_counter()
    while received < size:
        with suppress(BlockingIOError):
            payload = payload[client.send(payload) :]
        received += len(server.recv(65536))
    return time.perf_counter() - begun


def test_a_rate_is_kept() -> None:
    """No byte passes faster; that some pass slower is the fault of a loaded machine."""
    size = 1_000_000
    with network(parse("rate=5mbit")) as made, connected(made) as ends:
        rate = 8 * size / carry(size, *ends)

    assert 1e6 < rate < 5e6


def test_loss_is_counted_and_tcp_makes_up_for_it() -> None:
    size = 400_000
    with network(parse("delay=1ms,loss=5%")) as made, connected(made) as ends:
        carry(size, *ends)
        counts = made.emulation.counts()

    frames, lost = counts["frames_forwarded"], dropped(counts)
    assert frames > size / 1500
    assert 0.01 < lost / (frames + lost) < 0.12


def dropped(counts: dict[str, float]) -> float:
    """Return what was lost, by either emulation's name for it."""
    return counts.get("frames_lost", counts.get("frames_dropped", 0))


def test_while_connections_are_cut_nothing_is_lost() -> None:
    """Nobody repeats a reset: with a loss, the server would keep what the client has left."""
    with network(parse("loss=20%")) as made:
        weather = Weather(made)
        weather.enter("settle", None)
        with connected(made) as ends:
            for _ in range(50):
                round_trip_seconds(*ends)
        calm = made.emulation.counts()
        weather.enter("connect", None)
        weather.enter("measure", None)
        with connected(made) as ends:
            for _ in range(200):
                round_trip_seconds(*ends)
                if dropped(made.emulation.counts()):
                    break
        weather.enter("settle", None)

    assert not dropped(calm)
    assert dropped(weather.counts) > 0


def test_a_veth_pair_adds_nothing_and_says_so() -> None:
    with network(parse("veth")) as made, connected(made) as ends:
        assert min(round_trip_seconds(*ends) for _ in range(20)) < 0.02
        assert (made.emulation.name, made.emulation.because) == ("veth", "")
        assert made.emulation.counts() == {}


def test_the_machines_own_namespace_sees_nothing_of_it() -> None:
    before = (set(Path("/sys/class/net").iterdir()), Path("/proc/thread-self/ns/net").readlink())
    with network(parse("delay=1ms")) as made:
        assert set(Path("/sys/class/net").iterdir()) == before[0]
        with made.client.entered():
            assert {LOAD, METRICS} < {name for _, name in socket.if_nameindex()}
        assert Path("/proc/thread-self/ns/net").readlink() == before[1]


def test_both_namespaces_and_the_forwarder_are_gone_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), network(parse("delay=1ms")) as made:  # noqa: PT012
        inodes = [made.client.inode, made.server.inode]
        assert all(held_by(inode) for inode in inodes)
        raise ZeroDivisionError

    assert [held_by(inode) for inode in inodes] == [[], []]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    """Not even the one that nobody can clean up after: the kernel does it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        inodes = [int(word) for word in process.stdout.readline().split()]
        assert len(inodes) == 2
        assert all(held_by(inode) for inode in inodes)
        process.send_signal(number)
        process.wait(20)

    until(lambda: not any(held_by(inode) for inode in inodes))


def test_a_forwarder_that_died_is_an_error_and_not_a_silence() -> None:
    with network(parse("delay=1ms")) as made:
        if made.emulation.name != "tap":
            pytest.skip("this kernel has netem: there is no forwarder")
        made.emulation._process.kill()
        made.emulation._process.wait()

        with pytest.raises(NetworkFailedError, match="the forwarder of the emulated network died"):
            made.emulation.counts()
