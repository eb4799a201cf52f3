"""A small broadcast server that can be told to misbehave; the load client must notice.

Run it with the name of a fault. It prints its port and, on a second line, that of its counters,
then serves until it is killed. It is slow, simple and independent of the daemon: what it does right
is the wire of the chat, and what it does wrong is one thing at a time. Its counters are true. When
the last client has left, it begins anew: a load that is run again meets the same fault.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from time import monotonic, sleep

EVERY = 40  # messages from one misdeed to the next
VICTIM = 2  # the client that suffers from the faults that hit only one
SLOW_SECONDS = 0.005  # for each message: 200 a second
LATE_SECONDS = 2.5  # longer than the client takes for a sign that nothing more will come
ESCAPES = "\x1b]0;mine\x07\x1b[2J\x9b31m\x7f\r\u202e"  # a title, no screen, red, and backwards
LINGER_ABORT = struct.pack("ii", 1, 0)
ASKING_SECONDS = 5
COUNTERS = """HTTP/1.0 200 OK

# TYPE etltd_messages_received_total counter
etltd_messages_received_total{mode="et"} %d
# TYPE etltd_outbox_bytes gauge
etltd_outbox_bytes{mode="et"} %d
"""


class Client:
    """A connection and the bytes it is owed."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.inbox = b""
        self.outbox = bytearray()


class Server:
    """Broadcasts lines, with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.begin()
        self.total = 0
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        if fault == "slow":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)
        self.counters = socket.create_server(("127.0.0.1", 0))
        self.selector.register(self.counters, selectors.EVENT_READ)
        for each in (listener, self.counters):
            sys.stdout.write(f"{each.getsockname()[1]}\n")
        sys.stdout.flush()

    def begin(self) -> None:
        self.held: tuple[Client, bytes] | None = None
        self.late: list[tuple[float, Client, bytes]] = []
        self.messages = 0  # since then; all of them count in the total
        self.accepted = 0

    def serve(self) -> None:
        while True:
            for key, mask in self.selector.select(0.02 if self.late else None):
                if key.fileobj is self.counters:
                    self.count()
                    continue
                if key.data is None:
                    self.accept(key.fileobj)
                    continue
                if mask & selectors.EVENT_READ:
                    self.read(key.data)
                if mask & selectors.EVENT_WRITE:
                    self.flush(key.data)
            while self.late and self.late[0][0] <= monotonic():
                _, sender, frame = self.late.pop(0)
                self.broadcast(sender, frame)

    def count(self) -> None:
        """Answer one scrape."""
        sock, _ = self.counters.accept()
        with sock:
            sock.settimeout(ASKING_SECONDS)
            sock.recv(65536)
            owed = sum(len(client.outbox) for client in self.clients)
            text = COUNTERS % (self.total, owed)
            if self.fault == "escapes":
                text = text.replace('"et"', f'"et{ESCAPES}"')
            sock.sendall(text.encode())

    def accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        self.accepted += 1
        if self.fault == "never-reads":
            self.clients.append(Client(sock, self.accepted))  # kept open, never looked at
            return
        if self.fault in {"full", "escapes"} and self.accepted > 2:
            words = ESCAPES if self.fault == "escapes" else ""
            sock.send(f"[etltd] {words}too many connections\n".encode())
            sock.close()
            return
        client = Client(sock, self.accepted)
        self.clients.append(client)
        self.selector.register(sock, selectors.EVENT_READ, client)

    def read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client)
            return
        if self.fault == "mute":
            return
        *lines, client.inbox = (client.inbox + data).split(b"\n")
        for line in lines:
            self.misbehave(client, b"[USER%d] %s\n" % (client.number, line))

    def misbehave(self, sender: Client, frame: bytes) -> None:
        if b"HELLO" in frame:
            self.greet(sender, frame)
            return
        self.messages += 1
        self.total += 1
        if self.fault == "slow":
            sleep(SLOW_SECONDS)
        guilty = self.messages % EVERY == 0
        fault = self.fault
        if fault == "reorder":
            self.reorder(sender, frame, guilty=guilty)
        elif self.is_late(frame):
            self.late.append((monotonic() + LATE_SECONDS, sender, frame))
        elif fault == "reset" and self.messages == EVERY:
            victim = self.clients[VICTIM]
            victim.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)
            self.drop(victim)
        elif fault == "tear" and (guilty or self.held):
            self.tear(sender, frame)
        elif guilty and fault == "rate-limit":
            self.tell(sender, b"[etltd] rate limited, 1 messages dropped\n")
        elif guilty and fault == "stop-reading":
            self.selector.unregister(sender.sock)
        else:
            self.broadcast(sender, self.disguised(sender, frame), guilty=guilty)

    def greet(self, sender: Client, frame: bytes) -> None:
        if self.fault == "refuse-hello":
            self.tell(sender, b"[etltd] line too long, discarded\n")
        else:
            self.broadcast(sender, frame)

    def tell(self, client: Client, notice: bytes) -> None:
        client.outbox += notice
        self.flush(client)

    def tear(self, sender: Client, frame: bytes) -> None:
        """Put the next frame into the middle of this one."""
        if self.held is None:
            self.held = (sender, frame)
            return
        (_, torn), self.held = self.held, None
        self.broadcast(sender, torn[:20] + frame + torn[20:])

    def disguised(self, sender: Client, frame: bytes) -> bytes:
        """Return what everybody gets in place of *frame*."""
        start = frame.index(b"] ") + 2
        if self.fault == "swap" and sender.number % 4 in {
            1,
            2,
        }:  # of every four: a run may be repeated
            other = sender.number + (1 if sender.number % 4 == 1 else -1)
            return b"[USER%d] %s" % (other, frame[start:])
        if self.fault == "blank-unmarked" and frame[start : start + 1] != b"e":
            return frame[:start] + b"." * (len(frame) - start - 1) + b"\n"
        return frame

    def is_late(self, frame: bytes) -> bool:
        """Tell whether this message is to be held: the last ones, one alone, or all unmarked."""
        return (
            (self.fault == "late-end" and self.messages > 150)
            or (self.fault == "late-once" and self.messages == EVERY)
            or (self.fault == "late-unmarked" and b"] e" not in frame)
        )

    def reorder(self, sender: Client, frame: bytes, *, guilty: bool) -> None:
        """Hold one message back until the next of the same sender has gone out."""
        held = self.held
        if held is None and guilty:
            self.held = (sender, frame)
            return
        self.broadcast(sender, frame)
        if held is not None and held[0] is sender:
            self.held = None
            self.broadcast(sender, held[1])

    def broadcast(self, sender: Client, frame: bytes, *, guilty: bool = False) -> None:
        for index, client in enumerate(self.clients):
            if client is sender:
                continue
            copies = frame
            if guilty and index == VICTIM:
                copies = self.damaged(frame)
            elif guilty and self.fault == "compensate" and index == VICTIM + 1:
                copies = b""
            client.outbox += copies
            self.flush(client)

    def damaged(self, frame: bytes) -> bytes:
        """Return what the victim gets in place of *frame*."""
        return {
            "drop": b"",
            "announce": b"[etltd] 1 messages dropped\n",
            "duplicate": frame * 2,
            "flip": frame[:-3] + b"#.\n",
            "chatter": frame + b"[etltd] sorry, wrong number\n" + b"Welcome back\n",
            "impostor": frame.replace(b"[USER", b"[RESU"),
        }.get(self.fault, frame)

    def flush(self, client: Client) -> None:
        try:
            del client.outbox[: client.sock.send(client.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(client)
            return
        if client.sock.fileno() in self.selector.get_map():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outbox else 0)
            self.selector.modify(client.sock, events, client)

    def drop(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
            if client.sock.fileno() in self.selector.get_map():
                self.selector.unregister(client.sock)
            client.sock.close()
            if not self.clients:
                self.begin()


if __name__ == "__main__":
    Server(sys.argv[1]).serve()
