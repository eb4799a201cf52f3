"""What is our own limit, or our own input, is not reported as the server's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from loadclient.result import RunResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer, Outcome

    from loadclient.demo import Daemon

pytestmark = pytest.mark.system


def start(daemon: Daemon, path: Path, *more: object) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", daemon.address[1]),
        *("--server-metrics", daemon.metrics, "--warmup", 0, "--json", path, *more),
    ]
    return subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("daemon", ["lt"], indirect=True)  # it is the client that is looked at
def test_a_client_that_cannot_keep_up_reading_is_not_believed(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Millions of lines a second to parse: they wait with us, and every send is in time."""
    path = tmp_path / "result.json"
    load = ("--conns", 250, "--rate", 90, "--duration", 1, "--verify", "full")
    with start(daemon, path, *load, "--drain-timeout", 60) as client:
        client.communicate(timeout=100)
    result = RunResult.from_json(path.read_text())

    assert client.returncode == 4
    assert any("bytes that it had not read" in reason for reason in result.invalid_reasons)
    assert result.delivery_ratio == 1.0


def test_a_stall_of_the_daemon_shows_in_corrected_latency_and_not_in_the_median(
    daemon: Daemon, tmp_path: Path
) -> None:
    """A closed loop would wait with the daemon and call it fast."""
    path = tmp_path / "result.json"
    with start(daemon, path, "--conns", 4, "--rate", 50, "--duration", 5) as client:
        for line in client.stderr:
            if line.startswith("measure:"):
                break
        os.kill(daemon.pid, signal.SIGSTOP)
        time.sleep(0.2)  # the length of the stall is the test's input, not a wait for something
        os.kill(daemon.pid, signal.SIGCONT)
        client.communicate(timeout=30)
    result = RunResult.from_json(path.read_text())

    assert not [reason for reason in result.invalid_reasons if "bottleneck" not in reason]
    assert result.latency_seconds["p99"] > 0.1
    assert result.latency_uncorrected_seconds["p50"] < 0.1


def test_the_offered_rate_is_not_called_achieved(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """A server that takes less than it is offered has all of it at the end of a long drain."""
    outcome = load(
        *(faulty("slow").port, "--msg-bytes", 8000, "--rate", 100, "--sndbuf", 4096),
        *("--drain-timeout", 60),
    )
    result = outcome.result

    assert result.messages_sent == result.messages_offered == 400
    assert result.offered_rate == pytest.approx(400)
    assert result.saturated
    assert result.message_rate < 300
    assert result.bytes_per_second == pytest.approx(result.message_rate * 8000)
    assert "of 400.0 messages/s offered" in outcome.out


def test_a_load_that_is_carried_is_not_called_saturated(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    result = load(faulty("none").port).result

    assert not result.saturated
    assert result.message_rate == result.offered_rate == pytest.approx(200)
