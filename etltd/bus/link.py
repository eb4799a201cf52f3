"""The thread that speaks NATS: takes what the loop has to say, puts what it hears.

The only importer of nats-py. It does not let the library reconnect: each connection begins with
nothing, and what was lost with the last one shows as a gap in the numbers. A parcel whose publish
failed is published again; if it had arrived after all, the receivers know its number and drop it.

To publish is to hand over to nats-py: it may fill the kernel's buffers over a link that is dead.
What the server has confirmed since then, by a PONG, either came or shows as a gap. Of what it has
not confirmed when there is to be no more, nobody but us can know: that is counted as unsent.

Its event loop polls by poll(2): the daemon's one epoll instance is the reactor's, and whoever
counts the waits of a process (the kernel's witness does) counts the reactor's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import threading
import traceback
from time import monotonic_ns
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from etltd.bus import envelope
from etltd.bus.backoff import Backoff
from etltd.bus.settings import SettingsError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from etltd.bus.buffer import Buffer
    from etltd.bus.envelope import Identity, Parcel
    from etltd.bus.settings import Settings
    from etltd.bus.stats import BusStats

CONNECT_SECONDS = 3
PING_SECONDS = 2  # a link that died without a word is given up after two of these unanswered
UNANSWERED_PINGS = 2
PENDING_BYTES = 1 << 18  # what nats-py may hold; then a publish waits for the socket
FLUSH_SECONDS = 2.0
CONFIRM_SECONDS = 0.5  # at most so often the server is asked what has come, while there is talk
STALE_SECONDS = PING_SECONDS * (UNANSWERED_PINGS + 2)  # nats-py has given the connection up by then
SETTLED_SECONDS = 10.0  # a connection that held for so long has worked

FAILURES = (
    *(OSError, nats.errors.Error, asyncio.TimeoutError, SettingsError, ValueError),
    ImportError,  # nats-py imports nkeys when it signs
)


class RefusedError(nats.errors.Error):
    """The server is not one to speak to; the message says why."""


class WaryClient(Client):
    """Looks at a server before it says a word: nats-py itself would take what it is offered."""

    def _connect_command(self) -> bytes:
        """Return nats-py's first words, which hold the secrets.

        Raises:
            RefusedError: TLS is wanted, and the server (or who poses as it) has offered none; or
                it would end every connection for what we say each second.
        """
        if self.options.get("tls") and not self._is_encrypted():
            raise RefusedError("the server offers no TLS, and tls:// or --bus-tls-* ask for it")
        if self.max_payload < envelope.LEAST_PAYLOAD_BYTES:
            raise RefusedError(
                f"the server's max_payload is {self.max_payload} bytes, and the least that the bus "
                f"can do with is {envelope.LEAST_PAYLOAD_BYTES}"
            )
        return super()._connect_command()

    def _is_encrypted(self) -> bool:
        """Ask the socket, not the server's INFO, whose word is what is not to be trusted."""
        writer = self._transport._io_writer if isinstance(self._transport, TcpTransport) else None  # noqa: SLF001 - nats-py does not tell
        return writer is not None and writer.get_extra_info("ssl_object") is not None


async def all_is_there(client: Client, seconds: float) -> None:
    """Return when the server has taken what was sent.

    nats-py's PING overtakes what waits in its buffer. That is written while the first one is under
    way; the second one follows it.
    """
    for _ in range(2):
        await client.flush(seconds)  # type: ignore[arg-type]  # it says int and takes any number


class Link(threading.Thread):
    """Connects, again and again; publishes and listens while connected."""

    def __init__(
        self,
        settings: Settings,
        me: Identity,
        stats: BusStats,
        outgoing: Buffer[Parcel],
        incoming: Buffer[bytes],
    ) -> None:
        super().__init__(name="etltd-bus", daemon=True)
        self.problem: str | None = "not connected yet"
        self.member_ns = 0  # when we were first known to be subscribed, by the monotonic clock
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # for this thread
        self.heard_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # for the loop
        self._settings = settings
        self._me = me
        self._stats = stats
        self._outgoing = outgoing
        self._incoming = incoming
        self._began_ns = monotonic_ns()
        self._connected_ns = 0
        self._held: Parcel | None = None  # taken, and not yet published
        self._handed = 0  # messages published
        self._confirmed = 0  # how many of them the server had when we last knew
        self._error: Exception | None = None  # what nats-py has said of this connection
        self._is_finishing = False

    # -- called by the loop ----------------------------------------------------------------------

    def wake(self) -> None:
        """Say that there is something to publish."""
        os.eventfd_write(self.wake_fd, 1)

    def finish(self) -> None:
        """Publish what is waiting, if connected, take in no more, and end."""
        self._is_finishing = True
        self.wake()

    def unsent(self) -> int:
        """Return how many messages were given up, wait, or are not known to have reached NATS.

        After `finish` and its time it is for ever.
        """
        held = self._held
        waiting = sum(parcel.messages for parcel in self._outgoing)
        waiting += held.messages if held is not None else 0
        waiting += self._handed - self._confirmed
        return self._stats.bus_dropped_messages["unsent"] + waiting

    # -- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `finish`."""

        def by_poll() -> asyncio.AbstractEventLoop:
            return asyncio.SelectorEventLoop(selectors.PollSelector())

        try:
            with asyncio.Runner(loop_factory=by_poll) as runner:
                runner.run(self._serve())
        finally:
            self._stats.bus_connected = 0
            if not self._is_finishing:  # a fault of ours: nobody must take the bus for well
                self.problem = "the bus's thread has ended; its traceback is in the log"

    async def _serve(self) -> None:
        self._awake = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.wake_fd, self._on_wake)
        backoff = Backoff(random.random)  # no secret
        while not self._is_finishing:
            client, self._error = WaryClient(), None
            try:
                await asyncio.wait_for(self._connect(client), CONNECT_SECONDS)
                await self._exchange(client)
                self.problem = f"the connection to NATS was lost: {self._error or 'closed'}"
            except FAILURES as error:
                self._stats.bus_connect_failures += not self._stats.bus_connected
                reason = str(self._error or error) or type(error).__name__
                self.problem = f"no connection to NATS: {reason}"
            except Exception as error:  # noqa: BLE001 - a fault of ours, and the next try may go well
                traceback.print_exc()
                self.problem = (
                    f"the bus's thread has failed, see the traceback in the log: {error!r}"
                )
                self._give_up_what_is_held()  # it may be the cause
            if self._has_settled():  # however it ended
                backoff.reset()
            self._stats.bus_connected = 0
            with contextlib.suppress(Exception):  # whatever state it is in, we are done with it
                await asyncio.wait_for(client.close(), FLUSH_SECONDS)
            await self._pause(backoff.next_seconds())
        self._give_up_the_rest()

    def _has_settled(self) -> bool:
        held_ns = monotonic_ns() - self._connected_ns
        return bool(self._stats.bus_connected) and held_ns > SETTLED_SECONDS * 1e9

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)
        self._awake.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for the end of the wait if there is nothing to wait for any more."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._is_finishing:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._awake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._awake.wait(), left)

    async def _connect(self, client: Client) -> None:
        """Return when connected and subscribed: from then on what others say is owed to us."""
        config = self._settings.config
        await client.connect(
            self._settings.servers,
            name=f"etltd {self._me.name}",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # and to try its servers for ever is no reconnecting to it
            reconnect_time_wait=0,
            connect_timeout=CONNECT_SECONDS,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=UNANSWERED_PINGS,
            no_echo=True,
            pending_size=PENDING_BYTES,
            flush_timeout=FLUSH_SECONDS,
            closed_cb=self._on_closed,
            error_cb=self._on_error,
            **self._settings.credentials(),
        )
        await client.subscribe(
            config.bus_subject, cb=self._on_message, pending_bytes_limit=config.bus_buffer_bytes
        )
        await all_is_there(client, FLUSH_SECONDS)
        stats = self._stats
        stats.bus_reconnects += bool(stats.bus_connects)
        stats.bus_connects += 1
        stats.bus_connected = 1
        self._connected_ns = monotonic_ns()
        if not self.member_ns:
            self.member_ns = monotonic_ns()
            os.eventfd_write(self.heard_fd, 1)  # what came before can be judged now
        self.problem = None

    async def _on_closed(self) -> None:
        self._awake.set()

    async def _on_error(self, error: Exception) -> None:
        """Keep it as the reason: what it costs shows as a gap, or as a connection that ends."""
        self._error = error

    async def _exchange(self, client: Client) -> None:
        """Publish parcels as they come, until the connection ends or there is to be no more."""
        confirming: asyncio.Task[None] | None = None
        while not client.is_closed:
            self._awake.clear()
            self._held = self._held or self._outgoing.take()
            if self._held is not None:
                self._handed += await self._publish(client, self._held)
                self._held = None
                is_asked = confirming is not None and not confirming.done()
                if self._handed > self._confirmed and not is_asked:
                    confirming = asyncio.create_task(self._confirm_soon(client))
                await asyncio.sleep(0)  # others may have said something meanwhile
            elif self._is_finishing:
                await self._confirm(client, CONNECT_SECONDS)
                return
            else:
                await self._awake.wait()

    async def _confirm_soon(self, client: Client) -> None:
        """Confirm what was published until then: once for much, and no round trip for each.

        What follows meanwhile waits for the next publish, which is the next sign of life.
        """
        await asyncio.sleep(CONFIRM_SECONDS)
        with contextlib.suppress(*FAILURES):  # then the connection ends, and who serves it knows
            await self._confirm(client, STALE_SECONDS)

    async def _confirm(self, client: Client, seconds: float) -> None:
        """Take note of what the server has: whoever misses any of it learns so by its number.

        To be called if something was published on this connection; then that holds for what was
        published on earlier ones, too.
        """
        handed = self._handed
        await all_is_there(client, seconds)
        self._confirmed = max(self._confirmed, handed)

    async def _publish(self, client: Client, parcel: Parcel) -> int:
        """Publish *parcel*; return how many messages of it: not those that never fit."""
        stats = self._stats
        most_bytes = client.max_payload - envelope.MOST_HEAD_BYTES
        left_out = parcel.messages
        for part in envelope.parts(parcel, most_bytes):
            data = envelope.pack(self._me, monotonic_ns() - self._began_ns, part)
            await client.publish(self._settings.config.bus_subject, data)
            stats.bus_published_bytes += len(data)
            stats.bus_published_batches += bool(part.messages)
            stats.bus_published_messages += part.messages
            left_out -= part.messages
        stats.bus_dropped_messages["too_large"] += left_out
        return parcel.messages - left_out

    async def _on_message(self, message: Msg) -> None:
        """Keep it; the loop hears of it once it can tell who is older than our membership.

        The server's messages may come before its word that we are subscribed.
        """
        data = message.data
        if self._is_finishing:
            return  # who would hear it is leaving
        if not self._incoming.put(data, len(data)):
            self._stats.bus_dropped_messages["incoming_full"] += envelope.messages_in(data)
        elif self.member_ns:
            os.eventfd_write(self.heard_fd, 1)

    def _give_up_the_rest(self) -> None:
        self._give_up_what_is_held()
        unconfirmed, self._confirmed = self._handed - self._confirmed, self._handed
        self._stats.bus_dropped_messages["unsent"] += unconfirmed
        while (parcel := self._outgoing.take()) is not None:
            self._stats.bus_dropped_messages["unsent"] += parcel.messages

    def _give_up_what_is_held(self) -> None:
        parcel, self._held = self._held, None
        self._stats.bus_dropped_messages["unsent"] += parcel.messages if parcel else 0
