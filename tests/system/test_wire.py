"""The wire through real sockets: one script, both modes, the same bytes."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.rig import Client, Crowd, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., DaemonProcess]

SCRIPT: list[tuple[int, bytes]] = [
    (0, b"one\ntwo\nth"),
    (1, b"\r\n\n"),
    (0, b"ree\n"),
    (2, b"x" * 70_000 + b"\nafter\n"),
    (1, bytes(range(256)) + b"\n"),
    (0, b"many\n" * 20_000),
    (3, b"bye\nunfinished"),
    (5, b"whole\nhalf a li"),
]


def play(daemon: DaemonProcess) -> list[list[bytes]]:
    """Play the script; return what each peer heard, by speaker."""
    crowd = Crowd([])
    for _ in range(6):  # one by one, so that ids are the same in both modes
        crowd.clients += daemon.crowd(1).clients
    for speaker, words in SCRIPT:
        crowd.clients[speaker].say(words)
    crowd.until(lambda: not any(client.outgoing for client in crowd.clients))
    said = sum(len(words) for _, words in SCRIPT)
    crowd.until(lambda: daemon.metrics()["received_bytes_total"] == said)
    crowd.clients[3].sock.shutdown(socket.SHUT_WR)
    crowd.until(lambda: daemon.metrics()["messages_discarded_total truncated"])
    heard = 0  # by who is gone

    def is_quiet() -> bool:
        inboxes = sum(len(client.inbox) for client in crowd.clients)
        return daemon.metrics()["sent_bytes_total"] == heard + inboxes

    crowd.until(is_quiet)
    broken = crowd.clients.pop(5)  # in mid-line
    heard = len(broken.inbox)
    broken.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.sock.close()
    crowd.until(lambda: daemon.metrics()["connections_closed_total reset"])
    crowd.clients[0].say(b"afterwards\n")
    crowd.until(lambda: daemon.metrics()["received_bytes_total"] == said + 11)
    crowd.until(is_quiet)
    assert daemon.metrics()["messages_discarded_total truncated"] == 2
    assert_ledger(daemon.quiet_metrics())
    return [by_speaker(bytes(client.inbox)) for client in crowd.clients]


def by_speaker(inbox: bytes) -> list[bytes]:
    """Return the streams of each speaker: between speakers, the order is the network's."""
    lines = re.findall(rb"[^\n]*\n", inbox)
    assert b"".join(lines) == inbox, "a torn line"
    speakers = sorted({line.split(b"] ")[0] for line in lines})
    return [b"".join(line for line in lines if line.startswith(who)) for who in speakers]


def test_both_modes_give_every_peer_the_same_bytes(daemon: Start) -> None:
    transcripts = [play(daemon(mode)) for mode in ("lt", "et")]

    assert transcripts[0] == transcripts[1]
    listener = transcripts[0][4]
    assert [stream.count(b"\n") for stream in listener] == [20_004, 4, 1, 1, 1]
    assert transcripts[0][2][0] == b"[USER1] one\n[USER1] two\n[USER1] three\n" + (
        b"[USER1] many\n" * 20_000 + b"[USER1] afterwards\n"
    )
    assert b"[etltd] line too long, discarded\n" in transcripts[0][2]


@pytest.mark.skipif(not shutil.which("nc"), reason="needs nc (package netcat-openbsd)")
def test_nc_works(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    listener = running.crowd(1)
    host, port = running.address

    with subprocess.Popen(
        ["nc", host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as nc:
        assert nc.stdin is not None
        assert nc.stdout is not None
        nc.stdin.write(b"hello from nc\n")
        nc.stdin.flush()
        listener.until(lambda: listener.clients[0].inbox == b"[USER2] hello from nc\n")
        listener.clients[0].say(b"hello to nc\n")
        listener.step()
        assert nc.stdout.readline() == b"[USER1] hello to nc\n"
        nc.terminate()


def test_a_unix_socket_stands_beside_tcp(daemon: Start, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    running = daemon(mode, "--unix", str(path))
    local = Client(str(path))
    crowd = Crowd([running.dial(), local])
    until(lambda: running.metrics()["connections"] == 2)

    for client in crowd.clients:
        client.say(b"hello\n")
    crowd.until(lambda: all(client.inbox for client in crowd.clients))

    assert {bytes(client.inbox) for client in crowd.clients} == {
        b"[USER1] hello\n",
        b"[USER2] hello\n",
    }
    assert path.stat().st_mode & 0o777 == 0o660
    running.signal()
    crowd.until_end()
    running.stopped()
    assert not path.exists()
    local.sock.close()
