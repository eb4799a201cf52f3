"""Between a reactor and what is handed over: peers into words, and words into peers.

Between two ticks nobody is condemned, no event is half handled and no batch half delivered: what is
taken then is whole. The revisit list is not in it, and need not be. Registering a socket with a new
epoll reports whatever can be done on it at once, edge-triggered or not (epoll(7)): so bytes that a
bounded turn left unread, a hang-up that was reported before, and room for bytes that are owed are
all reported again.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from etltd import wire
from etltd.connection import Connection
from etltd.handover import Bucket, Peer, UnfitError
from etltd.listener import ask_after
from etltd.outbox import Outbox
from etltd.ratelimit import TokenBucket

if TYPE_CHECKING:
    from etltd.config import Config
    from etltd.handover import Port, State
    from etltd.reactor import Reactor


def inode(fd: int) -> int:
    """Return what tells the socket *fd* from every other, in any process."""
    return os.fstat(fd).st_ino


def peers(reactor: Reactor) -> list[Peer]:
    """Return every peer of *reactor*, between two ticks."""
    return [_peer(conn) for conn in reactor.connections.values()]


def _peer(conn: Connection) -> Peer:
    tail, discarding = conn.decoder.saved()
    return Peer(
        fd=conn.fd,
        inode=inode(conn.fd),
        id=conn.id,
        ip=conn.ip,
        heard_ns=conn.heard_ns,
        wants_read=conn.wants_read,
        ended=conn.ended,
        hung_up=conn.hung_up,
        withheld=conn.withheld,
        discarding=discarding,
        bucket=Bucket(*conn.bucket.saved()) if conn.bucket is not None else None,
        tail=tail,
        owed=conn.outbox.pieces() if conn.outbox is not None else [],
    )


def resume(reactor: Reactor, state: State) -> None:
    """Let *reactor* go on with the peers of *state*.

    Raises:
        UnfitError: a socket is not there.
    """
    reactor.roster.next_id = state.next_id
    for peer in state.peers:
        conn = _connection(peer, reactor.config)
        reactor.roster.adopt(conn)
        reactor.watch(conn)
        if conn.bucket is None and peer.bucket is not None and peer.bucket.refused:
            # There is no limit any more, and so nobody who would tell it later.
            reactor.delivery.notify(conn, wire.rate_limited(peer.bucket.refused))


def _connection(peer: Peer, config: Config) -> Connection:
    """Return the connection that *peer* was, by the rules of this *config*."""
    sock = taken(peer)
    sock.setblocking(False)
    ask_after(sock, config.peer_timeout)
    conn = Connection(sock, peer.id, peer.ip, config.max_line_bytes, peer.heard_ns)
    conn.decoder.resume(peer.tail, discarding=peer.discarding)
    conn.wants_read = peer.wants_read
    conn.ended = peer.ended
    conn.hung_up = peer.hung_up
    conn.withheld = peer.withheld
    if config.rate_limit:
        conn.bucket = TokenBucket(config.rate_limit, peer.heard_ns)
        if peer.bucket is not None:
            conn.bucket.resume(peer.bucket.tokens, peer.bucket.filled_ns, peer.bucket.refused)
    if peer.owed:
        conn.outbox = Outbox()
        conn.outbox.resume(peer.owed)
    return conn


def taken(one: Peer | Port) -> socket.socket:
    """Return the socket that was handed over, which no child of ours inherits.

    Raises:
        UnfitError: it is another one, or none.
    """
    try:
        found = inode(one.fd)
    except OSError as error:
        raise UnfitError(f"descriptor {one.fd} was not handed over: {error.strerror}") from None
    if found != one.inode:
        raise UnfitError(f"descriptor {one.fd} is not the socket that was handed over")
    os.set_inheritable(one.fd, False)
    return socket.socket(fileno=one.fd)
