"""The benchmarks' own parts: they must run, count every copy, and notice one that is missing."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.bench.rivals import Rival, compiled
from tests.bench.versus import (
    cost,
    delivered,
    is_client_the_limit,
    measure,
    percentile,
    shown,
    speed,
)
from tests.waiting import runs, until

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler (gcc)")

FAULTY = Path("tests/load/faulty_server.py")


def test_the_daemon_and_the_reference_are_measured_side_by_side() -> None:
    """A benchmark that nobody runs breaks unseen."""
    command = [sys.executable, "tests/bench/versus.py", "--rounds=1", "--seconds=0.2", "--idle=20"]
    names = ["C et", "etltd et", "asyncio"]

    done = subprocess.run(
        [*command, "--loads", "one in flight", "memory", "--only", *names],
        check=False,
        capture_output=True,
        text=True,
    )

    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert done.returncode == 0, done.stderr
    delivered = [row[1] for row in rows if row[0].removeprefix("| ") in names and len(row) > 2]
    assert delivered == ["1.000"] * len(names)
    assert [row[0].removeprefix("| ") for row in rows[-len(names) :]] == names


def family(pid: int) -> dict[int, str]:
    """Return *pid* and what it has started, which may be gone by now, with their names."""
    found: dict[int, str] = {}
    with suppress(OSError):
        found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= family(int(child))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_a_benchmark_that_is_ended_leaves_no_server_behind(
    number: signal.Signals, tmp_path: Path
) -> None:
    """It would keep a core from the next benchmark until somebody notices."""
    command = [sys.executable, "tests/bench/versus.py", "--seconds=60", "--only", "etltd et"]
    benchmark = subprocess.Popen(
        [*command, "--loads", "one in flight"],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with benchmark:
        until(lambda: "crowd" in family(benchmark.pid).values())
        started = family(benchmark.pid)
        benchmark.send_signal(number)

    until(lambda: not any(map(runs, started)))
    assert len(started) == 3  # the benchmark, the server, the crowd
    if number == signal.SIGTERM:
        assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("fault", "whole"), [("none", True), ("drop", False)])
def test_the_crowd_notices_a_copy_that_is_missing(fault: str, *, whole: bool) -> None:
    """A window that does not close over a loss would score a server that loses as a fast one."""
    rival = Rival(fault, (sys.executable, str(FAULTY), fault))

    result = measure(rival, "-c7 -r100 -u0", seconds=0.5)

    assert (result["copies"] == result["owed"]) is whole
    assert result["whole"] is whole


def run(**changed: object) -> dict[str, Any]:
    """Return what the crowd says of a run in which all is well."""
    same = {"copies": 100, "owed": 100, "left_over": 0, "whole": True, "hang_ups": 0}
    used = {"server_cpu": 0.9, "server_cpu_drained": 1.0, "client_cpu": 0.5}
    times = {"seconds": 1.0, "drained": 1.0, "latency": {}, "lag": {}}
    return {**same, **used, **times, "in_time": 100, "to_others": 1.0, **changed}


def test_a_copy_too_many_does_not_make_up_for_one_that_is_missing() -> None:
    rival = Rival("x", ())

    assert delivered(rival, [run(), run(copies=97, whole=False, hang_ups=2)]) == "0.970 (2 cut off)"
    assert delivered(rival, [run(whole=False, left_over=5, owed=105, copies=105)]) == "1.000"
    with pytest.raises(RuntimeError, match="x: as many copies as owed, but not to those owed"):
        delivered(rival, [run(whole=False)])


def test_what_a_server_sends_back_to_the_talker_is_no_delivery() -> None:
    """In a ping-pong of two Redis looked twice as fast as it is."""
    echo = run(copies=200, to_others=0.5)

    assert speed(echo) == speed(run())
    assert cost(echo) == cost(run())


def test_what_came_after_the_clients_stopped_counts_in_a_window_and_at_no_rate() -> None:
    """A server that takes in the whole window before it writes had delivered nothing by then."""
    assert speed(run(in_time=0, copies=100, drained=2.0)) == 50
    assert speed(run(in_time=60, copies=100, drained=2.0, lag={"p99": 0.001})) == 60


def test_a_client_that_is_the_limit_is_marked() -> None:
    assert is_client_the_limit([run(client_cpu=0.95)])
    assert not is_client_the_limit([run(client_cpu=0.5, server_cpu=0.4)]), "they take turns"
    assert not is_client_the_limit([run(client_cpu=0.95, server_cpu=1.05)])
    assert is_client_the_limit([run(lag={"p99": 0.006}, latency={"p99": 0.01})])
    assert not is_client_the_limit([run(lag={"p99": 0.004}, latency={"p99": 0.01})])
    assert not is_client_the_limit([run(lag={"p99": 0.004})]), "nothing came, whoever it was"


class Withholding:
    """A chat server that sends the last copy of a message late, and looks what comes meanwhile."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.messages = self.too_early = 0
        self._peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (*self._peers, self.listener):
            sock.close()

    def _run(self) -> None:
        while True:
            for sock in select.select([self.listener, *self._peers], [], [])[0]:
                if sock is not self.listener:
                    self._pass_on(sock)
                    continue
                try:
                    peer, _ = sock.accept()
                except OSError:
                    return
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._peers.append(peer)

    def _pass_on(self, talker: socket.socket) -> None:
        data = talker.recv(1 << 16)
        if not data:
            self._peers.remove(talker)
            talker.close()
            return
        *others, last = [peer for peer in self._peers if peer is not talker]
        for peer in others:
            peer.sendall(data)
        self.messages += data.count(b"\n")
        self.too_early += bool(select.select(self._peers, [], [], 0.02)[0])
        last.sendall(data)


def test_one_in_flight_is_one() -> None:
    """Copies were counted: the first of three made room for the next message."""
    server = Withholding()
    load = ["-c4", "-w1", "-u0", "-s0.5"]
    command = [compiled("crowd"), f"-p{server.port}", f"-P{os.getpid()}", *load]
    try:
        subprocess.run(command, check=True, capture_output=True)
    finally:
        server.close()

    assert server.messages > 4
    assert not server.too_early


def test_percentiles_are_of_what_was_owed() -> None:
    """Who loses nearly all had the latencies of what came; who loses all had none, shown as 0."""
    rival = Rival("drop", (sys.executable, str(FAULTY), "drop"))

    result = measure(rival, "-c7 -r100 -u0", seconds=0.5)

    assert "p50" in result["latency"]
    assert "max" not in result["latency"]
    assert percentile([result], "max") == inf
    assert shown(inf) == "-"
