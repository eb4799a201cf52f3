"""Hold many idle connections in a process of their own: ``idlers.py HOST PORT COUNT LINES``.

Prints ``connected`` when all are, then ``heard`` when each has received LINES whole lines.
"""

from __future__ import annotations

import resource
import select
import socket
import sys

host, port, count, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
epoll = select.epoll()
sockets = {}
for _ in range(count):
    sock = socket.create_connection((host, port), timeout=60)
    epoll.register(sock, select.EPOLLIN)
    sockets[sock.fileno()] = sock
print("connected", flush=True)  # noqa: T201 - its way to answer
heard = dict.fromkeys(sockets, b"")
waiting = set(sockets)
while waiting:
    for fd, _ in epoll.poll():
        data = sockets[fd].recv(65536)
        if not data:
            sys.exit(f"an idle connection was closed after {heard[fd]!r}")
        heard[fd] += data
        if heard[fd].count(b"\n") == lines and heard[fd].endswith(b"\n"):
            waiting.discard(fd)
streams = {b"".join(sorted(stream.splitlines(keepends=True))) for stream in heard.values()}
print("heard", len(streams), streams.pop().decode(), flush=True)  # noqa: T201
sys.stdin.read()  # until the test is done
