"""Exit 0 if this container's own HTTP port answers 200: ``healthcheck.py VARIABLE PORT PATH``.

For HEALTHCHECK. The port is the environment's VARIABLE, else PORT. A bare socket, because importing
an HTTP client would take longer than everything else here, every few seconds.
"""

import os
import socket
import sys

PATIENCE_SECONDS = 4


def main(variable: str, default: str, path: str) -> str | None:
    """Return what is wrong, or None."""
    port = os.environ.get(variable, default)
    try:
        with socket.create_connection(("127.0.0.1", int(port)), PATIENCE_SECONDS) as server:
            server.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = server.makefile("rb").read()  # all of it: hanging up early is an error there
    except (OSError, ValueError) as error:
        return f"port {port}: {error}"
    status = answer.partition(b"\r\n")[0]
    return None if b" 200 " in status else f"port {port}, {path}: {status.decode(errors='replace')}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
