"""Listening sockets: what peers inherit, who may connect, what is never replaced."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from functools import partial
from typing import TYPE_CHECKING

import pytest

from etltd.listener import (
    KEEPALIVE_PROBES,
    OUT_OF_DESCRIPTORS,
    Listener,
    bind_tcp,
    bind_unix,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["127.0.0.1", "::1"])
def tcp(request: pytest.FixtureRequest) -> Iterator[Listener]:
    listener = bind_tcp(request.param, 0, 8)
    yield listener
    listener.close()


def accept_one(listener: Listener) -> tuple[socket.socket, str]:
    """Accept the peer that has connected already."""
    accepted = listener.accept()
    assert accepted is not None
    return accepted


def test_a_peer_comes_with_its_ip_address(tcp: Listener) -> None:
    host, port = tcp.sock.getsockname()[:2]
    with socket.create_connection((host, port)):
        sock, ip = accept_one(tcp)

        assert ip == host
        assert sock.getblocking() is False
        sock.close()


def test_the_address_can_be_dialled(tcp: Listener) -> None:
    """An IPv6 address without brackets is ambiguous."""
    host, port = tcp.sock.getsockname()[:2]

    assert tcp.address == (f"[::1]:{port}" if host == "::1" else f"127.0.0.1:{port}")


def test_peers_inherit_what_the_listener_was_given(tcp: Listener) -> None:
    """Nagle would delay chat by 40 ms; without keepalive a vanished peer stays for ever."""
    tcp.set_buffers(send_bytes=16384, receive_bytes=8192)
    tcp.ask_after(90)
    with socket.create_connection(tcp.sock.getsockname()[:2]):
        sock, _ = accept_one(tcp)
        with sock:
            tcp_option = partial(sock.getsockopt, socket.IPPROTO_TCP)
            option = partial(sock.getsockopt, socket.SOL_SOCKET)

            assert tcp_option(socket.TCP_NODELAY)
            assert option(socket.SO_KEEPALIVE)
            assert tcp_option(socket.TCP_KEEPIDLE) == 30
            assert tcp_option(socket.TCP_KEEPINTVL) == 15
            assert tcp_option(socket.TCP_KEEPCNT) == KEEPALIVE_PROBES
            assert option(socket.SO_SNDBUF) == 2 * 16384  # socket(7): the kernel doubles it
            assert option(socket.SO_RCVBUF) == 2 * 8192


def test_buffers_of_nought_are_left_to_the_kernel(tcp: Listener) -> None:
    before = tcp.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    tcp.set_buffers(0, 0)

    assert tcp.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_nobody_waiting_is_not_a_peer_that_gave_up(tcp: Listener) -> None:
    with pytest.raises(BlockingIOError):
        tcp.accept()


def test_the_lack_of_descriptors_is_reported(tcp: Listener) -> None:
    """Taken for a peer that gave up, it would be retried at once, for ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(tcp.sock.getsockname()[:2]):
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(OSError, match="Too many open files") as raised:
                tcp.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert raised.value.errno in OUT_OF_DESCRIPTORS
        accept_one(tcp)[0].close()


def test_a_peer_that_gave_up_while_it_waited_is_nobody(tcp: Listener) -> None:
    """accept(2) passes errors of the network on; none of them is the listener's."""
    tcp.sock.shutdown(socket.SHUT_RDWR)  # any errno that is neither: EINVAL

    assert tcp.accept() is None


def test_an_address_in_use_is_refused(tcp: Listener) -> None:
    host, port = tcp.sock.getsockname()[:2]

    with pytest.raises(OSError, match="Address already in use"):
        bind_tcp(host, port, 8)


def test_a_port_is_free_again_after_a_restart(tcp: Listener) -> None:
    """Without SO_REUSEADDR a restart would fail for a minute (TIME_WAIT)."""
    host, port = tcp.sock.getsockname()[:2]
    with socket.create_connection((host, port)) as client:
        sock, _ = accept_one(tcp)
        sock.close()  # the server closes first: TIME_WAIT is on its side
        assert client.recv(1) == b""
    tcp.close()

    bind_tcp(host, port, 8).close()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(OSError, match=r"not known|failure in name resolution"):
        bind_tcp("no-such-host.invalid", 0, 8)


# -- Unix sockets ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.sock"


def test_a_unix_socket_is_open_to_owner_and_group_only(path: Path) -> None:
    old_umask = os.umask(0)
    try:
        listener = bind_unix(path, 8)
    finally:
        os.umask(old_umask)

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert os.umask(old_umask) == old_umask, "the process's umask changed"
    listener.close()


def test_a_unix_peer_has_no_ip_address(path: Path) -> None:
    listener = bind_unix(path, 8)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        sock, ip = accept_one(listener)
        sock.close()

    assert ip == ""
    assert listener.address == str(path)
    listener.close()


def test_a_stop_takes_the_path_away(path: Path) -> None:
    bind_unix(path, 8).close()

    assert not path.exists()


def test_a_path_that_somebody_removed_does_not_hinder_the_stop(path: Path) -> None:
    listener = bind_unix(path, 8)
    path.unlink()

    listener.close()


def test_a_path_that_a_successor_has_bound_is_the_successor_s(path: Path) -> None:
    """Stopping the old server would make the new one unreachable."""
    old = bind_unix(path, 8)
    path.unlink()
    new = bind_unix(path, 8)

    old.close()

    assert path.exists()
    new.close()


def test_a_folder_that_is_out_of_reach_does_not_hinder_the_stop(tmp_path: Path) -> None:
    """Who may not look there may not remove anything either."""
    folder = tmp_path / "run"
    folder.mkdir()
    listener = bind_unix(folder / "chat", 8)
    folder.rename(tmp_path / "elsewhere")
    folder.touch()  # lstat(2) fails with ENOTDIR; EACCES is not for root

    assert listener.own_path is None
    listener.close()
    assert (tmp_path / "elsewhere" / "chat").exists()


def test_an_adopted_unix_socket_keeps_its_path(path: Path) -> None:
    """It is the service manager's: the next activation needs it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()

    Listener(sock).close()

    assert path.exists()


def test_an_abstract_address_is_printable() -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(b"\0etltd-test-%d" % os.getpid())
    sock.listen()
    listener = Listener(sock)

    assert listener.address == f"@etltd-test-{os.getpid()}"
    listener.close()


def test_the_leftover_of_a_dead_server_is_replaced(path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()

    bind_unix(path, 8).close()


def test_a_live_server_is_not_replaced(path: Path) -> None:
    alive = bind_unix(path, 8)

    with pytest.raises(OSError, match="another server listens there"):
        bind_unix(path, 8)

    assert path.exists()
    alive.close()


def test_a_live_server_with_a_full_backlog_is_not_waited_for(path: Path) -> None:
    """A blocking connect would hang the start; a refusal must not be read from it either."""
    alive = bind_unix(path, 0)
    with socket.socket(socket.AF_UNIX) as waiting, socket.socket(socket.AF_UNIX) as other:
        waiting.connect(str(path))
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.connect(str(path))

        with pytest.raises(OSError, match="another server listens there"):
            bind_unix(path, 8)
    alive.close()


def test_a_file_is_not_replaced_by_a_socket(path: Path) -> None:
    path.write_text("precious")

    with pytest.raises(FileExistsError, match="exists and is not a socket"):
        bind_unix(path, 8)

    assert path.read_text() == "precious"


def test_a_directory_that_is_missing_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        bind_unix(path / "chat.sock", 8)

    assert raised.value.errno in {errno.ENOENT, errno.ENOTDIR}
