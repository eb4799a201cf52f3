"""A restart, as systemd does one: one process leaves its clients, another one takes them."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

import psutil
import pytest

from etltd import fdstore, succession
from etltd.__main__ import SIGNALS, STORED
from tests.fire import injection
from tests.handover.test_handover import (
    assert_talks,
    change,
    copy,
    hand_over,
    last_scrapes,
    of_copy,
    pending,
    when_read,
    with_long_scrapes,
)
from tests.system.rig import GOODBYE, assert_ledger
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.rig import Crowd, DaemonProcess

    Start = Callable[..., DaemonProcess]

HAND_DOWN = """
import os, sys
names, command = sys.argv[1].split(":"), sys.argv[2:]
for number, name in enumerate(names):
    os.dup2(int(name.split("=")[1]), 3 + number)
    os.close(int(name.split("=")[1]))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)))
os.environ["LISTEN_FDNAMES"] = ":".join(name.split("=")[0] for name in names)
os.execv(command[0], command)
"""
__all__ = ["copy"]

FIRST_FREE = 3000  # what is stored is kept from here on, out of the way of 3, 4, ...
MANY = 600  # sockets go in three messages
LINE = b"x" * 1000 + b"\n"


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    """Allow for these descriptors, here and in what is started."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * FIRST_FREE:
        pytest.skip(f"no more than {before[1]} descriptors here (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * FIRST_FREE), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Store(threading.Thread):
    """A service manager's ear with its descriptor store."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self.variables = {"NOTIFY_SOCKET": str(path)}
        self.kept: list[tuple[str, int]] = []
        self.was_given = 0

    def run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, 253)
            words = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
            if "OVER" in words:
                return
            name = words.get("FDNAME", "")
            if "FDSTORE" in words:
                self.kept += [(name, higher(fd)) for fd in fds]
                self.was_given += len(fds)
            elif "FDSTOREREMOVE" in words:
                for _, fd in [one for one in self.kept if one[0] == name]:
                    os.close(fd)
                self.kept = [one for one in self.kept if one[0] != name]
            for fd in fds:
                os.close(fd)

    def passes_on(self, **listening: socket.socket) -> dict[str, object]:
        """Return what starts a daemon that is given *listening* and, newest first, the stored."""
        given = [(name, sock.fileno()) for name, sock in listening.items()] + self.kept[::-1]
        return {
            "prefix": [sys.executable, "-c", HAND_DOWN, ":".join(f"{n}={fd}" for n, fd in given)],
            "pass_fds": tuple(fd for _, fd in given),
            "variables": self.variables,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"OVER=1", self.variables["NOTIFY_SOCKET"])
        self.join()
        for _, fd in self.kept:
            os.close(fd)
        self._sock.close()


def higher(fd: int) -> int:
    """Return a copy of *fd* that is out of the way."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)


def restarted(
    first: DaemonProcess, daemon: Start, mode: str, *options: str, **more: object
) -> DaemonProcess:
    """Start the next process, at the addresses of the *first*, and wait until it serves."""
    second = daemon(mode, *options, wait=False, **more)
    until(lambda: second.events("took over") or second.process.poll() is not None)
    assert second.process.poll() is None, second.output()
    second.address, second.scrape_address = first.address, first.scrape_address
    return second


def leave(running: DaemonProcess) -> None:
    """Have *running* leave its clients with the manager."""
    running.signal(signal.SIGUSR1)
    assert running.process.wait(PATIENCE_SECONDS) == 0
    assert running.events("stored"), running.output()


def test_clients_outlive_the_process(daemon: Start, mode: str, tmp_path: Path) -> None:
    """Ids, begun lines and the ports, whatever order and numbers the descriptors come back in."""
    path = tmp_path / "chat"
    with Store(tmp_path / "notify") as store:
        first = daemon(mode, "--unix", str(path), variables=store.variables)
        crowd = first.crowd(3)
        crowd.clients[0].say(b"half")
        crowd.until(lambda: not crowd.clients[0].outgoing)
        until(lambda: first.metrics()["received_bytes_total"] == 4)
        leave(first)
        assert first.events("stored")[0]["peers"] == 3
        crowd.clients[0].say(b" a line\n")
        crowd.step()
        stray, forgotten = socket.socketpair()  # of a restart before, which was not forgotten
        store.kept.append(("etltd-sockets", higher(stray.fileno())))
        stray.close()
        second = restarted(first, daemon, mode, "--unix", str(path), **store.passes_on())
        crowd.until(lambda: all(len(client.lines()) == 1 for client in crowd.clients[1:]))

        assert {bytes(c.inbox).partition(b"] ")[2] for c in crowd.clients[1:]} == {b"half a line\n"}
        assert_ledger(second.quiet_metrics())
        until(lambda: not store.kept)
        assert path.exists()
        forgotten.settimeout(PATIENCE_SECONDS)
        assert forgotten.recv(1) == b"", "it is open, and nobody reads from it"
        forgotten.close()
        crowd.clients.append(second.dial())
        until(lambda: second.metrics()["connections"] == 4)
        second.signal()
        crowd.until_end()
        assert all(bytes(client.inbox).endswith(GOODBYE) for client in crowd.clients)


def test_hundreds_of_clients_outlive_the_process(daemon: Start, mode: str, tmp_path: Path) -> None:
    """Nobody is lost between two messages to the manager, and what is owed is kept."""
    with Store(tmp_path / "notify") as store:
        first = daemon(mode, "--sndbuf", "4096", variables=store.variables)
        slow = first.crowd(1, rcvbuf=4096).clients[0]
        slow.reads = False
        crowd = first.crowd(MANY - 1)
        talkers = crowd.clients[:5]
        said = 0

        def somebody_is_behind() -> object:
            nonlocal said
            if not talkers[0].outgoing:
                talkers[0].say(LINE * 5)
                said += 5
            return first.metrics()["outbox_messages"]

        crowd.until(somebody_is_behind)
        crowd.until(lambda: not talkers[0].outgoing)
        until(lambda: first.metrics()["messages_received_total"] == said)
        leave(first)
        assert first.events("stored")[0]["peers"] == MANY
        assert [name for name, _ in store.kept].count("etltd-sockets") == MANY + 2
        for number, talker in enumerate(talkers):
            talker.say(b"%d\n" % number)
        crowd.until(lambda: not any(talker.outgoing for talker in talkers))
        second = restarted(first, daemon, mode, "--sndbuf", "4096", **store.passes_on())
        slow.reads = True
        crowd.clients.append(slow)
        said += len(talkers)
        listeners = crowd.clients[5:]
        crowd.until(lambda: all(len(client.lines()) == said for client in listeners))

        for client in listeners:
            words = [line.split(b"] ", 1)[1] for line in client.lines()]
            assert set(words[:-5]) == {LINE}, "a torn line"
            assert sorted(words[-5:]) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
        metrics = second.quiet_metrics()
        assert_ledger(metrics)
        assert metrics["connections"] == MANY
        assert not metrics["outbox_messages"]


def listening() -> socket.socket:
    """Return what a manager passes."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return socket.socket(fileno=higher(sock.fileno()))


def address_of(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()
    return str(host), int(port)


def test_sockets_that_the_manager_passes_are_those_that_are_served(
    daemon: Start, tmp_path: Path
) -> None:
    """Its unit has a new address: the old socket would go on beside it, or in its place."""
    with Store(tmp_path / "notify") as store:
        chat, other, metrics = (listening() for _ in range(3))
        first = daemon("et", **store.passes_on(chat=chat, metrics=metrics))
        crowd = first.crowd(2)
        hand_over(first)
        leave(first)
        assert [name for name, _ in store.kept].count("etltd-sockets") == 2, "but for clients"
        chat.close()
        second = restarted(first, daemon, "et", **store.passes_on(chat=other, metrics=metrics))
        with pytest.raises(ConnectionRefusedError):
            second.dial()
        second.address = address_of(other)
        crowd.clients += second.crowd(1).clients
        assert_talks(crowd, b"hello\n")
        other.close()
        metrics.close()


def test_sockets_of_its_own_give_way_to_what_the_manager_passes(
    daemon: Start, tmp_path: Path
) -> None:
    """And come back when it passes none: who connects is served either way."""
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", variables=store.variables)
        crowd = first.crowd(2)
        leave(first)
        chat, metrics = listening(), listening()
        second = restarted(first, daemon, "lt", **store.passes_on(chat=chat, metrics=metrics))
        for address in (first.address, first.scrape_address.split(":")):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address[0], int(address[1])))
        second.address = address_of(chat)
        second.scrape_address = f"127.0.0.1:{metrics.getsockname()[1]}"
        until(lambda: not store.kept)
        leave(second)
        chat.close()
        metrics.close()
        third = restarted(first, daemon, "lt", **store.passes_on())
        ports = {c.laddr.port for c in psutil.Process(third.pid).net_connections() if not c.raddr}
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
        assert len(ports) == 2
        assert_talks(crowd, b"hello\n")


def test_a_unix_socket_that_gives_way_leaves_the_path_to_what_is_passed(
    daemon: Start, tmp_path: Path
) -> None:
    """It unlinked what the manager had just bound, and nobody could find the daemon."""
    path = tmp_path / "chat.sock"
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", "--unix", str(path), variables=store.variables)
        crowd = first.crowd(2)
        leave(first)
        path.unlink()  # as systemd does before it binds
        with socket.socket(socket.AF_UNIX) as chat:
            chat.bind(str(path))
            chat.listen()
            more = store.passes_on(chat=chat)
            second = restarted(first, daemon, "lt", "--unix", str(path), **more)
        with socket.socket(socket.AF_UNIX) as newcomer:
            newcomer.connect(str(path))
            until(lambda: second.metrics()["connections"] == 3)
        assert_talks(crowd, b"hello\n")


def test_a_state_that_does_not_fit_gives_the_clients_up(daemon: Start, tmp_path: Path) -> None:
    """A restart may change the mode: then it starts afresh, and nobody is left hanging."""
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", variables=store.variables)
        crowd = first.crowd(2)
        first.signal(signal.SIGUSR1)
        assert first.process.wait(20) == 0
        second = daemon("et", **store.passes_on())

        (given_up,) = second.events("stored sockets given up")
        assert "--mode was lt and is et now" in given_up["reason"]
        assert (given_up["peers"], given_up["sockets"]) == (2, 4), "two of them are its ports"
        crowd.until_end()
        until(lambda: not store.kept)
        assert second.crowd(1).clients[0].at_end is False


def test_without_a_manager_it_is_a_stop(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(2)
    running.signal(signal.SIGUSR1)
    crowd.until_end()

    assert running.stopped()["messages_abandoned"] == 0
    assert [bytes(client.inbox) for client in crowd.clients] == [GOODBYE] * 2
    (why,) = running.events("clients cannot stay over the restart")
    assert why["reason"] == "there is no service manager"


def assert_stopped(running: DaemonProcess, crowd: Crowd, store: Store, reason: str) -> None:
    """Check that a restart was a stop: everybody was told, and the manager has nothing of it."""
    crowd.until_end()
    assert running.stopped()["messages_abandoned"] == 0
    assert {bytes(client.inbox) for client in crowd.clients} == {GOODBYE}
    assert not any(client.was_reset for client in crowd.clients)
    (why,) = running.events("clients cannot stay over the restart")
    assert why["reason"] == reason
    assert not running.events("stored")
    until(lambda: not store.kept)


def rehearsing(daemon: Start, folder: Path, store: Store) -> tuple[DaemonProcess, Crowd, TextIO]:
    """Return a daemon that was told to restart, its clients, and what the next one reads."""
    options = folder / "options.toml"
    options.write_text("port = 0\nmode = 'et'\nmetrics_port = 0\n")
    first = daemon("et", "--config", str(options), ports=(), variables=store.variables)
    crowd = first.crowd(2)
    options.unlink()
    os.mkfifo(options)
    first.signal(signal.SIGUSR1)
    return first, crowd, when_read(options)


@pytest.mark.parametrize("is_good", [True, False])
def test_clients_are_left_to_a_process_that_can_start_and_to_no_other(
    daemon: Start, tmp_path: Path, *, is_good: bool
) -> None:
    """A wrong option is no reason for systemd to try again: it closes what it had stored."""
    with Store(tmp_path / "notify") as store:
        first, crowd, options = rehearsing(daemon, tmp_path, store)
        with options:
            crowd.clients += first.crowd(1).clients
            assert_talks(crowd, b"served as ever\n")
            options.write("port = 0\nmetrics_port = 0\n" + ("" if is_good else "max_prots = 9\n"))
        if is_good:
            assert first.process.wait(PATIENCE_SECONDS) == 0
            assert first.events("stored")[0]["peers"] == 3
            assert len(store.kept) == 1 + 5
            return
        crowd.until_end()
        (why,) = first.events("clients cannot stay over the restart")
        assert 'sets "max_prots", which is no option.' in why["reason"]
        assert first.stopped()["messages_abandoned"] == 0
        assert all(client.inbox.endswith(GOODBYE) for client in crowd.clients)
        assert not store.was_given


def test_a_stop_does_not_wait_for_the_rehearsal_of_a_restart(daemon: Start, tmp_path: Path) -> None:
    with Store(tmp_path / "notify") as store:
        first, crowd, options = rehearsing(daemon, tmp_path, store)
        with options:
            first.signal(signal.SIGTERM)
            assert_stopped(first, crowd, store, "it was stopped")


def test_a_stop_during_the_last_scrapes_of_a_restart_is_a_stop(
    daemon: Start, copy: Path, tmp_path: Path
) -> None:
    """The rehearsal has shown that there would be a next process; now there will be none."""
    with_long_scrapes(copy)
    with Store(tmp_path / "notify") as store:
        first = daemon("et", **of_copy(copy, **store.variables))
        crowd = first.crowd(2)
        with last_scrapes(first, signal.SIGUSR1):
            first.signal(signal.SIGTERM)
            assert_stopped(first, crowd, store, "it was stopped")
        assert not store.was_given


@contextmanager
def next_that_starts(
    daemon: Start, folder: Path, store: Store
) -> Iterator[tuple[DaemonProcess, Crowd, TextIO]]:
    """Yield a daemon to which two clients were left, the two, and the options that it waits for."""
    options = folder / "options.toml"
    options.write_text("port = 0\nmetrics_port = 0\n")
    first = daemon("lt", "--config", str(options), ports=(), variables=store.variables)
    crowd = first.crowd(2)
    leave(first)
    options.unlink()
    os.mkfifo(options)
    more = store.passes_on()
    second = daemon("lt", "--config", str(options), ports=(), wait=False, **more)
    with when_read(options) as slow:
        options.unlink()
        options.write_text("port = 0\nmetrics_port = 0\n")
        yield second, crowd, slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_stored_clients_are_taken_back_is_told_to_them(
    daemon: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """It ended at once and in silence, as if nobody had been promised anything."""
    with Store(tmp_path / "notify") as store:
        with next_that_starts(daemon, tmp_path, store) as (second, crowd, options):
            second.signal(number)
            until(lambda: number in pending(second) or second.process.poll() is not None)
            options.write("port = 0\nmetrics_port = 0\n")
        until(lambda: not store.kept)  # or the manager's copies would keep them open
        crowd.until_end()

        assert second.stopped()["messages_abandoned"] == 0
        assert {bytes(client.inbox) for client in crowd.clients} == {GOODBYE}
        assert second.events("took over")[0]["peers"] == 2


def test_a_restart_while_stored_clients_are_taken_back_leaves_them_once_more(
    daemon: Start, tmp_path: Path
) -> None:
    with Store(tmp_path / "notify") as store:
        with next_that_starts(daemon, tmp_path, store) as (second, crowd, options):
            second.signal(signal.SIGUSR1)
            until(lambda: signal.SIGUSR1 in pending(second) or second.process.poll() is not None)
            options.write("port = 0\nmetrics_port = 0\n")
        assert second.process.wait(PATIENCE_SECONDS) == 0
        assert second.events("stored")[0]["peers"] == 2
        third = daemon("lt", wait=False, **store.passes_on())
        until(lambda: third.events("took over"))
        assert_talks(crowd, b"still here\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("max_prots = 9\n", 2),
        ("max_line_bytes = 1\n", 2),
        ("metrics_tls_cert = '/dev/null'\n", 2),
        ("unix = '/nowhere/chat'\n", 1),  # it gives the clients up before it tries
    ],
)
def test_a_next_process_that_cannot_start_ends_though_signals_wait(
    daemon: Start, tmp_path: Path, line: str, status: int
) -> None:
    """Nobody releases them then."""
    with Store(tmp_path / "notify") as store:
        with next_that_starts(daemon, tmp_path, store) as (second, _, options):
            for number in SIGNALS:
                second.signal(number)
            options.write("port = 0\nmetrics_port = 0\n" + line)
        assert second.process.wait(PATIENCE_SECONDS) == status, second.output()
        assert second.output().splitlines()[-1].startswith("etltd: ")
        assert "Traceback" not in second.output()


def test_what_the_first_lines_know_by_heart_is_so() -> None:
    """They are read before anything that is slow to import."""
    assert set(SIGNALS) == set(succession.SIGNALS)
    assert STORED == fdstore.STATE


def test_a_next_process_that_hangs_is_not_waited_for_until_the_manager_kills(
    daemon: Start, copy: Path, tmp_path: Path
) -> None:
    change(copy, "daemon.py", "REHEARSAL_SECONDS = 10.0", "REHEARSAL_SECONDS = 1.5")
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", **of_copy(copy, **store.variables))
        crowd = first.crowd(2)
        change(copy, "cli.py", "import difflib", "import difflib\nimport time\ntime.sleep(3600)")
        first.signal(signal.SIGUSR1)
        assert_stopped(first, crowd, store, "the next process was not ready within 1.5 s")


@pytest.mark.parametrize("clients", [2, 3])
def test_as_many_clients_as_the_store_takes_are_kept_and_one_more_is_a_stop(
    daemon: Start, copy: Path, tmp_path: Path, clients: int
) -> None:
    change(copy, "fdstore.py", "MOST_SOCKETS = 2000", "MOST_SOCKETS = 4")  # two are its ports
    with Store(tmp_path / "notify") as store:
        first = daemon("et", **of_copy(copy, **store.variables))
        crowd = first.crowd(clients)
        if clients == 2:
            leave(first)
            assert len(store.kept) == 1 + 4
        else:
            first.signal(signal.SIGUSR1)
            reason = "5 sockets are more than 4; a reload keeps any number"
            assert_stopped(first, crowd, store, reason)
            assert not store.was_given


@pytest.mark.skipif(injection.refusal() is not None, reason=str(injection.refusal()))
@pytest.mark.parametrize("nth", ["1", "2", "4", "5"])
def test_a_manager_that_cannot_be_sent_everything_keeps_nothing(
    daemon: Start, copy: Path, tmp_path: Path, nth: str
) -> None:
    """The state, then five sockets by twos, then the question whether all was read.

    While the manager has a socket, a close of ours says nothing to its peer.
    """
    change(copy, "fdstore.py", "PER_MESSAGE = 250", "PER_MESSAGE = 2")
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", **of_copy(copy, **store.variables))
        crowd = first.crowd(3)
        with injection.failing(first.pid, "sendmsg", "ENOBUFS", tmp_path, when=nth) as failures:
            first.signal(signal.SIGUSR1)
            crowd.until_end()
            assert failures() == 1
        reason = "the manager does not take them: No buffer space available"
        assert_stopped(first, crowd, store, reason)
        assert bool(store.was_given) == (nth != "1")


def test_a_socket_that_was_not_kept_gives_the_others_up_too(daemon: Start, tmp_path: Path) -> None:
    """Half of the clients under their ids would be told apart by nobody."""
    with Store(tmp_path / "notify") as store:
        first = daemon("lt", variables=store.variables)
        crowd = first.crowd(2)
        first.signal(signal.SIGUSR1)
        assert first.process.wait(20) == 0
        _, fd = store.kept.pop()
        os.close(fd)
        second = daemon("lt", **store.passes_on())

        (given_up,) = second.events("stored sockets given up")
        assert given_up["reason"] == "the service manager has not kept every socket"
        crowd.until_end()
