"""Ctrl-C as a terminal sends it: to the whole process group, at whatever moment it comes.

Each moment is waited for, and the workers are held meanwhile, so that none is past it by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FaultyServer

pytestmark = pytest.mark.system
SECONDS = 60
STUDY = """
pairs = 6
slice-seconds = 0.5
settle-seconds = 0

[[cell]]
conns = 10
rate = 20
"""


@contextlib.contextmanager
def in_a_terminal(*words: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process group of its own, as a shell does."""
    with subprocess.Popen(
        [sys.executable, "-m", "loadclient", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as command:
        try:
            yield command
        finally:
            if command.poll() is None:
                os.killpg(command.pid, signal.SIGKILL)


def workers(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the workers that there are, however young."""
    found = []
    for child in psutil.Process(command.pid).children():
        with contextlib.suppress(psutil.Error):
            if "loadclient.worker" in child.cmdline():
                found.append(child)
    return found


def reach(command: subprocess.Popen[str], moment: Callable[[], object]) -> None:
    """Wait for *moment*, as long as there is somebody to bring it about."""
    until(lambda: command.poll() is not None or moment(), SECONDS)
    assert command.poll() is None, command.communicate()


def press_ctrl_c(command: subprocess.Popen[str]) -> None:
    """Send what the terminal sends, while no worker can get on."""
    held = workers(command)
    for worker in held:
        worker.suspend()
    os.killpg(command.pid, signal.SIGINT)
    for worker in held:
        worker.resume()


def left(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Return how the command left, and its complaints."""
    _, err = command.communicate(timeout=SECONDS)
    assert "Traceback" not in err, err
    assert "died" not in err, err
    return command.returncode, err


@pytest.mark.parametrize("command", ["run", "search"])
def test_a_command_whose_workers_are_just_born_is_interrupted_and_not_broken(
    command: str, faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    words = {"run": ["--duration", 60, "--quiet"], "search": ["--trial-seconds", 60, "--quiet"]}
    port = faulty("none").port
    with in_a_terminal(
        command, "127.0.0.1", port, "--conns", 4, *words[command], folder=tmp_path
    ) as running:
        reach(running, lambda: workers(running))
        press_ctrl_c(running)

        assert left(running)[0] == 130


@pytest.mark.parametrize("lines", [1, 2], ids=["first slice", "later slice"])
def test_a_study_whose_workers_are_just_born_is_interrupted_and_not_broken(
    lines: int, tmp_path: Path
) -> None:
    """Three of twenty were not interrupted at all, and five said that a worker had died."""
    (tmp_path / "s.toml").write_text(STUDY)
    raw = tmp_path / "raw.jsonl"
    with in_a_terminal(
        "compare", "--study", "s.toml", "--raw", raw, "--no-probe", "--quiet", folder=tmp_path
    ) as running:
        reach(running, lambda: raw.exists() and raw.read_text().count("\n") >= lines)
        reach(running, lambda: workers(running))
        press_ctrl_c(running)
        code, err = left(running)

    assert code == 130
    assert "go on with: loadclient compare --resume" in err
    assert raw.read_text().count("\n") <= 12
