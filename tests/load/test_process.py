"""Workers, connecting, the live line, the endpoint: the parts that touch the system."""

from __future__ import annotations

import io
import os
import pty
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loadclient import crew
from loadclient.crew import Crew, WorkerDiedError
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.metrics import LiveMetrics
from loadclient.progress import LiveLine
from loadclient.protocol import Connected, Failed, Look, Snapshot
from loadclient.result import RunResult
from loadclient.totals import Frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer, Outcome

pytestmark = pytest.mark.system
FRAMES = Frames(72, 72, 72.0)


def test_a_dead_worker_is_noticed() -> None:
    with Crew(2) as workers:
        workers._workers[0][0].kill()
        workers._workers[0][0].wait()
        with pytest.raises(WorkerDiedError, match="died"):
            workers.ask(Look(), Snapshot)


def test_a_silent_worker_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does leaving hang on it."""
    monkeypatch.setattr(crew, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(crew, "LEAVE_SECONDS", 0.1)
    with Crew(1) as workers:
        process = workers._workers[0][0]
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(WorkerDiedError, match="does not answer"):
            workers.ask(Look(), Snapshot)

    assert process.returncode == -signal.SIGKILL


def test_a_question_out_of_order_is_an_error_and_no_crash() -> None:
    with Crew(1) as workers:
        assert isinstance(workers.ask(Look(), Failed)[0], Failed)
        with pytest.raises(WorkerDiedError, match="before it was connected"):
            workers.ask(Look(), Connected)


def test_workers_leave_when_their_parent_is_killed(faulty: Callable[[str], FaultyServer]) -> None:
    """Load that nobody controls would go on until its schedule ends."""
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(faulty("none").port)),
        *("--conns", "4", "--duration", "600", "--warmup", "0"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
        client.stderr.readline()
        client.kill()
        rest = client.stderr.read()  # ends when the worker has closed it too

    assert "Traceback" not in rest


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_full_backlog_is_a_timeout_with_a_reason(
    kind: str, tmp_path: Path, load: Callable[..., Outcome]
) -> None:
    path = str(tmp_path / "full.sock")
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0) if kind == "tcp" else path)
        listener.listen(0)
        port = listener.getsockname()[1] if kind == "tcp" else 1
        more = ("--unix", path) if kind == "unix" else ()
        outcome = load(port, "--conns", 8, "--connect-timeout", 0.3, *more)

    assert outcome.code == 1
    assert "no answer within 0.3 s" in outcome.err
    assert "of 8 connections were opened" in outcome.err


def test_an_interrupt_while_connecting_does_not_wait_for_the_server(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        command = [
            *(sys.executable, "-m", "loadclient", "run", "127.0.0.1"),
            *(str(listener.getsockname()[1]), "--conns", "8", "--json", str(path)),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            accepted, _ = listener.accept()  # it is connecting now; most of the rest cannot
            client.send_signal(signal.SIGINT)
            client.communicate(timeout=4)
            accepted.close()

    assert client.returncode == 130
    assert RunResult.from_json(path.read_text()).invalid_reasons == ["interrupted during connect"]


def test_connecting_follows_its_ramp(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("none").port, "--conns", 11, "--connect-rate", 20, "--senders", 2)
    phase = outcome.result.phases["connect"]

    assert outcome.code == 0
    assert phase["stop"] - phase["start"] >= 0.5


def test_a_terminal_gets_a_bar_and_is_left_clean(faulty: Callable[[str], FaultyServer]) -> None:
    """One more line per second would scroll away what the user typed."""
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(faulty("none").port)),
        *("--conns", "4", "--duration", "60", "--warmup", "0"),
    ]
    ours, theirs = pty.openpty()
    client = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            told, shown = b"sent/s" in shown, shown + chunk
            if b"sent/s" in shown and not told:  # once: the second would end it in its midst
                client.send_signal(signal.SIGINT)
    except OSError:  # how a pty says that its other end is closed
        pass
    finally:
        os.close(ours)
        client.wait()

    assert b"measure" in shown
    assert shown.rstrip(b"\r\n").endswith(b"\x1b[2K")


def test_without_a_terminal_there_are_no_control_codes() -> None:
    stream = io.StringIO()
    with LiveLine(stream) as line:
        line.begin("a")
        line.enter("measure", 2)
        line.look(Snapshot(now_ns=1), FRAMES)
        line.look(Snapshot(now_ns=1_000_000_001, sent=5, received_bytes=720), FRAMES)
        line.look(Snapshot(now_ns=2_000_000_001, sent=5, received_bytes=720), FRAMES)

    assert stream.getvalue() == "measure: 5 sent/s  10 received/s  p99 -\n"


def test_counters_of_the_warm_up_are_not_exported() -> None:
    """The last scrape has to be the result."""
    metrics = LiveMetrics("et")
    registry = CollectorRegistry()
    registry.register(metrics)
    metrics.begin("seven")
    metrics.enter("warmup", 1)
    metrics.look(Snapshot(sent=5, connections=3), FRAMES)
    warm = generate_latest(registry).decode()
    metrics.enter("measure", 1)
    metrics.look(Snapshot(sent=6, received_bytes=720, announced=2), FRAMES)
    counted = generate_latest(registry).decode()
    metrics.finish(RunResult(run_id="seven", messages_received=9, lost_by_reason={"closed": 4}))
    final = generate_latest(registry).decode()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=final, text=True, capture_output=True, check=False
    )
    labels = '{mode="et",run_id="seven"}'

    assert f"etlt_load_messages_sent_total{labels} 0.0" in warm
    assert f"etlt_load_connections{labels} 3.0" in warm
    assert f"etlt_load_messages_sent_total{labels} 6.0" in counted
    assert f"etlt_load_messages_received_total{labels} 10.0" in counted
    assert f"etlt_load_messages_received_total{labels} 9.0" in final
    assert 'etlt_load_messages_lost_total{mode="et",reason="closed",run_id="seven"} 4.0' in final
    assert checked.returncode == 0, checked.stderr


def test_the_first_signal_is_an_exception_once_and_the_second_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests are a background job
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            interrupts.check()
        interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before
