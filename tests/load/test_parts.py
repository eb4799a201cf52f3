"""Four load processes take part in one run; a recorder beside them sees everything."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.clocks import Clock, time_of_day_ns
from loadclient.daemon import running_daemon
from loadclient.merge import clock_uncertainty

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadclient.daemon import Daemon

PARTS = 4
NUMBERED = re.compile(rb"\[USER\d+\] (?:e?)([0-9A-F]{5})([0-9A-F]{6})")
LEADS = (6, 12, 24)  # seconds until the start: a busy machine takes its time to start processes
UNTIMELY = ("in time for --start-at", "is every part there", "the bottleneck")


# Another host, as far as clocks go: it has been up for eleven days longer, and has another name.
FAR = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
UPTIME = str(10**6)
BOOT_ID = "11111111-2222-3333-4444-555555555555"


def another_host(folder: Path) -> list[str]:
    """Return what to put before a command; nothing where nobody may make a time namespace."""
    name = folder / "boot_id"
    name.write_text(BOOT_ID + "\n")
    clocks = ["--time", "--monotonic", UPTIME, "--boottime", UPTIME, "--mount"]
    words = ["unshare", *clocks, "sh", "-c", FAR, str(name)]
    done = subprocess.run([*words, "true"], check=False, capture_output=True)
    return words if done.returncode == 0 else []  # it needs root, Linux 5.6 and util-linux 2.36


class Recorder(threading.Thread):
    """A connection that keeps everything it hears."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.sock = socket.create_connection(address)
        self.heard = bytearray()
        self.start()

    def run(self) -> None:
        while data := self.sock.recv(1 << 16):
            self.heard += data

    def stop(self) -> Counter[int]:
        """Return how many different messages it heard of each sender."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.join(20)
        self.sock.close()
        found = [
            (int(sender, 16), int(number, 16)) for sender, number in NUMBERED.findall(self.heard)
        ]
        assert len(found) == len(set(found)), "something came twice"
        return Counter(sender for sender, _ in found)


def load_in_parts(
    daemon: Daemon, folder: Path, parts: int, *options: str, last_one: Sequence[str] = ()
) -> list[Path]:
    """Run the parts at one time, until they were in time; return their records.

    So seldom does each speak that a tenth of a second late is in time: five programs on two cores.
    *last_one* is put before the last part's command.
    """
    files = [folder / f"part-{number}.json" for number in range(1, parts + 1)]
    for lead in LEADS:
        start = str(round(time.time() + lead, 3))
        recorder = Recorder(daemon.address) if not options else None
        processes = [
            subprocess.Popen(
                [
                    *(last_one if number == parts else ()),
                    *(sys.executable, "-m", "loadclient", "run", daemon.address[0]),
                    *(str(daemon.address[1]), "--part", f"{number}/{parts}", "--start-at", start),
                    *("--run-id", "together", "--conns", "5", "--senders", "3", "--rate", "10"),
                    *("--duration", "4", "--quiet", "--json", str(file)),
                    *(options if number == 1 else ()),
                ],
                stderr=subprocess.PIPE,
            )
            for number, file in enumerate(files, 1)
        ]
        said = [process.communicate()[1].decode() for process in processes]
        if recorder is not None:
            heard = recorder.stop()
            (folder / "recorder.json").write_text(json.dumps(heard))
        if not any(word in one for one in said for word in UNTIMELY):
            break
    assert [process.returncode for process in processes] == [0] * parts, said
    return files


def merged(folder: Path, files: list[Path]) -> dict[str, object]:
    whole = folder / "whole.json"
    with pytest.raises(SystemExit) as left:
        main(["merge", *map(str, files), "--json", str(whole)])
    assert left.value.code == 0
    found: dict[str, object] = json.loads(whole.read_text())
    return found


def test_four_parts_are_count_for_count_what_a_recorder_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_daemon("et", tmp_path / "daemon.log") as daemon:
        whole = merged(tmp_path, load_in_parts(daemon, tmp_path, PARTS))
    heard = json.loads((tmp_path / "recorder.json").read_text())

    assert heard == {str(sender): 40 for sender in range(3 * PARTS)}
    assert whole["messages_sent"] == sum(heard.values())
    assert whole["messages_received"] == whole["messages_expected"]
    assert whole["messages_received"] == sum(heard.values()) * (5 * PARTS - 1)
    assert whole["valid"]
    samples = whole["latency_samples"]
    assert isinstance(samples, int)
    assert samples > 0
    assert whole["merged"] == {"parts": PARTS, "clock_uncertainty_seconds": 0.0}
    assert "of 4 parts" in capsys.readouterr().out


def test_parts_on_two_hosts_and_the_servers_counters_are_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hosts' monotonic clocks have nothing in common; by how much the others differ is said."""
    far = another_host(tmp_path)
    with running_daemon("lt", tmp_path / "daemon.log") as daemon:
        files = load_in_parts(daemon, tmp_path, 2, "--server-metrics", daemon.metrics, last_one=far)
        whole = merged(tmp_path, files)

    server, latency = whole["server"], whole["latency_seconds"]
    assert isinstance(server, dict)
    assert isinstance(latency, dict)
    assert server["counters"]["messages_received_total"] == whole["messages_sent"] == 240
    assert whole["messages_received"] == whole["messages_expected"] == 240 * 9
    assert whole["valid"]
    assert 0 <= latency["max"] < int(UPTIME) / 1000
    clocks = [Clock(**json.loads(file.read_text())["part"]["clock"]) for file in files]
    assert [clock.boot_id == BOOT_ID for clock in clocks] == [False, bool(far)]
    stated = clock_uncertainty(clocks)
    assert whole["merged"] == {"parts": 2, "clock_uncertainty_seconds": stated}
    assert ("an unknown time" in capsys.readouterr().out) == (stated is None)


def test_a_part_without_the_others_says_what_is_missing(tmp_path: Path) -> None:
    with running_daemon("lt", tmp_path / "daemon.log") as daemon:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "loadclient", "run", daemon.address[0]),
                *(str(daemon.address[1]), "--part", "1/2", "--start-at", str(time.time() + 3)),
                *("--run-id", "alone", "--conns", "2", "--duration", "1", "--quiet"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 4
    assert any(word in done.stderr for word in UNTIMELY)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--part", "3/2"], '"3/2" is not a part'),
        (["--part", "1/2"], "--part 1/2: needs --start-at and --run-id"),
        (["--start-at", "5"], "--start-at 5: only the parts of a run"),
        (
            ["--part", "1/2", "--start-at", "5", "--run-id", "r", "--duration", "0"],
            "what the others send must be known",
        ),
        (
            ["--part", "1/999", "--start-at", "5", "--run-id", "r", "--conns", "2000"],
            "senders in all",
        ),
    ],
)
def test_what_a_part_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", *words])

    assert left.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("files", [[], ["nonsense"]])
def test_files_that_are_no_parts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str]
) -> None:
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.write_text("{}")

    with pytest.raises(SystemExit) as left:
        main(["merge", *map(str, paths)])

    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("loadclient: merge: ")


def test_the_time_of_day_is_told_by_the_monotonic_clock() -> None:
    offset = time_of_day_ns()

    assert abs(time.time_ns() - (time.monotonic_ns() + offset)) < 1_000_000_000
