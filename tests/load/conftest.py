"""Servers to load, good and bad, and ways to start the client against them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadclient.cli import main
from loadclient.daemon import running_daemon
from loadclient.result import RunResult
from tests.busy import BUSY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadclient.daemon import Daemon

BUSY_SECONDS = 60  # a browser's start or a compiler's on the other core lasts so long
FAULTY_SERVER = Path(__file__).with_name("faulty_server.py")


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("LOADCLIENT_", "ETLTD_")):
            monkeypatch.delenv(name)


@dataclass
class FaultyServer:
    """A running server with one fault, and the process to stop or freeze it by."""

    port: int
    counters: str  # their address
    process: subprocess.Popen[str]


@pytest.fixture
def faulty() -> Iterator[Callable[[str], FaultyServer]]:
    """Start servers by the name of their fault; "none" behaves."""
    started = []

    def start(fault: str) -> FaultyServer:
        process = subprocess.Popen(
            [sys.executable, str(FAULTY_SERVER), fault], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        port, counters = (process.stdout.readline().strip() for _ in range(2))
        return FaultyServer(int(port), f"http://127.0.0.1:{counters}/metrics", process)

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Outcome:
    """What a finished command left behind."""

    code: int
    result: RunResult | None
    out: str
    err: str

    @property
    def reasons(self) -> str:
        return " | ".join(self.result.invalid_reasons) if self.result else self.err


@pytest.fixture
def load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `loadclient run` against a port, briefly, and return what came of it."""

    def run(port: int, *arguments: Any) -> Outcome:
        path = tmp_path / "result.json"
        path.unlink(missing_ok=True)
        tokens = ["run", "127.0.0.1", port, "--json", path, *arguments]
        for flag, value in {"--conns": 4, "--duration": 1, "--rate": 50, "--warmup": 0}.items():
            if flag not in arguments:
                tokens += [flag, value]
        patience = time.monotonic() + BUSY_SECONDS
        while True:
            with pytest.raises(SystemExit) as left:
                main([str(token) for token in tokens])
            result = RunResult.from_json(path.read_text()) if path.exists() else None
            outcome = Outcome(left.value.code, result, *capfd.readouterr())
            if BUSY not in outcome.reasons or time.monotonic() > patience:
                return outcome

    return run


@pytest.fixture(params=["lt", "et"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """Run the real daemon, in each mode."""
    with running_daemon(request.param, tmp_path / "daemon.log") as started:
        yield started
