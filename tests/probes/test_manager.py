"""A real datagram socket in a service manager's place."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from ebpf.manager import tell
from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.probes.rig import Exporter


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.bind(path if request.param == "path" else f"\0{path}")
        yield sock


def variables(ear: socket.socket) -> dict[str, str]:
    name = ear.getsockname()
    return {"NOTIFY_SOCKET": name if isinstance(name, str) else f"@{name[1:].decode()}"}


def test_the_manager_hears_every_line(ear: socket.socket) -> None:
    assert tell(variables(ear), "READY=1", "STATUS=Serving") is None
    assert ear.recv(4096) == b"READY=1\nSTATUS=Serving"


def test_nobody_asked_and_nothing_is_done() -> None:
    assert tell({}, "READY=1") is None


def test_a_manager_that_is_gone_is_an_error_to_report(tmp_path: Path) -> None:
    error = tell({"NOTIFY_SOCKET": str(tmp_path / "none")}, "READY=1")

    assert error is not None
    assert error.errno == errno.ENOENT


@pytest.mark.kernel
def test_ready_is_said_when_it_can_be_scraped(
    ear: socket.socket, exporter: Callable[..., Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", variables(ear)["NOTIFY_SOCKET"])
    probe = exporter("--comm", "nobody-is-called")
    ready = ear.recv(4096).decode()

    assert ready == f"READY=1\nSTATUS=Serving {probe.url}"
    assert "etlt_probe_target_up" in probe.text()
    probe.process.terminate()
    assert ear.recv(4096) == b"STOPPING=1\nSTATUS=Stopping"


@pytest.mark.kernel
def test_a_manager_that_is_gone_does_not_end_the_probe(
    exporter: Callable[..., Exporter], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    probe = exporter("--comm", "nobody-is-called")

    probe.wait_for("cannot notify the service manager: No such file")
    assert "etlt_probe" in probe.text()
