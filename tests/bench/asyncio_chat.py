"""The chat server most people would write with asyncio: one write per message and recipient.

Usage: asyncio_chat.py asyncio|uvloop; prints its port. Same wire as the daemon, bounded queues left
out, because asyncio has none: what a slow peer is owed grows without bound.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import cast

peers: set[Peer] = set()
ids = itertools.count(1)


class Peer(asyncio.Protocol):
    """A client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one only in behaviour
        self.prefix = b"[USER%d] " % next(ids)
        self.tail = b""
        peers.add(self)

    def data_received(self, data: bytes) -> None:
        *lines, self.tail = (self.tail + data).split(b"\n")
        for line in lines:
            message = self.prefix + line + b"\n"
            for peer in peers:
                if peer is not self:
                    peer.transport.write(message)

    def connection_lost(self, _error: Exception | None) -> None:
        peers.discard(self)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
