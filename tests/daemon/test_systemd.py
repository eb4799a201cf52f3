"""What is said to a service manager, and what is taken from it; the manager is a real socket."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from etltd.systemd import Notifier, listening_sockets, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

PID = 4711


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Return a service manager's socket and the value of NOTIFY_SOCKET that leads to it."""
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind("\0" + name if request.param == "abstract" else name)
        yield sock, "@" + name if request.param == "abstract" else name


def test_assignments_go_in_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """The manager takes STATUS= with READY=1 only if they come together."""
    sock, address = manager

    with closing(Notifier({"NOTIFY_SOCKET": address})) as notifier:
        error = notifier.send("READY=1", "STATUS=Serving")

    assert error is None
    assert sock.recv(1000) == b"READY=1\nSTATUS=Serving"


def descriptors() -> set[str]:
    """Return this process's descriptors, each with what it is."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{path.name} {path.readlink()}")
    return {name for name in found if "/proc/" not in name}


def test_pings_share_one_descriptor(manager: tuple[socket.socket, str]) -> None:
    """The loop's closes are counted as peers' work: one per ping was more than we had counted."""
    sock, address = manager
    before = descriptors()
    with closing(Notifier({"NOTIFY_SOCKET": address})) as notifier:
        notifier.send("READY=1")
        kept = descriptors()
        notifier.send("WATCHDOG=1")

        assert len(kept - before) == 1
        assert descriptors() == kept
    assert descriptors() == before
    assert [sock.recv(1000), sock.recv(1000)] == [b"READY=1", b"WATCHDOG=1"]


def test_a_manager_that_starts_anew_at_its_address_is_found(tmp_path: Path) -> None:
    """It would hear no ping from a socket that is connected to its predecessor, and kill us."""
    path = tmp_path / "notify"
    with closing(Notifier({"NOTIFY_SOCKET": str(path)})) as notifier:
        for number in (1, 2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(str(path))
                assert notifier.send(f"WATCHDOG={number}") is None
                manager.setblocking(False)
                assert manager.recv(1000) == b"WATCHDOG=%d" % number
            path.unlink()

        assert isinstance(notifier.send("WATCHDOG=3"), FileNotFoundError)


def test_no_manager_is_no_error() -> None:
    assert Notifier({}).send("READY=1") is None


def test_a_manager_that_is_gone_is_reported_not_raised(tmp_path: Path) -> None:
    error = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")

    assert isinstance(error, FileNotFoundError)


def test_a_full_queue_does_not_block_the_loop(tmp_path: Path) -> None:
    """A manager that is stopped in a debugger would stop the daemon too."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(address)
        with closing(Notifier({"NOTIFY_SOCKET": address})) as notifier:
            errors = (notifier.send("WATCHDOG=1") for _ in range(100_000))
            first = next(error for error in errors if error is not None)

        assert isinstance(first, BlockingIOError)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(PID)}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_it_watches_us(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environment, PID) == seconds


@pytest.fixture
def passed() -> Iterator[list[int]]:
    """Return three descriptors in a row, as a manager passes them: two listeners, one Unix."""
    originals = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    originals.append(socket.socket(socket.AF_UNIX))
    first = 500
    for index, sock in enumerate(originals):
        os.dup2(sock.fileno(), first + index, inheritable=True)
        sock.close()
    yield [first, first + 1, first + 2]
    for fd in range(first, first + 3):
        try:
            os.close(fd)
        except OSError:  # its owner closed it
            continue


def adopt(environment: dict[str, str], first_fd: int = 500) -> dict[str, list[int]]:
    """Adopt and close; return the descriptors by name."""
    found = listening_sockets(environment, PID, first_fd)
    by_name = {name: [sock.fileno() for sock in socks] for name, socks in found.items()}
    for sock in (sock for socks in found.values() for sock in socks):
        assert not sock.get_inheritable()
        sock.close()
    return by_name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("chat:metrics:chat", {"chat": [500, 502], "metrics": [501]}),
        (None, {"unknown": [500, 501, 502]}),
        ("chat", {"chat": [500], "unknown": [501, 502]}),
        ("chat::metrics", {"chat": [500], "unknown": [501], "metrics": [502]}),
    ],
    ids=["all named", "no names", "one named", "one name empty"],
)
def test_each_socket_has_the_name_at_its_place(
    passed: list[int], names: str | None, expected: dict[str, list[int]]
) -> None:
    """The chat port would answer scrapes, and the metrics port chat."""
    environment = {"LISTEN_PID": str(PID), "LISTEN_FDS": str(len(passed)), "OTHER": "kept"}
    if names is not None:
        environment["LISTEN_FDNAMES"] = names

    assert adopt(environment) == expected
    assert environment == {"OTHER": "kept"}, "a child would take the sockets for its own"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "3"},
        {"LISTEN_PID": str(PID)},
        {"LISTEN_PID": str(PID), "LISTEN_FDS": "-1"},
        {"LISTEN_PID": str(PID), "LISTEN_FDS": "0"},
        {"LISTEN_FDS": "3"},
    ],
)
def test_sockets_meant_for_another_process_are_left_alone(environment: dict[str, str]) -> None:
    assert adopt(environment) == {}
    assert environment == {}


def test_a_descriptor_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        adopt({"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}, first_fd=900)
