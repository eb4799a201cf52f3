"""Phases of the daemon, in this process: what it says to whom, when, and what it leaves behind."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import resource
import signal
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import pytest

from etltd import fdstore, process, systemd
from etltd.bus.envelope import Identity, Parcel, pack
from etltd.config import Config
from etltd.daemon import LIVE_SECONDS, READY_SECONDS, Daemon
from etltd.listener import Listener, bind_tcp
from etltd.metrics import TlsFilesError
from etltd.ports import StartError
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FREE = {"port": 0, "metrics_port": 0, "log_format": "json"}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Give logger, name and limits back, and the tests' objects to the garbage collector."""
    logger = logging.getLogger("etltd")
    before = logger.handlers[:], logger.level, logger.propagate
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    gc.unfreeze()


@pytest.fixture
def make_daemon(mode: str) -> Iterator[Callable[..., Daemon]]:
    """Make daemons of this mode on free ports."""
    made: list[Daemon] = []

    def make(environment: dict[str, str] | None = None, **options: object) -> Daemon:
        config = replace(Config(), mode=mode, **{**FREE, **options})  # type: ignore[arg-type]
        made.append(Daemon(config, environment or {}))
        return made[-1]

    yield make
    for daemon in made:
        daemon.reactor.close()


class Script(threading.Thread):
    """Waits for the daemon to listen, plays a client's part, then stops the daemon."""

    def __init__(self, daemon: Daemon, play: Callable[[Script], None]) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._daemon = daemon
        self._play = play
        self._listening = threading.Event()
        self.error: BaseException | None = None
        daemon.log = self  # type: ignore[assignment]

    def info(self, event: str, **fields: object) -> None:
        self.events.append((event, dict(fields)))
        if event == "listening":
            self._listening.set()

    warning = info

    def run(self) -> None:
        if not self._listening.wait(20):
            return
        try:
            self._play(self)
        except BaseException as error:  # noqa: BLE001 - it fails in the main thread
            self.error = error
        finally:
            if all(name != "stopping" for name, _ in self.events):
                os.kill(os.getpid(), signal.SIGTERM)

    def fields(self, event: str) -> dict[str, Any]:
        return next(fields for name, fields in self.events if name == event)

    def dial(self, rcvbuf: int = 0) -> socket.socket:
        host, port = self.fields("listening")["chat"].rsplit(":", 1)
        sock = socket.socket()
        sock.settimeout(20)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.connect((host, int(port)))
        until(lambda: sock.getpeername() and self._daemon.reactor.stats.connections)
        return sock

    def get(self, path: str) -> tuple[int, str]:
        url = self.fields("listening")["metrics"].replace("/metrics", path)
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def play(daemon: Daemon, script: Callable[[Script], None]) -> Script:
    """Run *daemon* in this thread and *script* in another; return what was logged."""
    thread = Script(daemon, script)
    thread.start()
    daemon.run()
    thread.join()
    if thread.error is not None:
        raise thread.error
    return thread


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


# -- starting and stopping ------------------------------------------------------------------------


def test_a_life(make_daemon: Callable[..., Daemon]) -> None:
    heard: list[bytes] = []

    def script(it: Script) -> None:
        with it.dial() as anna, it.dial() as bert:
            anna.sendall(b"hello\n")
            heard.append(bert.recv(1000))
        assert it.get("/readyz") == (200, "ready\n")

    daemon = make_daemon()
    script_ = play(daemon, script)

    assert heard[0].endswith(b"] hello\n")
    assert [name for name, _ in script_.events] == ["listening", "stopping", "stopped"]
    listening = script_.fields("listening")
    assert "also" not in listening  # nowhere else
    assert listening["mode"] == daemon.config.mode
    assert listening["pid"] == os.getpid()
    assert script_.fields("stopping") == {"signal": "SIGTERM"}
    assert script_.fields("stopped") == {
        "messages_abandoned": 0,
        "bytes_abandoned": 0,
        "peers_behind": 0,
        "messages_received": 1,
        "messages_enqueued": 1,
        "messages_delivered": 1,
        "messages_dropped": 0,
    }


def test_a_stop_hands_over_all_that_has_arrived_then_says_goodbye(
    make_daemon: Callable[..., Daemon],
) -> None:
    heard: list[bytes] = []

    def script(it: Script) -> None:
        anna, bert = it.dial(), it.dial()
        anna.sendall(b"last words\n")
        os.kill(os.getpid(), signal.SIGTERM)
        heard.extend((read_all(anna), read_all(bert)))
        anna.close()
        bert.close()

    play(make_daemon(), script)

    assert heard[0] == b"[etltd] server is stopping\n"
    assert heard[1].endswith(b"] last words\n[etltd] server is stopping\n")


def dialled(daemon: Daemon, count: int) -> list[socket.socket]:
    """Return clients of a daemon that does not run, taken in by its reactor."""
    listener = bind_tcp("127.0.0.1", 0, 16)
    daemon.reactor.listen(listener)
    address = listener.sock.getsockname()
    peers = [socket.create_connection(address, timeout=20) for _ in range(count)]
    until(lambda: daemon.reactor.tick(0) is not None and len(daemon.reactor.connections) == count)
    return peers


def test_a_stop_reads_what_a_bounded_turn_put_off(make_daemon: Callable[..., Daemon]) -> None:
    """Under edge-triggered, a tick without events may still have left something unread."""
    daemon = make_daemon(recv_bytes=16, reads_per_event=2)
    lines = b"".join(b"line %d\n" % i for i in range(500))  # the last input has a moment only
    peers = dialled(daemon, 2)
    peers[0].sendall(lines)
    daemon._signals.append(signal.SIGTERM)

    daemon._stop()

    assert daemon.reactor.stats.received_bytes == len(lines)
    assert daemon.reactor.stats.messages_delivered == 500
    assert read_all(peers[1]).endswith(b"] line 499\n[etltd] server is stopping\n")
    for peer in peers:
        peer.close()


def test_a_stop_gives_everybody_a_turn_whose_turn_was_put_off(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others say may fill the moment that a stop has for input."""
    monkeypatch.setattr("etltd.daemon.LAST_READ_SECONDS", 1e-6)
    daemon = make_daemon()
    daemon.reactor._most_batch_bytes = 64
    peers = dialled(daemon, 9)
    for peer in peers:
        peer.sendall(b"x" * 99 + b"\n")
    daemon.reactor.tick(1)
    daemon._signals.append(signal.SIGTERM)

    daemon._stop()

    assert daemon.reactor.stats.messages_received == len(peers)
    for peer in peers:
        assert read_all(peer).count(b"\n") == len(peers)
        peer.close()


def test_a_stop_does_not_wait_for_a_flood_to_end(make_daemon: Callable[..., Daemon]) -> None:
    """A peer that never stops talking would keep the daemon alive for ever."""

    def script(it: Script) -> None:
        with it.dial() as anna, it.dial() as bert:
            bert.close()
            stop = threading.Event()

            def flood() -> None:
                try:
                    while not stop.is_set():
                        anna.send(b"flood\n" * 1000)
                except OSError:
                    return

            flooding = threading.Thread(target=flood)
            flooding.start()
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: any(name == "stopped" for name, _ in it.events))
            stop.set()
            flooding.join()

    play(make_daemon(grace_seconds=20.0), script)


def fill(it: Script, talker: socket.socket) -> None:
    """Talk until a peer that does not read is behind for good, far beyond what its kernel takes."""
    stats = it._daemon.reactor.stats
    while not stats.messages_dropped["slow_consumer"]:
        talker.sendall(b"x" * 8000 + b"\n")


def test_a_stop_gives_up_a_stuck_peer_after_the_grace_and_says_what_it_abandoned(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(grace_seconds=0.1, sndbuf=4096)

    def script(it: Script) -> None:
        with it.dial() as anna, it.dial(rcvbuf=4096):
            fill(it, anna)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: any(name == "stopped" for name, _ in it.events))

    stopped = play(daemon, script).fields("stopped")

    assert stopped["peers_behind"] == 1
    assert stopped["messages_abandoned"] > 0
    assert stopped["bytes_abandoned"] > 0
    stats = daemon.reactor.stats
    assert stats.messages_dropped["shutdown"] == stopped["messages_abandoned"]
    assert stats.messages_enqueued == stats.messages_delivered + sum(
        stats.messages_dropped.values()
    )


def test_a_second_signal_skips_the_wait_for_a_stuck_peer(
    make_daemon: Callable[..., Daemon],
) -> None:
    began = 0

    def script(it: Script) -> None:
        nonlocal began
        with it.dial() as anna, it.dial(rcvbuf=4096):
            fill(it, anna)
            began = monotonic_ns()
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: any(name == "stopping" for name, _ in it.events))
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: any(name == "stopped" for name, _ in it.events))

    play(make_daemon(grace_seconds=600.0, sndbuf=4096), script)

    assert monotonic_ns() - began < 20e9


def from_elsewhere(daemon: Daemon, line: bytes) -> int:
    """Have *line* wait where the bus's thread puts what comes; return who tells the loop of it."""
    assert daemon._bus is not None
    data = pack(Identity("b", 1), 0, Parcel(0, 1, line, 0))
    daemon._bus._link.member_ns = monotonic_ns()
    assert daemon._bus._incoming.put(data, len(data))
    return daemon._bus.fd


NOWHERE = {"bus": "nats://127.0.0.1:1", "bus_instance": "a"}


def test_what_came_over_the_bus_is_heard_before_the_goodbye(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other instance has counted it as said, and nobody would count it as lost."""
    monkeypatch.setattr("etltd.daemon.LAST_READ_SECONDS", 0)
    daemon = make_daemon(**NOWHERE)
    heard = b""

    def script(it: Script) -> None:
        nonlocal heard
        with it.dial() as anna:
            fd = from_elsewhere(daemon, b"[USER1@b] hello\n")
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: not daemon.reactor.is_accepting)
            os.eventfd_write(fd, 1)
            heard = read_all(anna)

    stopped = play(daemon, script).fields("stopped")

    assert heard.startswith(b"[USER1@b] hello\n[etltd] ")
    assert stopped["bus_messages_unheard"] == stopped["bus_messages_unsent"] == 0


def test_what_came_over_the_bus_and_is_not_heard_is_counted(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(grace_seconds=0.1, **NOWHERE)

    def script(it: Script) -> None:
        with it.dial():
            from_elsewhere(daemon, b"[USER1@b] hello\n")
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: any(name == "stopped" for name, _ in it.events))

    assert play(daemon, script).fields("stopped")["bus_messages_unheard"] == 1


def test_an_address_in_use_is_a_start_error_and_leaves_nothing_behind(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """A Unix socket left in the file system makes clients wait for nobody."""
    taken = bind_tcp("127.0.0.1", 0, 1)
    port = taken.sock.getsockname()[1]
    path = tmp_path / "chat.sock"
    handlers = signal.getsignal(signal.SIGTERM)

    with pytest.raises(StartError, match=f"cannot listen on .*--metrics-port {port}: Address"):
        make_daemon(unix=path, metrics_port=port).run()

    assert not path.exists()
    assert signal.getsignal(signal.SIGTERM) is handlers
    taken.close()


@pytest.mark.parametrize("place", ["a file", "a missing folder"])
def test_a_unix_path_that_cannot_be_used_is_a_start_error(
    make_daemon: Callable[..., Daemon], tmp_path: Path, place: str
) -> None:
    path = tmp_path / "file"
    path.write_text("")
    if place == "a missing folder":
        path = tmp_path / "missing" / "chat.sock"

    with pytest.raises(StartError, match=f"cannot listen on --unix {path}: "):
        make_daemon(unix=path).run()


def test_unusable_tls_files_are_noticed_before_anything_listens(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM")

    with pytest.raises(TlsFilesError):
        make_daemon(metrics_tls_cert=wrong, metrics_tls_key=wrong)


# -- limits ---------------------------------------------------------------------------------------


def test_more_connections_than_descriptors_are_not_promised(
    make_daemon: Callable[..., Daemon], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the reserve, the last peers would take the scrape's and the log's descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    daemon = make_daemon(max_connections=hard)

    assert daemon._max_connections == hard - 64
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["event"]) == ("warning", "max_connections lowered")
    assert make_daemon(max_connections=10)._max_connections == 10
    assert make_daemon()._max_connections == hard - 64


def test_too_few_descriptors_for_any_peer_is_a_start_error(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start, and refuse everybody."""
    monkeypatch.setattr(process, "raise_descriptor_limit", lambda: 64)

    with pytest.raises(StartError, match=r"a limit of 64 descriptors .* leaves none for peers"):
        make_daemon()


# -- readiness ------------------------------------------------------------------------------------


def test_readiness_names_what_is_wrong(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    assert daemon.readiness() == "not accepting: stopping, or out of descriptors"
    listener = bind_tcp("127.0.0.1", 0, 1)
    daemon.reactor.listen(listener)
    assert daemon.readiness() is None

    daemon.reactor._pause(listener)
    assert daemon.readiness() == "not accepting: stopping, or out of descriptors"

    daemon.reactor.ticked_ns = monotonic_ns() - round((READY_SECONDS + 2) * 1e9)
    assert daemon.readiness() == "the loop has not ticked for 7.0 s"


def test_a_loop_that_is_stuck_is_not_ready_and_then_not_alive(
    make_daemon: Callable[..., Daemon],
) -> None:
    """A load balancer would go on sending clients to a daemon that hangs."""
    daemon = make_daemon({"WATCHDOG_USEC": "100000"})  # chores every 50 ms
    answers: list[tuple[int, str]] = []

    def script(it: Script) -> None:
        stuck, go_on = threading.Event(), threading.Event()

        def hang() -> None:
            stuck.set()
            assert go_on.wait(20)

        daemon.reactor.do_chores = lambda _: hang()  # type: ignore[method-assign,assignment]
        assert stuck.wait(20)
        daemon.reactor.ticked_ns = monotonic_ns() - round((READY_SECONDS + 1) * 1e9)
        answers.extend((it.get("/readyz"), it.get("/healthz")))
        daemon.reactor.ticked_ns = monotonic_ns() - round((LIVE_SECONDS + 1) * 1e9)
        answers.append(it.get("/healthz"))
        del daemon.reactor.do_chores
        go_on.set()
        until(lambda: it.get("/readyz")[0] == 200)

    play(daemon, script)

    (not_ready, why), alive, (not_alive, why_not) = answers
    assert (not_ready, alive, not_alive) == (503, (200, "ok\n"), 503)
    assert re.fullmatch(r"the loop has not ticked for \d+\.\d s\n", why)
    assert re.fullmatch(r"the loop has not ticked for 3\d\.\d s\n", why_not)


# -- the service manager --------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


def test_the_manager_hears_ready_status_and_stopping(
    make_daemon: Callable[..., Daemon], manager: socket.socket
) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    heard = []

    def script(it: Script) -> None:
        heard.append(manager.recv(1000).decode())
        host, port = it.fields("listening")["chat"].split(":")
        with socket.create_connection((host, int(port))):
            while not any("STATUS=1 peers" in line for line in heard):
                heard.append(manager.recv(1000).decode())
        os.kill(os.getpid(), signal.SIGTERM)
        while not heard[-1].startswith("STOPPING"):
            heard.append(manager.recv(1000).decode())

    play(make_daemon(environment), script)

    assert heard[0].startswith("READY=1\nSTATUS=Serving on 127.0.0.1:")
    assert heard[0].endswith(f"MAINPID={os.getpid()}")
    assert any(line.startswith("WATCHDOG=1") for line in heard)
    assert heard[-1] == "STOPPING=1\nSTATUS=Stopping"


def test_the_watchdog_is_fed_in_time_although_events_cut_ticks_short(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick of full length after one cut short would feed it a whole interval late."""
    daemon = make_daemon({"WATCHDOG_USEC": "2000000"})
    assert daemon._period_seconds == 1.0
    timeouts = []

    def tick(timeout: float) -> int:
        timeouts.append(timeout)
        daemon._signals.append(signal.SIGTERM)
        return 1

    monkeypatch.setattr(daemon.reactor, "tick", tick)
    daemon._chores_due_ns = monotonic_ns() + 300_000_000

    daemon._serve()

    assert 0 < timeouts[0] <= 0.3


def test_overdue_chores_do_not_make_the_timeout_negative(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative timeout means for ever to epoll_wait(2)."""
    daemon = make_daemon()
    timeouts = []

    def tick(timeout: float) -> int:
        timeouts.append(timeout)
        daemon._signals.append(signal.SIGTERM)
        return 0

    monkeypatch.setattr(daemon.reactor, "tick", tick)
    daemon._chores_due_ns = monotonic_ns() - 1

    daemon._serve()

    assert timeouts == [0.0]


# -- sockets passed in ----------------------------------------------------------------------------


def passed(monkeypatch: pytest.MonkeyPatch, **sockets: list[socket.socket]) -> dict[str, str]:
    """Let the daemon find *sockets* as if a manager had passed them."""
    monkeypatch.setattr(systemd, "listening_sockets", lambda *_, **__: sockets)
    return {}


def test_passed_sockets_are_used_instead_of_ports(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chat = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    scrape = socket.create_server(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in (*chat, scrape)]
    passed(monkeypatch, chat=chat[:1], unknown=chat[1:], metrics=[scrape])
    early = socket.create_connection(("127.0.0.1", ports[1]))

    def script(it: Script) -> None:
        listening = it.fields("listening")
        assert listening["chat"] == f"127.0.0.1:{ports[0]}"
        assert listening["also"] == f"127.0.0.1:{ports[1]}"
        assert listening["metrics"] == f"http://127.0.0.1:{ports[2]}/metrics"
        with it.dial() as anna:
            anna.sendall(b"hello\n")
            assert early.recv(100).endswith(b"] hello\n")
        assert it.get("/healthz") == (200, "ok\n")

    unix = tmp_path / "not-made.sock"
    play(make_daemon(port=1, metrics_port=1, unix=unix), script)

    assert not unix.exists()
    early.close()


@pytest.mark.parametrize("name", ["chat", "metrics"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["dgram", "stream"])
def test_a_passed_socket_that_does_not_listen_is_a_start_error(
    make_daemon: Callable[..., Daemon],
    monkeypatch: pytest.MonkeyPatch,
    kind: socket.SocketKind,
    name: str,
) -> None:
    """A connected one (Accept=yes by mistake) would make the loop spin."""
    with socket.socket(socket.AF_INET, kind) as sock:
        passed(monkeypatch, **{name: [sock]})

        with pytest.raises(StartError, match="of LISTEN_FDS: it does not listen"):
            make_daemon().run()


def test_more_clients_than_the_store_takes_are_told_and_disconnected(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The manager would keep some of them, and take long about it."""
    monkeypatch.setattr(fdstore, "MOST_SOCKETS", 3)  # two ports and one client
    heard: list[bytes] = []

    def script(it: Script) -> None:
        with it.dial() as anna, it.dial() as bert:
            until(lambda: it._daemon.reactor.stats.connections == 2)
            os.kill(os.getpid(), signal.SIGUSR1)
            heard.extend((read_all(anna), read_all(bert)))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        daemon = make_daemon({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        said = play(daemon, script).fields("clients cannot stay over the restart")

    assert said["reason"] == "4 sockets are more than 3; a reload keeps any number"
    assert heard == [b"[etltd] server is stopping\n"] * 2


def test_what_an_operator_should_hear_of_is_logged_once_and_summed_up(
    make_daemon: Callable[..., Daemon], capfd: pytest.CaptureFixture[str]
) -> None:
    """An accept pause would show in a counter only; a line per eviction would flood the log."""
    daemon = make_daemon()
    stats = daemon.reactor.stats
    stats.connections_rejected["no_descriptors"] += 1
    stats.connections_closed["slow_consumer"] += 23

    daemon._report_incidents()
    daemon._report_incidents()

    (line,) = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["event"] == "incidents"
    assert (said["pauses_of_accepting"], said["evicted_slow_consumers"]) == (1, 23)
    assert "closed_as_idle" not in said


def test_passed_descriptors_that_are_not_there_are_a_start_error(
    make_daemon: Callable[..., Daemon],
) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "60000"}

    with pytest.raises(StartError, match="cannot listen on the sockets of LISTEN_FDS: "):
        make_daemon(environment)


def test_a_unix_socket_stands_beside_tcp(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    path = tmp_path / "chat.sock"

    def script(it: Script) -> None:
        assert it.fields("listening")["also"] == str(path)
        with it.dial() as anna, socket.socket(socket.AF_UNIX) as bert:
            bert.connect(str(path))
            until(lambda: it._daemon.reactor.stats.connections == 2)
            anna.sendall(b"hello\n")
            assert bert.recv(100) == b"[USER1] hello\n"

    play(make_daemon(unix=path), script)

    assert not path.exists()


def test_a_bug_in_the_loop_still_closes_everything(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon()
    closed = []
    monkeypatch.setattr(daemon.reactor, "tick", lambda _: 1 // 0)
    close = Listener.close

    def note(listener: Listener) -> None:
        closed.append(listener)
        close(listener)

    monkeypatch.setattr(Listener, "close", note)

    with pytest.raises(ZeroDivisionError):
        daemon.run()

    assert len(closed) == 1
