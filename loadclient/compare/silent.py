"""A server that accepts everybody and never reads: the negative control of the original's score.

    python -m loadclient.compare.silent

It prints the port it took on 127.0.0.1 and goes on until it is ended. Whatever a measure gives to
this server is not earned by reading, framing or delivering anything.
"""

from __future__ import annotations

import socket

BACKLOG = 1024


def serve() -> None:
    """Accept for ever; keep the connections, or they would be closed."""
    kept = []
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - its whole interface
        while True:
            kept.append(listener.accept()[0])


if __name__ == "__main__":
    serve()
