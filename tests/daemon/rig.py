"""A reactor on real loopback sockets, ticked by hand; no threads, no sleeps."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

from etltd import snapshot
from etltd.config import Config
from etltd.handover import State, decode, encode
from etltd.listener import Listener, bind_tcp
from etltd.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from etltd.connection import Connection

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PATIENCE_S = 10


class Peer:
    """A client of the reactor."""

    def __init__(self, sock: socket.socket, conn: Connection) -> None:
        self.sock = sock
        self.conn = conn  # the reactor's side of it
        self.inbox = b""
        self.said = 0
        self.finished = False
        self.at_end = False
        sock.setblocking(False)

    @property
    def user(self) -> bytes:
        return b"[USER%d] " % self.conn.id

    def say(self, data: bytes) -> None:
        sent = self.sock.send(data)
        assert sent == len(data), "the test said more than the kernel takes"
        self.said += sent

    def hear(self) -> bytes:
        """Read what has arrived; return all that ever did."""
        while not self.at_end:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.inbox += data
            self.at_end = not data
        return self.inbox

    def finish(self) -> None:
        self.finished = True
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()
        self.at_end = True


class Rig:
    """A reactor and its peers."""

    def __init__(self, mode: str, **options: object) -> None:
        self.config = replace(Config(), mode=mode, **options)  # type: ignore[arg-type]
        self.reactor = Reactor(self.config, self.config.max_connections or 1000)
        self.stats = self.reactor.stats
        self.listener: Listener = bind_tcp("127.0.0.1", 0, 128)
        self.listener.set_buffers(self.config.sndbuf, self.config.rcvbuf)
        self.listener.ask_after(self.config.peer_timeout)
        self.reactor.listen(self.listener)
        self.peers: list[Peer] = []
        self.spare: list[socket.socket] = []

    def tick(self, timeout: float = 0.05) -> int:
        return self.reactor.tick(timeout)

    def tick_until(self, predicate: Callable[[], object], max_ticks: int = 0) -> None:
        """Tick until *predicate* holds; fail after *max_ticks*, or PATIENCE_S where none are given.

        Of those: a tick with something to do does not wait, and where the kernel is slow to bring
        what is awaited thousands of them pass in no time.
        """
        began, before = time.monotonic(), dict(self.stats.epoll_events)
        for ticks in itertools.count():
            if predicate():
                return
            lasted = time.monotonic() - began
            if ticks >= max_ticks if max_ticks else lasted >= PATIENCE_S:
                break
            self.tick()
        events = {kind: n - before[kind] for kind, n in self.stats.epoll_events.items()}
        raise AssertionError(f"not so after {ticks} ticks, {lasted:.1f} s and {events}")

    def settle(self) -> None:
        """Tick until all that was said has been read, and all that was sent has been heard."""
        self.tick_until(lambda: self.stats.received_bytes == sum(p.said for p in self.peers))
        self.tick_until(lambda: all(p.conn.ended for p in self.peers if p.finished))
        self.tick_until(
            lambda: (
                self.stats.sent_bytes == sum(len(p.hear()) for p in self.peers)
                and not self.stats.outbox_bytes
            )
        )

    def hand_over(self, **options: object) -> None:
        """Let another reactor go on with everybody, by what a daemon hands to its successor."""
        old = self.reactor
        state = State({}, [], snapshot.peers(old), old.roster.next_id, old.stats.saved(), 0)
        state = decode(BytesIO(b"".join(encode(state))))
        for conn in old.connections.values():
            conn.sock.detach()  # as execve(2) does: it keeps the descriptor and nothing else
        old._epoll.close()
        self.config = replace(self.config, **options)  # type: ignore[arg-type]
        self.reactor = Reactor(self.config, self.config.max_connections or 1000)
        self.stats = self.reactor.stats
        self.stats.resume(state.counters)
        snapshot.resume(self.reactor, state)
        self.reactor.listen(self.listener)
        resumed = {conn.id: conn for conn in self.reactor.connections.values()}
        for peer in self.peers:
            peer.conn = resumed.get(peer.conn.id, peer.conn)

    def connect(self, rcvbuf: int = 0) -> socket.socket:
        sock = socket.socket()
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.connect(self.listener.sock.getsockname())
        self.spare.append(sock)
        return sock

    def dial(self, rcvbuf: int = 0) -> Peer:
        """Connect a peer and let the reactor take it in."""
        before = self.stats.connections_accepted
        sock = self.connect(rcvbuf)
        self.tick_until(lambda: self.stats.connections_accepted > before)
        newest = max(self.reactor.connections.values(), key=lambda conn: conn.id)
        peer = Peer(sock, newest)
        self.peers.append(peer)
        return peer

    def dial_many(self, count: int) -> list[Peer]:
        return [self.dial() for _ in range(count)]

    def fill(self, slow: Peer, talker: Peer, line: bytes = b"x" * 1023 + b"\n") -> int:
        """Let *talker* speak until *slow*, which does not read, is owed bytes; return the lines."""
        lines = 0
        while slow.conn.outbox is None:
            talker.say(line)
            lines += 1
            self.tick_until(lambda: self.stats.messages_received >= lines)
            assert lines < 100_000, "the kernel took it all"
        return lines

    def assert_ledger(self) -> None:
        stats = self.stats
        dropped = sum(stats.messages_dropped.values())
        assert stats.messages_enqueued == stats.messages_delivered + dropped + stats.outbox_messages
        outboxes = [c.outbox for c in self.reactor.connections.values() if c.outbox is not None]
        assert stats.outbox_messages == sum(outbox.messages for outbox in outboxes)
        assert stats.outbox_bytes == sum(outbox.size for outbox in outboxes)
        assert stats.outbox_connections == len(outboxes)
        assert sum(stats.epoll_events.values()) == stats.wakeup_events.total

    def close(self) -> None:
        self.assert_ledger()
        self.reactor.close()
        for sock in self.spare:
            sock.close()
