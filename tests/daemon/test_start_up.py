"""A signal while the commands are being imported, before anything else could take it in hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

EXITS = {  # package: exit status by signal
    "etltd": {signal.SIGINT: 0, signal.SIGTERM: 0, signal.SIGHUP: 0},
    "loadclient": {signal.SIGINT: 130, signal.SIGTERM: 143},
    "ebpf": {signal.SIGINT: 130, signal.SIGTERM: 143},
}
OF_ITS_OWN = ("--pid", "--fork", "--kill-child")
CASES = [(package, number) for package, exits in EXITS.items() for number in exits]


def console_script(package: str) -> str:
    """Return what pip writes into the command of *package*."""
    return f"import sys; from {package}.__main__ import main; sys.exit(main())"


@contextmanager
def start_up(package: str, pipe: Path, phase: str, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command up to the import of *phase*; it ends at the latest at its file, a pipe."""
    arguments = ["--config", str(pipe), *(["run"] if package == "loadclient" else [])]
    command = [sys.executable, "-X", "importtime", "-c", console_script(package), *arguments]
    with subprocess.Popen([*prefix, *command], stderr=subprocess.PIPE, text=True) as starting:
        try:
            assert starting.stderr is not None
            assert any(line.split("|")[-1].strip().startswith(phase) for line in starting.stderr)
            yield starting
        finally:
            starting.kill()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Return a pipe that nobody writes to: reading options from it takes for ever."""
    path = tmp_path / "options.toml"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("package", "number"), CASES, ids=lambda value: getattr(value, "name", value)
)
@pytest.mark.parametrize("phase", ["cyclopts", "ssl"])
def test_a_signal_while_it_starts_is_no_traceback(
    package: str, number: signal.Signals, phase: str, pipe: Path
) -> None:
    with start_up(package, pipe, phase) as starting:
        starting.send_signal(number)
        rest = starting.communicate(timeout=PATIENCE_SECONDS)[1]

    assert "Traceback" not in rest
    assert starting.returncode == EXITS[package][number]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a pid namespace")
@pytest.mark.parametrize("package", EXITS)
def test_the_first_process_of_a_container_can_be_stopped_while_it_starts(
    package: str, pipe: Path
) -> None:
    """The kernel withholds signals without a handler from it: stopping took the whole grace."""
    with start_up(package, pipe, "cyclopts", "unshare", *OF_ITS_OWN) as outside:
        inside = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text()
        os.kill(int(inside), signal.SIGTERM)
        outside.communicate(timeout=PATIENCE_SECONDS)

    assert outside.returncode == EXITS[package][signal.SIGTERM]


def test_who_ignores_ctrl_c_is_left_in_peace(pipe: Path) -> None:
    """A shell starts its background jobs so."""
    ignoring = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    with start_up("loadclient", pipe, "cyclopts", *ignoring) as starting:
        starting.send_signal(signal.SIGINT)
        starting.send_signal(signal.SIGTERM)
        starting.communicate(timeout=PATIENCE_SECONDS)

    assert starting.returncode == EXITS["loadclient"][signal.SIGTERM]
