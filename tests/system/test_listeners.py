"""Three ways for several processes to share a port, told apart by who wakes for a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.herd import SHARING, Starter
from tests.system.test_options import etltd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.rig import DaemonProcess

INSTANCES = 3
CONNECTIONS = 40


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    with Starter(tmp_path) as made:
        yield made


@pytest.mark.parametrize("listener", SHARING)
def test_who_wakes_for_a_connection_is_what_the_option_says(
    starter: Starter, mode: str, listener: str
) -> None:
    """The thundering herd by counts: one loop wakes, or all of them do and all but one in vain."""
    herd = starter.start(mode, listener, INSTANCES)

    woken = herd.connect(CONNECTIONS)

    assert woken.connections == CONNECTIONS
    assert CONNECTIONS <= woken.accept_events <= INSTANCES * CONNECTIONS
    if listener == "shared":
        assert woken.sleeps > 2 * CONNECTIONS
    else:
        assert woken.sleeps < 2 * CONNECTIONS
        assert woken.accept_events < 1.5 * CONNECTIONS
    for daemon in herd.daemons:
        assert f'listener="{listener}"' in daemon.get("/metrics")[1]


@pytest.mark.parametrize("listener", ["exclusive", "shared"])
def test_a_socket_to_share_must_have_been_passed(listener: str) -> None:
    """Bound by itself, it would be shared with nobody, and the counts would say something else."""
    done = etltd("--port=0", "--metrics-port=0", f"--listener={listener}")

    assert done.returncode == 1
    assert done.stderr == (
        f"etltd: --listener {listener} shares a socket that LISTEN_FDS passes, and none was\n"
    )


def test_a_port_is_shared_only_if_both_say_so(daemon: Callable[..., DaemonProcess]) -> None:
    taken = daemon("lt").address[1]

    done = etltd(f"--port={taken}", "--metrics-port=0", "--listener=reuseport")

    assert done.returncode == 1
    assert "Address already in use" in done.stderr
