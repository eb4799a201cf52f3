"""What a read that finds nothing takes: of 100 TCP sockets in turn, as a drained tick makes them.

Usage: python tests/bench/bench_empty_read.py
"""

from __future__ import annotations

import socket
import timeit
from contextlib import ExitStack, suppress

SOCKETS, ROUNDS, REPEATS = 100, 300, 7
RECV_BYTES = 65536


def main() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        accepted = []
        for _ in range(SOCKETS):
            stack.enter_context(socket.create_connection(listener.getsockname()))
            peer, _ = listener.accept()
            peer.setblocking(False)
            accepted.append(stack.enter_context(peer))

        def drained() -> None:
            for peer in accepted:
                with suppress(BlockingIOError):
                    peer.recv(RECV_BYTES)

        def guarded() -> None:
            for _ in accepted:
                with suppress(BlockingIOError):
                    pass

        with_reads, without = (
            min(timeit.repeat(each, number=ROUNDS, repeat=REPEATS)) for each in (drained, guarded)
        )
        print(f"{(with_reads - without) / ROUNDS / SOCKETS * 1e6:.1f} µs")


if __name__ == "__main__":
    main()
