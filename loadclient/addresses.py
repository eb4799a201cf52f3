"""A name may have several addresses, and a server need not listen at the first of them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TRY_SECONDS = 2.0  # for one address; where packets vanish, the next one's turn comes


def first_answering(addresses: Sequence[str], port: int) -> str:
    """Return the first address where somebody listens on *port*, or the first one if none does.

    An only address is not tried: it would be one more connection in the server's books.
    """
    if len(addresses) > 1:
        for address in addresses:
            try:
                socket.create_connection((address, port), TRY_SECONDS).close()
            except OSError:
                continue
            return address
    return addresses[0]
