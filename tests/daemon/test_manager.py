"""The service manager is told what changed, and a manager that does not listen costs nothing."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from etltd.logs import open_log
from etltd.manager import ServiceManager
from etltd.stats import LoopStats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where the daemon is told to speak."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def manager(path: Path, **more: str) -> ServiceManager:
    environment = {"NOTIFY_SOCKET": str(path), **more}
    return ServiceManager(open_log("json", "info", environment), environment, pid=7)


def test_a_status_is_told_when_it_changes_and_the_watchdog_every_time(
    heard: socket.socket, tmp_path: Path
) -> None:
    told = manager(tmp_path / "notify", WATCHDOG_USEC="1000000")
    stats = LoopStats()
    for peers in (0, 0, 1):
        stats.connections = peers
        told.report(stats)
    told.close()

    assert [heard.recv(4096) for _ in range(3)] == [
        b"WATCHDOG=1\nSTATUS=0 peers, 0 behind",
        b"WATCHDOG=1",
        b"WATCHDOG=1\nSTATUS=1 peers, 0 behind",
    ]


def test_without_a_watchdog_nothing_is_said_that_is_not_new(
    heard: socket.socket, tmp_path: Path
) -> None:
    told = manager(tmp_path / "notify")
    for _ in range(3):
        told.report(LoopStats())
    told.close()

    assert heard.recv(4096) == b"STATUS=0 peers, 0 behind"
    with pytest.raises(BlockingIOError):
        heard.recv(4096)
    assert told.patience(5) == []


def test_a_manager_that_is_gone_is_logged_once_not_with_every_ping(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = manager(tmp_path / "gone", WATCHDOG_USEC="1000000")
    for _ in range(3):
        told.report(LoopStats())

    lines = capfd.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["cannot notify the service manager"]


def test_without_a_manager_nothing_is_said_and_nothing_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = ServiceManager(open_log("json", "info", {}), {}, pid=7)
    told.report(LoopStats())
    told.forget_stored()
    told.close()

    assert not told.is_there
    assert capfd.readouterr().err == ""


def test_a_manager_that_is_busy_is_told_later_what_to_forget(
    heard: socket.socket, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """While it has a copy of a socket, a close of ours sends no FIN: the peer would wait on."""
    told = manager(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(str(tmp_path / "notify"))
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"X=1")

    told.forget_stored()
    told.report(LoopStats())
    assert len(capfd.readouterr().err.splitlines()) == 1

    assert set(everything(heard)) == {b"X=1"}
    told.report(LoopStats())
    told.report(LoopStats())
    told.close()
    assert everything(heard) == [
        b"FDSTOREREMOVE=1\nFDNAME=etltd-state",
        b"FDSTOREREMOVE=1\nFDNAME=etltd-sockets",
    ]


def everything(heard: socket.socket) -> list[bytes]:
    """Return all that has been said."""
    found = []
    try:
        while True:
            found.append(heard.recv(4096))
    except BlockingIOError:
        return found


def test_a_longer_patience_is_asked_for_in_microseconds(tmp_path: Path) -> None:
    told = manager(tmp_path / "notify", WATCHDOG_USEC="1000000")

    assert told.patience(30) == ["WATCHDOG=1", "WATCHDOG_USEC=30000000"]
    assert told.patience(None) == []
