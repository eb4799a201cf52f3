"""What a service manager is told, if there is one that asked: sd_notify(3)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def tell(environment: Mapping[str, str], *lines: str) -> OSError | None:
    """Send the assignments *lines* (``READY=1``) to NOTIFY_SOCKET; return what went wrong."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # A leading @ stands for the NUL of an abstract address.
            name = "\0" + address[1:] if address.startswith("@") else address
            sock.sendto("\n".join(lines).encode(), name)
    except OSError as error:
        return error
    return None
