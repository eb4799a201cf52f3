"""What waits in the kernel on the server's side of our connections.

An acknowledged byte is not a processed one: the server's kernel acknowledges what the server never
reads. On one host `/proc/net/tcp` shows those bytes; across hosts or network namespaces it cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def unread_at_server(server_port: int, client_ports: Collection[int]) -> int | None:
    """Return the bytes that the server has not read; None if its sockets cannot be seen here."""
    total = 0
    seen = False
    for table in TABLES:
        if table.exists():
            rows = queued(table.read_text(), server_port, client_ports)
            seen = seen or bool(rows)
            total += sum(rows)
    return total if seen else None


def queued(table: str, server_port: int, client_ports: Collection[int]) -> list[int]:
    """Return the receive queue of each of the server's sockets that faces one of *client_ports*."""
    wanted = set(client_ports)
    found = []
    for row in table.splitlines()[1:]:
        _, local, remote, _, queues, *_ = row.split()
        if _port(local) == server_port and _port(remote) in wanted:
            found.append(int(queues.partition(":")[2], 16))
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
