"""The client against the real daemon, in each mode: three witnesses, one story."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from loadclient.daemon import running_daemon
from loadclient.demo import DemoOptions
from loadclient.result import RunResult
from tests.bpf import refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Outcome

    from loadclient.daemon import Daemon

pytestmark = pytest.mark.system


@pytest.fixture
def joined(daemon: Daemon, load: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run a joined load against the daemon."""
    port = daemon.address[1]
    return lambda *more: load(port, "--server-metrics", daemon.metrics, *more)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--procs", 2, "--conns", 9, "--warmup", 0.2),
        ("--no-burst", "--verify", "full"),
        ("--senders", 1, "--conns", 20),
        ("--msg-bytes", 2),
        ("--msg-bytes", 8000, "--rate", 25),  # at more, a busy machine is late
        ("--slow-readers", 2, "--slow-reader-rate", 125, "--rate", 25),
    ],
    ids=lambda more: " ".join(map(str, more)) or "plain",
)
def test_all_three_ledgers_agree(joined: Callable[..., Outcome], more: tuple[object, ...]) -> None:
    outcome = joined(*more)
    counters = outcome.result.server["counters"]

    assert outcome.reasons == ""
    assert outcome.code == 0
    assert outcome.result.delivery_ratio == 1.0
    assert counters["messages_received_total"] == outcome.result.messages_sent
    assert counters["messages_enqueued_total"] == outcome.result.messages_received
    assert outcome.result.mode in {"lt", "et"}
    assert "ns CPU per delivered message" in outcome.out


def test_the_mode_is_read_from_the_server(daemon: Daemon, joined: Callable[..., Outcome]) -> None:
    assert f'mode="{joined().result.mode}"' in scrape(daemon.metrics)


def test_without_receiving_the_server_is_the_witness(joined: Callable[..., Outcome]) -> None:
    outcome = joined("--no-recv", "--msg-bytes", 512)

    assert outcome.reasons == ""
    assert outcome.code == 0
    assert outcome.result.delivery_ratio is None
    assert outcome.result.latency_seconds is None
    assert outcome.result.latency_absent_because == "receiving is off"


@pytest.mark.parametrize("profile", ["--never-readers", "--slow-readers"])
def test_drops_for_bad_readers_are_explained(
    tmp_path: Path, load: Callable[..., Outcome], profile: str
) -> None:
    """The daemon's outbox overflows: what it withheld is announced or counted, to the message."""
    small = ("--high-water-bytes", "65536", "--sndbuf", "16384")
    with running_daemon("et", tmp_path / "daemon.log", *small) as daemon:
        outcome = load(
            *(daemon.address[1], "--server-metrics", daemon.metrics, profile, 1),
            *("--conns", 4, "--msg-bytes", 8000, "--rate", 20, "--rcvbuf", 4096, "--duration", 2),
        )
    counters = outcome.result.server["counters"]

    assert outcome.reasons == ""
    assert counters["messages_dropped_total"]["slow_consumer"] > 0
    if profile == "--slow-readers":
        assert outcome.result.lost_by_reason["announced"] == outcome.result.lost > 0


@pytest.mark.parametrize("strangers", [1, 2])
def test_a_stranger_on_the_server_is_noticed_before_the_load(
    daemon: Daemon, joined: Callable[..., Outcome], strangers: int
) -> None:
    """A forgotten nc would spoil the figures, and only half a minute later would one know."""
    import socket
    from contextlib import ExitStack

    with ExitStack() as stack:
        for _ in range(strangers):
            stack.enter_context(socket.create_connection(daemon.address))
        outcome = joined()

    assert outcome.code == 1
    assert f"loadclient: {strangers} other client" in outcome.err
    assert "or run without --server-metrics" in outcome.err
    assert outcome.result is None


def test_a_run_does_not_take_the_one_before_it_for_a_stranger(
    joined: Callable[..., Outcome],
) -> None:
    """The daemon needs a moment to see that connections were closed."""
    codes = [joined("--conns", 50, "--duration", 0.2).code for _ in range(2)]

    assert 1 not in codes


def test_a_stranger_who_comes_later_is_noticed_in_the_end(daemon: Daemon, tmp_path: Path) -> None:
    """Somebody's nc makes the server's figures another load's."""
    import socket

    path = tmp_path / "result.json"
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(daemon.address[1])),
        *("--conns", "4", "--duration", "4", "--rate", "50", "--warmup", "0"),
        *("--server-metrics", daemon.metrics, "--json", str(path)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        for line in client.stderr:
            if line.startswith(b"measure:"):
                break
        with socket.create_connection(daemon.address):
            client.communicate(timeout=30)
    result = RunResult.from_json(path.read_text())

    assert client.returncode == 4
    assert "was somebody else connected?" in " | ".join(result.invalid_reasons)


def test_the_time_series_ends_with_the_result(
    joined: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "series.csv"
    outcome = joined("--duration", 2.5, "--csv", path)
    rows = list(csv.DictReader(path.read_text().splitlines()))

    assert len(rows) == 3
    assert int(rows[-1]["received"]) == outcome.result.messages_received
    assert int(rows[-1]["sent"]) == outcome.result.messages_sent
    assert sorted(float(row["seconds"]) for row in rows) == [float(r["seconds"]) for r in rows]
    assert float(rows[0]["latency_p50_seconds"]) > 0


def test_prometheus_reads_the_run_while_it_lasts_and_after(daemon: Daemon) -> None:
    """The linter accepts it under load and at rest; the last scrape is the result."""
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(daemon.address[1])),
        *("--conns", "5", "--duration", "3", "--rate", "10", "--warmup", "0", "--linger", "60"),
        *("--metrics-port", "0", "--server-metrics", daemon.metrics, "--run-id", "seven"),
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        url = re.search(r"http://\S+", client.stderr.readline())[0]
        texts = [scrape(url)]
        for line in client.stderr:
            if line.startswith("measure:"):
                break
        texts.append(scrape(url))
        for line in client.stdout:
            if line.split()[:1] in (["valid"], ["INVALID"]):
                break
        texts.append(scrape(url))
        client.terminate()
    # The run's own code, though the linger was cut short.
    assert client.returncode == (4 if "INVALID" in line else 0)
    for text in texts:
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
        assert checked.stderr == ""

    assert 'etlt_load_phase{mode="' in texts[1]
    assert sample(texts[0], "etlt_load_messages_sent_total") == 0
    assert 0 < sample(texts[1], "etlt_load_messages_sent_total") <= 150
    assert sample(texts[2], "etlt_load_messages_sent_total") == 150
    assert sample(texts[2], "etlt_load_messages_received_total") == 600
    assert sample(texts[2], "etlt_load_delivery_latency_seconds_count") == 600
    assert 'run_id="seven"' in texts[2]


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http, on loopback
        return answer.read().decode()


def sample(text: str, name: str) -> float:
    return float(re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)[1])


def test_a_unix_socket_is_as_good_as_tcp(tmp_path: Path, load: Callable[..., Outcome]) -> None:
    path = tmp_path / "chat.sock"
    with running_daemon("lt", tmp_path / "daemon.log", "--unix", str(path)) as daemon:
        outcome = load(1, "--unix", path, "--server-metrics", daemon.metrics)

    assert outcome.reasons == ""
    assert outcome.result.delivery_ratio == 1.0


def check_the_witnesses(shown: str) -> None:
    """Every row of the table of three, in both modes: equal figures, and the word for it."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    counted = [row for row in rows if len(row) == 6]
    assert [row[1] for row in counted] == ["lt", "et"] * 13
    testifies = refusal() is None
    for _, _, client, daemon, kernel, agree in counted:
        assert agree == "yes"
        assert {client, daemon, kernel} - {""} == {daemon}
        assert bool(kernel) == (testifies and not client)  # it sees calls, and no messages
    assert ("etlt-probe" in shown) != testifies  # else it says why not, below the table


def test_the_demonstration_prints_one_table_and_one_caution(tmp_path: Path) -> None:
    """Without a terminal: no control codes, nothing on stderr, results on disk."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadclient", "demo", "--duration", "1", "--conns", "8"),
            *("--report", str(tmp_path / "report")),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.stderr == ""
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "Not shown: which mode is better" in " ".join(done.stdout.split())
    check_the_witnesses(done.stdout)
    for mode in ("lt", "et"):
        stored = (tmp_path / "report" / f"demo-{mode}.json").read_text()
        result = RunResult.from_json(stored)
        assert (result.mode, result.delivery_ratio) == (mode, 1.0)
        assert RunResult.from_json(result.to_json()) == result
        assert json.loads(stored)["schema"] == "etlt.run/1"


def test_a_daemon_that_does_not_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadclient.daemon import DaemonFailedError
    from loadclient.demo import measure

    monkeypatch.setenv("ETLTD_MAX_EVENTS", "none")
    with pytest.raises(DaemonFailedError, match="MAX_EVENTS"):
        measure("et", DemoOptions(report=tmp_path))
