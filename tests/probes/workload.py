"""A server that counts itself: every number below is known before the kernel is asked.

Talks by lines: "hello"; reads "a" (the probe is attached); arms itself by one epoll_wait and says
"armed"; reads "g"; works; prints its own counts as JSON; reads until the end of input.
Outcomes are classed by the thread's own count of voluntary switches, which getrusage(2) gives.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

MODE, ROUNDS, IS_SOLO = sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["solo"]
EDGE = select.EPOLLET if MODE == "et" else 0
PAIRS = 17
EMPTY_POLLS, TIMED_POLLS, ALARMS, BAD_POLLS, PING_PONGS = 101, 53, 7, 3, 211
MODS, DELS, DUPLICATE_ADDS = 13, 11, 5
ACCEPTS = 19
THREADS, THREAD_ROUNDS, SECOND_LOOP_POLLS = 3, 1009, 997
BIG = 307  # a wait that returns this many events fills a high slot

counts: Counter[str] = Counter()
lock = threading.Lock()


class Alarm(Exception):  # noqa: N818
    """Ends a wait from a signal handler."""


def raise_alarm(*_: object) -> None:
    raise Alarm


def switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def wait(epoll: select.epoll, timeout: float, most: int = -1) -> list[tuple[int, int]]:
    before = switches()
    events = epoll.poll(timeout, most)
    slept = switches() > before
    outcome = ("wakeup" if slept else "ready") if events else ("timeout" if slept else "empty")
    counts[outcome] += 1
    counts["epoll_wait"] += 1
    if events:
        counts["events"] += len(events)
        counts[f"slot {len(events).bit_length()}"] += 1
    return events


def add(epoll: select.epoll, sock: socket.socket, mask: int = select.EPOLLIN) -> None:
    epoll.register(sock, mask | EDGE)
    counts["add"] += 1


def send(sock: socket.socket, data: bytes) -> None:
    counts["sendto"] += 1
    counts["sendto bytes"] += sock.send(data)


def drain(sock: socket.socket) -> None:
    """Read once (LT) or until EAGAIN (ET), 64 bytes a time."""
    while True:
        counts["recvfrom"] += 1
        try:
            counts["recvfrom bytes"] += len(sock.recv(64))
        except BlockingIOError:
            counts["recvfrom EAGAIN"] += 1
            return
        if MODE == "lt":
            return


def pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def fan(epoll: select.epoll, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """Send to some, wait, drain; in LT until no more is reported."""
    readers = {far.fileno(): far for _, far in pairs}
    for turn in range(ROUNDS):
        for near, _ in pairs[: turn % PAIRS + 1]:
            send(near, b"x" * (1 + turn % 97))
        for fd, _ in wait(epoll, -1):
            drain(readers[fd])
        while MODE == "lt" and (events := wait(epoll, 0)):
            for fd, _ in events:
                drain(readers[fd])


def control(epoll: select.epoll, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    for turn in range(MODS):
        epoll.modify(pairs[turn][1], select.EPOLLIN | select.EPOLLRDHUP | EDGE)
        counts["mod"] += 1
    for _ in range(DUPLICATE_ADDS):
        try:
            add(epoll, pairs[0][1])
        except FileExistsError:
            counts["add"] += 1
            counts["epoll_ctl EEXIST"] += 1
    for turn in range(DELS):
        epoll.unregister(pairs[turn][1])
        counts["del"] += 1


def outcomes(epoll: select.epoll, peer: socket.socket) -> None:
    for _ in range(EMPTY_POLLS):
        wait(epoll, 0)
    for _ in range(TIMED_POLLS):
        wait(epoll, 0.001)
    add(epoll, peer)
    for _ in range(PING_PONGS):
        send(peer, b"p")
        wait(epoll, -1)
        drain(peer)
    signal.signal(signal.SIGALRM, raise_alarm)
    for _ in range(ALARMS):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            epoll.poll(30)
        except Alarm:
            counts["interrupted"] += 1
            counts["epoll_wait"] += 1
            counts["epoll_wait EINTR"] += 1
    for _ in range(BAD_POLLS):
        try:
            with select.epoll.fromfd(os.dup(0)) as not_epoll:
                not_epoll.poll(0)
        except OSError:
            counts["close"] += 1
            counts["failed"] += 1
            counts["epoll_wait"] += 1
            counts["epoll_wait EINVAL"] += 1


def accept_and_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for _ in range(ACCEPTS):
            client = socket.socket()
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            counts["sendmsg"] += 1
            counts["sendmsg bytes"] += server.sendmsg([b"abc", b"de"])
            client.close()
            server.close()
            counts["accept4"] += 1
            counts["close"] += 2
        try:
            listener.accept()
        except BlockingIOError:
            counts["accept4"] += 1
            counts["accept4 EAGAIN"] += 1
    counts["close"] += 1


def fill(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    try:
        while True:
            send(pairs[0][0], b"y" * 4096)
    except BlockingIOError:
        counts["sendto EAGAIN"] += 1


def many_at_once() -> None:
    with select.epoll() as epoll:
        pairs = [pair() for _ in range(BIG)]
        for near, far in pairs:
            add(epoll, far)
            send(near, b"z")
        wait(epoll, -1, BIG)
        for ends in pairs:
            for end in ends:
                end.close()
                counts["close"] += 1
    counts["close"] += 1


def busy_thread() -> None:
    """Do I/O but never epoll: not a loop thread."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for _ in range(THREAD_ROUNDS):
        os.write(writer, b"ab")
        os.read(reader, 10)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 1)
    with lock:
        counts["other write"] += THREAD_ROUNDS
        counts["other read"] += 2 * THREAD_ROUNDS
        counts["other read EAGAIN"] += THREAD_ROUNDS


def second_loop() -> None:
    """Be a loop thread besides the main one: poll without sleeping, half the time with an event."""
    with select.epoll() as epoll:
        near, far = pair()
        epoll.poll(0)  # from here on this thread counts
        epoll.register(far, select.EPOLLIN)
        for _ in range(SECOND_LOOP_POLLS):
            near.send(b"q")
            epoll.poll(0)
            far.recv(64)
            epoll.poll(0)
    with lock:
        counts["epoll_wait"] += 2 * SECOND_LOOP_POLLS + 1
        counts["ready"] += SECOND_LOOP_POLLS
        counts["events"] += SECOND_LOOP_POLLS
        counts["slot 1"] += SECOND_LOOP_POLLS
        counts["empty"] += SECOND_LOOP_POLLS + 1
        counts["add"] += 1
        counts["close"] += 1
        for call in ("sendto", "recvfrom"):
            counts[call] += SECOND_LOOP_POLLS
            counts[f"{call} bytes"] += SECOND_LOOP_POLLS
    ends.extend((near, far))  # closed by nobody: a close by the collector would not be counted


def run_threads() -> None:
    threads = [threading.Thread(target=busy_thread) for _ in range(THREADS)]
    threads.append(threading.Thread(target=second_loop))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ends: list[socket.socket] = []


def echo(sock: socket.socket) -> None:
    """Be the other process of the ping-pong; answer late, so that the wait has to sleep."""
    while data := sock.recv(1):
        select.select([], [], [], 0.0005)
        sock.send(data)
    os._exit(0)


def main() -> None:
    Path("/proc/self/comm").write_text(f"selfcount-{MODE}")
    peer, far = socket.socketpair()
    if os.fork() == 0:
        peer.close()
        os.close(0)
        echo(far)
    far.close()
    peer.setblocking(False)
    epoll = select.epoll()
    os.write(1, b"hello\n")
    os.read(0, 1)
    epoll.poll(0)
    os.write(1, b"armed\n")
    os.read(0, 1)
    counts["read"] += 1
    pairs = [pair() for _ in range(PAIRS)]
    for _, reader in pairs:
        add(epoll, reader)
    fan(epoll, pairs)
    control(epoll, pairs)
    outcomes(epoll, peer)
    accept_and_close()
    fill(pairs)
    many_at_once()
    if not IS_SOLO:
        run_threads()
    counts["write"] += 1
    os.write(1, json.dumps(counts).encode() + b"\n")
    while os.read(0, 1):
        pass


if __name__ == "__main__":
    main()
