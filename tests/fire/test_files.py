"""What the daemon and the client leave in the file system, and who may touch it meanwhile."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from etltd import succession
from etltd.handover import State
from loadclient.session import write_whole
from tests.system.rig import Client, Crowd
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

NOBODY = 65534
CARELESS = ("sh", "-c", 'umask 0 && exec "$@"', "sh")  # as a container or an old unit may start it


def mode_of(path: Path) -> int:
    """Return who may do what with *path*."""
    return stat.S_IMODE(path.lstat().st_mode)


def connect_as(user: int, path: Path) -> str:
    """Connect to a Unix socket as another user; return what became of it."""
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[2]); print('connected')\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(user), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_unix_socket_is_for_its_group_and_nothing_else_is_left(
    start: Start, mode: str, tmp_path: Path
) -> None:
    """From start to stop, over a hand-over, and whatever the umask is."""
    chat, temporary = tmp_path / "run/chat.sock", tmp_path / "tmp"
    chat.parent.mkdir()
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary)}
    daemon = start(mode, "--unix", str(chat), prefix=CARELESS, variables=variables)
    assert mode_of(chat) == 0o660
    local, remote = Client(str(chat)), daemon.dial()
    until(lambda: daemon.metrics()["connections"] == 2)

    daemon.signal(signal.SIGUSR2)
    until(lambda: daemon.events("took over"))
    assert mode_of(chat) == 0o660
    local.say(b"still here\n")
    Crowd([local, remote]).until(lambda: b"still here" in remote.inbox)
    again = Client(str(chat))
    until(lambda: daemon.metrics()["connections"] == 3)

    assert list(temporary.iterdir()) == []
    assert list(chat.parent.iterdir()) == [chat]
    daemon.signal()
    daemon.stopped()
    assert list(chat.parent.iterdir()) == []
    for one in (local, again):
        one.sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_user_cannot_connect_to_the_unix_socket(start: Start, mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the way there is open to everybody
        chat = Path(folder) / "chat.sock"
        start(mode, "--unix", str(chat))

        assert connect_as(0, chat) == "connected"
        assert connect_as(NOBODY, chat) == "PermissionError"


def test_the_state_of_a_hand_over_is_for_its_owner() -> None:
    """It holds what peers were saying; the kernel makes such memory open to everybody."""
    with succession.written(State({}, [], [], 1, {}, 0)) as fd:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert not os.get_inheritable(fd)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_result_is_as_open_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    """Neither 0600 for ever, as a temporary file is, nor open to who may not see it."""
    old = os.umask(umask)
    try:
        write_whole(tmp_path / "result.json", "{}\n")
    finally:
        os.umask(old)

    assert mode_of(tmp_path / "result.json") == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]
