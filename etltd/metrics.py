"""The scrape endpoint: ``/metrics``, ``/healthz``, ``/readyz``.

It reads the loop's ints from a thread of its own and never touches the loop. Whoever can reach the
port can cost at most `MOST_CLIENTS` threads: a client that says nothing gives way to the next one,
and a TLS handshake happens in its own client's thread, so that a stalled one stalls nobody.
"""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import socket
import ssl
import sys
import threading
import time
from dataclasses import fields
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from etltd import exposition, process
from etltd.exposition import OPENMETRICS_TYPE, TEXT_TYPE, Family, Page, wants_openmetrics
from etltd.listener import OUT_OF_DESCRIPTORS, address_of
from etltd.stats import Log2Histogram
from etltd.version import commit, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from etltd.bus.bridge import Bridge
    from etltd.bus.stats import BusStats
    from etltd.config import Config
    from etltd.stats import LoopStats

MOST_CLIENTS = 8  # scrapes and health checks at one time; a scrape takes one millisecond
CLIENT_SECONDS = 5.0  # of silence before a client is given up
ACCEPT_PAUSE_SECONDS = 0.25  # how long to leave the backlog alone when descriptors ran out

CONTROLS = ("drain", "recv_bytes", "max_events", "fan_out", "listener", "sndbuf", "rcvbuf")
LIMITS = (
    *("max_line_bytes", "high_water_bytes", "slow_consumer", "rate_limit", "idle_timeout"),
    *("peer_timeout", "sanitize", "max_connections_per_ip", "backlog"),
)


class LoopCollector:
    """Reads what is exported, under the names of the counters' fields.

    Each of `_reads` yields the numbers of families declared at the same place, in their order.
    """

    def __init__(
        self,
        stats: LoopStats,
        config: Config,
        reads_per_event: int,
        max_connections: int,
        readiness: Callable[[], str | None],
        *,
        bus: Bridge | None = None,
    ) -> None:
        self._mode: dict[str, str] = {"mode": config.mode}
        self._families: list[Family] = []
        self._reads: list[Callable[[], Iterable[float]]] = []
        self._add_infos(config, reads_per_event, max_connections)
        started = process.started_seconds()
        self._add(
            lambda: (started, int(readiness() is None), max_connections),
            self._gauge("start_time_seconds", "Unix time of start."),
            self._gauge("ready", "1 if /readyz says so, else 0."),
            self._gauge("max_connections", "Most peers admitted at one time."),
        )
        self._add_declared(stats)
        if bus is not None:
            self._add_info("bus", "Who this is on the bus.", {"name": bus.me.name})
            self._add_declared(bus.stats)
        self._add_process()
        self._page = Page(self._families)

    def page(self, *, openmetrics: bool) -> bytes:
        """Return a scrape."""
        numbers = chain.from_iterable(read() for read in self._reads)
        return self._page.fill(numbers, openmetrics=openmetrics)

    def _add(self, read: Callable[[], Iterable[float]], *families: Family) -> None:
        self._families.extend(families)
        self._reads.append(read)

    def _add_infos(self, config: Config, reads_per_event: int, max_connections: int) -> None:
        build = {"version": version(), "python": platform.python_version(), "commit": commit()}
        self._add_info("build", "What runs here.", build)
        controls = {name: str(getattr(config, name)) for name in CONTROLS + LIMITS}
        controls["reads_per_event"] = str(reads_per_event)
        controls["max_connections"] = str(max_connections)
        self._add_info("config", "The controls of the experiment, and the limits.", controls)

    def _add_info(self, name: str, help_text: str, labels: dict[str, str]) -> None:
        self._families.append(exposition.info(f"etltd_{name}", help_text, self._mode | labels))

    def _gauge(self, name: str, help_text: str) -> Family:
        return exposition.gauge(f"etltd_{name}", help_text, self._mode)

    def _counter(self, name: str, help_text: str, label: str = "", *values: str) -> Family:
        series = [self._mode | {label: value} for value in values] or [self._mode]
        return exposition.counter(f"etltd_{name}", help_text, *series)

    def _add_declared(self, counted: LoopStats | BusStats) -> None:
        for declared in fields(counted):
            # Two of the syscalls are counted elsewhere.
            name = "all_syscalls" if declared.name == "syscalls" else declared.name
            read = partial(getattr, counted, name)
            self._add_field(declared.name, declared.metadata, read)

    def _add_field(self, name: str, meta: Mapping[str, Any], read: Callable[[], Any]) -> None:
        match meta["kind"]:
            case "counter":
                self._add(lambda: (read(),), self._counter(name, meta["help"]))
            case "gauge":
                self._add(lambda: (read(),), self._gauge(name, meta["help"]))
            case "counters":
                labels = (meta["label"], *read())
                self._add(lambda: read().values(), self._counter(name, meta["help"], *labels))
            case "histogram":
                slots, per_unit = meta["slots"], meta["per_unit"]
                edges = [edge / per_unit for edge in Log2Histogram.edges(*slots)]
                self._add(
                    lambda: read().exported(*slots, per_unit),
                    exposition.histogram(f"etltd_{name}", meta["help"], self._mode, edges),
                )

    def _add_process(self) -> None:
        self._add(
            process.usage,
            self._counter(
                "cpu_seconds",
                "CPU time of the process, by getrusage(2).",
                *("cpu_mode", "user", "system"),
            ),
            self._counter(
                "context_switches",
                "Context switches of the process.",
                *("kind", "voluntary", "involuntary"),
            ),
            self._gauge("resident_memory_bytes", "Resident memory."),
            self._gauge("open_fds", "Open descriptors."),
            self._gauge("max_fds", "Limit on open descriptors."),
        )


class ScrapeServer(ThreadingHTTPServer):
    """An HTTP(S) server for scrapes on a socket that is listening already."""

    daemon_threads = True
    timeout = 0  # of handle_request, which is called when there is a client

    def __init__(
        self,
        listener: socket.socket,
        collector: LoopCollector,
        liveness: Callable[[], str | None],
        readiness: Callable[[], str | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take what `/healthz` and `/readyz` say: what is wrong, or None."""
        # Not TCPServer's: it makes a socket of its own, which a confined daemon may not.
        BaseServer.__init__(self, listener.getsockname()[:2], ScrapeHandler)
        self.socket = listener
        self.collector = collector
        self.liveness = liveness
        self.readiness = readiness
        self._tls = tls
        self._stop_fd = os.eventfd(0)
        self._thread: threading.Thread | None = None
        self._clients: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)  # one for each client's thread

    @property
    def url(self) -> str:
        """Where to scrape."""
        return f"{'https' if self._tls else 'http'}://{address_of(self.socket)}/metrics"

    def start(self) -> None:
        """Serve in a thread of its own until `pause` or `stop`.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        thread = threading.Thread(target=self._serve, name="etltd-scrape", daemon=True)
        thread.start()
        self._thread = thread

    def pause(self) -> None:
        """Accept nobody until `start`: who comes waits in the backlog, who is here is served."""
        if self._thread is not None:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            os.eventfd_read(self._stop_fd)
            self._thread = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody is being served."""
        return not self._clients

    def stop(self) -> None:
        """Stop serving and close the port."""
        self.pause()
        self.server_close()
        os.close(self._stop_fd)

    def _serve(self) -> None:
        """Do what ``serve_forever`` does, without its wakeup, and its wait, of half a second."""
        selector = selectors.PollSelector()
        selector.register(self.socket, selectors.EVENT_READ)
        selector.register(self._stop_fd, selectors.EVENT_READ)
        while self._stop_fd not in {key.fd for key, _ in selector.select()}:
            self.handle_request()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a client's thread; the oldest client gives way if there are too many."""
        request.settimeout(CLIENT_SECONDS)
        with self._lock:
            if len(self._clients) >= MOST_CLIENTS:
                oldest = next(iter(self._clients))
                del self._clients[oldest]  # or a burst would only ever hang up the same one
                _hang_up(oldest)
        self._places.acquire()  # its thread may take a moment to end; in a flood they would pile up
        with self._lock:
            self._clients[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client to its end; then there is room for another one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one request, in its own thread, after the handshake if there is to be one."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        secured = self._secure(request, self._tls)
        try:
            secured.do_handshake()
            super().finish_request(secured, client_address)
        finally:
            self.shutdown_request(secured)

    def _secure(self, request: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """Wrap *request*, which gives its descriptor away: the new socket takes its place."""
        with self._lock:
            was_given_up = request not in self._clients
            self._clients.pop(request, None)
            secured = tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            if not was_given_up:
                self._clients[secured] = None
            return secured

    def shutdown_request(self, request: Any) -> None:
        """Forget the client."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a client; without descriptors wait a little, or the selector would spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                time.sleep(ACCEPT_PAUSE_SECONDS)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a scraper that hangs up or cannot shake hands; the rest is our bug."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it went by itself
        sock.shutdown(socket.SHUT_RDWR)


class ScrapeHandler(BaseHTTPRequestHandler):
    """Answers one request per connection."""

    server: ScrapeServer
    server_version = "etltd"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer the three paths; anything else is not found."""
        match self.path.partition("?")[0]:
            case "/metrics":
                openmetrics = wants_openmetrics(self.headers.get("Accept", ""))
                page = self.server.collector.page(openmetrics=openmetrics)
                self._answer(HTTPStatus.OK, page, OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)
            case "/healthz":
                self._answer_unless(self.server.liveness(), b"ok\n")
            case "/readyz":
                self._answer_unless(self.server.readiness(), b"ready\n")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"try /metrics, /healthz or /readyz\n")

    do_HEAD = do_GET  # noqa: N815 - the base class finds it by this name

    def _answer_unless(self, problem: str | None, well: bytes) -> None:
        if problem is None:
            self._answer(HTTPStatus.OK, well)
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n".encode())

    def _answer(
        self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: scrapes are no events."""


class TlsFilesError(Exception):
    """A file of ``--metrics-tls-*`` does not hold what it should; the message is one sentence."""


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return what the scrape port needs for TLS, or None if it is plain.

    Raises:
        TlsFilesError: a file cannot be read or does not hold what it should.
    """
    if config.metrics_tls_cert is None:
        return None
    cert, key, client_ca = (
        config.metrics_tls_cert,
        config.metrics_tls_key,
        config.metrics_tls_client_ca,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # The empty password: a daemon has nobody to ask for the one of an encrypted key.
        context.load_cert_chain(cert, key, password="")
    except OSError as error:
        raise TlsFilesError(
            f'Invalid value for --metrics-tls-cert and --metrics-tls-key: "{cert}" and "{key}" are '
            f"not a certificate chain and its unencrypted key in PEM ({_why(error)})."
        ) from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise TlsFilesError(
                f'Invalid value for --metrics-tls-client-ca: "{client_ca}" is not a file of '
                f"certificates in PEM ({_why(error)})."
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _why(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return str(reason or error)
