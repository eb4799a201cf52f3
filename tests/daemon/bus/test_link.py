"""The link's thread against a real server: what it does when the loop does not keep up."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from etltd.bus import link
from etltd.bus.backoff import FIRST_SECONDS, Backoff
from etltd.bus.buffer import Buffer
from etltd.bus.envelope import LEAST_PAYLOAD_BYTES, Identity, Parcel, unpack
from etltd.bus.link import Link
from etltd.bus.settings import Settings
from etltd.bus.stats import BusStats
from etltd.config import Config
from tests.certificates import make_certificates
from tests.system.nats import NatsServer, needs_nats
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg

pytestmark = needs_nats


class Instance:
    """A link and its two buffers, without a loop."""

    def __init__(
        self,
        url: str,
        incarnation: int,
        incoming_bytes: int = 1 << 20,
        kind: type[Settings] = Settings,
        **options: object,
    ) -> None:
        self.stats = BusStats()
        self.outgoing: Buffer[Parcel] = Buffer(1 << 20)
        self.incoming: Buffer[bytes] = Buffer(incoming_bytes)
        config = replace(Config(), **{"bus": url, **options})  # type: ignore[arg-type]
        settings = kind(config, {"ETLTD_BUS_TOKEN": "geheim"})
        me = Identity(f"i{incarnation}", incarnation)
        self.link = Link(settings, me, self.stats, self.outgoing, self.incoming)
        self.link.start()

    def say(self, first: int, *lines: bytes) -> None:
        self.outgoing.put(Parcel(first, len(lines), b"".join(lines), 0), 0)
        self.link.wake()

    def close(self) -> None:
        self.link.finish()
        self.link.join(PATIENCE_SECONDS)
        assert not self.link.is_alive()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


def test_what_the_loop_does_not_take_is_bounded_and_counted(nats: NatsServer) -> None:
    """A loop that hangs would else fill the memory with what the others say."""
    talker, hung = Instance(nats.url, 1), Instance(nats.url, 2, incoming_bytes=3000)
    until(lambda: talker.stats.bus_connected and hung.stats.bus_connected)

    for number in range(100):
        talker.say(number, b"[USER1] " + b"x" * 91 + b"\n")
    until(lambda: hung.stats.bus_dropped_messages["incoming_full"] >= 80)
    talker.say(100, b"[USER1] that was all\n")
    until(lambda: talker.stats.bus_published_messages == 101)
    talker.close()
    hung.close()

    kept = 0
    while (data := hung.incoming.take()) is not None:
        kept += unpack(data).parcel.messages
    assert kept + hung.stats.bus_dropped_messages["incoming_full"] == 101


class HastyServer:
    """It speaks before it confirms that one is subscribed, as NATS may; the word waits for us."""

    def __init__(self, payload: bytes) -> None:
        self.confirms = threading.Event()
        self._payload = payload
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, sock.makefile("rb") as lines:
            sock.sendall(b'INFO {"max_payload":1048576}\r\n')
            is_subscribed = False
            for line in lines:
                verb, *words = line.split()
                if verb == b"SUB":
                    is_subscribed = True
                    head = b"MSG %s %s %d\r\n" % (words[0], words[-1], len(self._payload))
                    sock.sendall(head + self._payload + b"\r\n")
                elif verb == b"PING":
                    if is_subscribed:
                        self.confirms.wait(PATIENCE_SECONDS)
                    sock.sendall(b"PONG\r\n")

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE_SECONDS)


def test_nobody_is_judged_before_it_is_known_since_when_we_listen() -> None:
    """All that an old instance ever said would be announced as lost: it would pass for younger."""
    server = HastyServer(b"said by an old one")
    newcomer = Instance(server.url, 1)
    fd = newcomer.link.heard_fd
    until(lambda: newcomer.incoming.held_bytes)

    assert not select.select([fd], [], [], 0)[0]
    assert newcomer.link.member_ns == 0
    server.confirms.set()
    assert select.select([fd], [], [], PATIENCE_SECONDS)[0]
    assert newcomer.link.member_ns
    newcomer.close()
    server.close()


class Server:
    """Speaks NATS to whoever comes, one after the other; says *info*, and keeps what it hears."""

    def __init__(self, info: bytes = b"{}") -> None:
        self.heard: list[bytes] = []
        self.met = 0
        self.answers = True
        self._info = info
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = self._listener.accept()
                self.met += 1
                with contextlib.suppress(ConnectionError), sock, sock.makefile("rb") as lines:
                    sock.sendall(b"INFO " + self._info + b"\r\n")
                    for line in lines:
                        self._hear(line, sock)

    def _hear(self, line: bytes, sock: socket.socket) -> None:
        self.heard.append(line)
        if line == b"PING\r\n" and self.answers:
            sock.sendall(b"PONG\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def refused() -> Iterator[Callable[..., Instance]]:
    """Return an instance that has tried again, after a server refused whom it was to hear of."""
    with contextlib.ExitStack() as stack:

        def refused(server: Server, scheme: str = "nats", **options: object) -> Instance:
            stack.callback(server.close)
            found = Instance(f"{scheme}://{server.address}", 1, **options)  # type: ignore[arg-type]
            stack.callback(found.close)
            until(lambda: server.met >= 2)
            return found

        yield refused


@pytest.mark.parametrize("asked", ["by the address", "by an option"])
def test_a_server_that_offers_no_tls_hears_no_secret(
    tmp_path: Path, refused: Callable[..., Instance], asked: str
) -> None:
    """nats-py would send the token in the clear to whoever is on the path and says INFO first."""
    server = Server()
    if asked == "by the address":
        alone = refused(server, "tls")
    else:
        alone = refused(server, bus_tls_ca=make_certificates(tmp_path).ca)

    assert server.heard == []
    assert not alone.stats.bus_connected
    assert "no connection to NATS: the server offers no TLS" in (alone.link.problem or "")


@pytest.mark.parametrize("most_bytes", [LEAST_PAYLOAD_BYTES - 1, 20])
def test_a_server_that_takes_too_little_is_refused(
    refused: Callable[..., Instance], most_bytes: int
) -> None:
    """It would end the connection each second, or have the thread cut parts for ever."""
    server = Server(b'{"max_payload":%d}' % most_bytes)

    alone = refused(server)

    assert server.heard == []
    assert f"max_payload is {most_bytes} bytes, and the least" in (alone.link.problem or "")


class Abrupt(Server):
    """Ends each connection in the middle of what is published."""

    def _hear(self, line: bytes, sock: socket.socket) -> None:
        super()._hear(line, sock)
        if line.startswith(b"PUB"):
            raise ConnectionAbortedError


class Noted(Backoff):
    """Keeps how long it had others wait."""

    waits: ClassVar[list[float]] = []

    def next_seconds(self) -> float:
        self.waits.append(super().next_seconds())
        return self.waits[-1]


def test_a_connection_that_held_and_ends_in_mid_publish_is_made_anew_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who talks most would be away longest: up to five seconds after hours of a good connection."""
    monkeypatch.setattr(link, "Backoff", Noted)
    monkeypatch.setattr(link, "SETTLED_SECONDS", 0)
    monkeypatch.setattr(link, "FLUSH_SECONDS", 0.3)  # or nats-py waits longer for what has ended
    server = Abrupt(b'{"max_payload":2000}')
    talker = Instance(f"nats://{server.address}", 1)
    talker.say(0, *[b"[USER1] " + b"x" * 1000 + b"\n"] * 8000)  # more than sockets hold

    until(lambda: server.met >= 4)

    assert max(Noted.waits) <= FIRST_SECONDS
    talker.close()
    server.close()


def test_what_cannot_be_said_at_the_end_is_counted(nats: NatsServer) -> None:
    nats.kill()
    alone = Instance(nats.url, 1)
    until(lambda: alone.stats.bus_connect_failures)
    alone.say(0, b"one\n", b"two\n")

    assert alone.link.unsent() == 2
    alone.close()

    assert alone.link.unsent() == 2
    assert alone.stats.bus_dropped_messages["unsent"] == 2
    assert alone.link.problem is not None
    assert "no connection to NATS" in alone.link.problem


def test_what_the_server_has_not_confirmed_at_the_end_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over a link that died without a word the kernel takes it, and nobody would ever know."""
    server = Server()
    talker = Instance(f"nats://{server.address}", 1)
    talker.say(0, b"[USER1] one\n", b"[USER1] two\n")
    until(lambda: talker.stats.bus_published_messages == 2 and not talker.link.unsent())
    server.answers = False

    talker.say(2, b"[USER1] three\n", b"[USER1] four\n", b"[USER1] five\n")
    until(lambda: talker.stats.bus_published_messages == 5)

    assert talker.link.unsent() == 3
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.1)
    talker.close()
    assert talker.link.unsent() == talker.stats.bus_dropped_messages["unsent"] == 3
    server.close()


def test_much_that_is_said_is_confirmed_together() -> None:
    """A round trip for each would cost more than what is said."""
    server = Server()
    talker = Instance(f"nats://{server.address}", 1)
    until(lambda: talker.stats.bus_connected)
    for number in range(500):
        talker.say(number, b"[USER1] x\n")

    until(lambda: talker.stats.bus_published_messages == 500)
    talker.say(500, b"[USER1] that was all\n")
    until(lambda: not talker.link.unsent())

    assert server.heard.count(b"PING\r\n") < 50
    talker.close()
    server.close()


def test_what_went_down_with_the_last_connection_is_counted() -> None:
    server = Abrupt()
    talker = Instance(f"nats://{server.address}", 1)
    until(lambda: talker.stats.bus_connected)
    server.close()  # to others; it goes on with whom it has met

    talker.say(0, b"[USER1] one\n")
    until(lambda: talker.stats.bus_connect_failures)
    talker.close()

    assert talker.link.unsent() == 1


def test_what_comes_once_it_leaves_is_taken_in_no_more() -> None:
    """The loop delivers what has come before it says goodbye: others who talk on would hold it."""
    leaver = Instance("nats://127.0.0.1:1", 1)
    word = cast("Msg", SimpleNamespace(data=b"a word"))
    asyncio.run(leaver.link._on_message(word))
    held = leaver.incoming.held_bytes
    leaver.close()

    asyncio.run(leaver.link._on_message(word))

    assert leaver.incoming.held_bytes == held > 0


class Broken(Settings):
    """Settings with a fault of ours in them, as long as it lasts."""

    lasts = True

    def credentials(self) -> dict[str, Any]:
        if self.lasts:
            raise ZeroDivisionError
        return super().credentials()


def test_a_fault_of_ours_is_told_and_tried_again(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The thread would be gone for the life of the process, and nobody would hear anybody."""
    failed = Instance(nats.url, 1, kind=Broken)
    until(lambda: "has failed" in (failed.link.problem or ""))
    monkeypatch.setattr(Broken, "lasts", False)

    until(lambda: failed.link.problem is None)

    failed.close()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_what_cannot_be_packed_is_given_up_and_the_rest_is_said(nats: NatsServer) -> None:
    """Tried again for ever, it would keep everything behind it."""
    a, b = Instance(nats.url, 1), Instance(nats.url, 2)
    until(lambda: a.stats.bus_connected and b.stats.bus_connected)
    a.say(-1, b"[USER1] a number that no envelope holds\n")
    a.say(7, b"[USER1] fine\n")

    until(lambda: b.incoming.held_bytes)

    assert a.stats.bus_dropped_messages["unsent"] == 1
    a.close()
    b.close()
