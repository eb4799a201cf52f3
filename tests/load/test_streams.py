"""Nobody listens any more: the run goes on, and its result and exit code are what they were."""

from __future__ import annotations

import io
import os
import pty
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadclient.progress import LiveLine
from loadclient.protocol import Snapshot
from loadclient.result import RunResult
from loadclient.streams import unheard
from loadclient.totals import Frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer

FRAMES = Frames(72, 72, 72.0)
LOOKS = 2.2  # seconds of a run that has something to show: rates need two looks, one a second


def shell(
    port: int, path: Path, ends_with: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a brief load in a shell, whose line *ends_with* what becomes of the output."""
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(port), "--conns", "4"),
        *("--duration", str(seconds), "--warmup", "0", "--json", str(path)),
    ]
    line = f"set -o pipefail; {shlex.join(command)} {ends_with}"
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.system
@pytest.mark.parametrize("ends_with", [">/dev/full", "2>/dev/full", "> >(true)"])
def test_a_search_ends_with_its_answer_though_nobody_hears_it(
    faulty: Callable[[str], FaultyServer], tmp_path: Path, ends_with: str
) -> None:
    command = [
        *(sys.executable, "-m", "loadclient", "search", "127.0.0.1", str(faulty("none").port)),
        *("--conns", "4", "--lowest", "5", "--highest", "5", "--confirmations", "1"),
        *("--trial-seconds", "0.5", "--settle-seconds", "0", "--max-p99", "60000"),
        *("--json", str(tmp_path / "search.json")),
    ]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(command)} {ends_with}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert '"held_rate": 5.0' in (tmp_path / "search.json").read_text()


@pytest.mark.system
@pytest.mark.parametrize(
    "words",
    [
        "run 127.0.0.1 PORT --conns 4 --duration 0.5 --warmup 0",
        "search 127.0.0.1 PORT --conns 4 --lowest 5 --highest 5 --trial-seconds 0.5",
    ],
)
def test_an_answer_that_stands_nowhere_else_has_to_be_heard(
    faulty: Callable[[str], FaultyServer], words: str
) -> None:
    """Exit code 0, no word and no file: what was measured was nowhere."""
    line = f"{sys.executable} -m loadclient {words.replace('PORT', str(faulty('none').port))}"
    done = subprocess.run(
        ["bash", "-c", f"{line} >/dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    said = "loadclient: cannot write to standard output: No space left on device"
    assert done.stderr.splitlines()[-1] == said


@pytest.mark.system
@pytest.mark.parametrize("ends_with", [">/dev/full", "2>/dev/full"])
def test_a_comparison_is_on_disk_though_nobody_hears_it(tmp_path: Path, ends_with: str) -> None:
    path = tmp_path / "original.json"
    command = [
        *(sys.executable, "-m", "loadclient", "compare", "--preset", "original", "--conns", "4"),
        *("--rate", "10", "--slice-seconds", "0.5", "--msg-bytes", "64", "--json", str(path)),
    ]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(command)} {ends_with}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert '"complete": true' in path.read_text()


@pytest.mark.system
@pytest.mark.parametrize(
    ("fault", "ends_with", "seconds"),
    [
        ("none", "2>/dev/full", LOOKS),
        ("drop", "2> >(true)", LOOKS),
        ("none", ">/dev/full", 0.5),
        ("drop", ">/dev/full", 0.5),
        ("none", "| true", 0.5),
        ("none", ">&- 2>&- <&-", LOOKS),
    ],
)
def test_a_deaf_shell_costs_neither_the_result_nor_the_exit_code(
    faulty: Callable[[str], FaultyServer],
    tmp_path: Path,
    fault: str,
    ends_with: str,
    seconds: float,
) -> None:
    """A full log disk, a closed stream, a pipe to nobody: none of them makes a run fail."""
    path = tmp_path / "result.json"
    done = shell(faulty(fault).port, path, ends_with, seconds)
    result = RunResult.from_json(path.read_text())

    assert done.returncode == (0 if result.valid else 4)
    assert result.messages_sent == result.messages_offered > 0
    assert fault == "none" or not result.valid
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr


def test_a_terminal_that_hangs_up_does_not_end_the_run() -> None:
    """Its window was closed: every write fails, from the bar's own thread too."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, LiveLine(terminal) as line:
        line.enter("measure", 2)
        os.close(ours)
        line.look(Snapshot(now_ns=1), FRAMES)
        line.look(Snapshot(now_ns=1_000_000_001, sent=5), FRAMES)
        line.enter("drain", None)


@pytest.mark.parametrize("closed", [True, False])
def test_no_stream_to_show_a_run_on_is_no_reason_to_fail(*, closed: bool) -> None:
    stream = io.StringIO() if closed else None
    with LiveLine(stream) as line:
        line.enter("measure", 2)
        if stream is not None:
            stream.close()
        line.look(Snapshot(now_ns=1), FRAMES)
        line.look(Snapshot(now_ns=1_000_000_001, sent=5), FRAMES)
        line.look(Snapshot(now_ns=2_000_000_001, sent=9), FRAMES)


def test_what_a_locale_cannot_spell_is_said_with_question_marks() -> None:
    """The summary of a run with a foreign name would be lost as a whole."""
    heard = io.BytesIO()
    stream = unheard(io.TextIOWrapper(heard, encoding="ascii"))
    stream.write("run größer\n")
    stream.write("valid\n")
    stream.flush()

    assert heard.getvalue() == b"run gr??er\nvalid\n"
