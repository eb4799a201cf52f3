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
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from etltd import process
from etltd.listener import OUT_OF_DESCRIPTORS, address_of
from etltd.version import commit, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from dataclasses import Field

    from prometheus_client.core import Metric

    from etltd.bus.bridge import Bridge
    from etltd.config import Config
    from etltd.stats import Log2Histogram, LoopStats

MOST_CLIENTS = 8  # scrapes and health checks at one time; a scrape takes milliseconds
CLIENT_SECONDS = 5.0  # of silence before a client is given up
ACCEPT_PAUSE_SECONDS = 0.25  # how long to leave the backlog alone when descriptors ran out

CONTROLS = ("drain", "recv_bytes", "max_events", "fan_out", "listener")
LIMITS = (
    *("max_line_bytes", "high_water_bytes", "slow_consumer", "rate_limit", "idle_timeout"),
    *("peer_timeout", "sanitize"),
)


class LoopCollector:
    """Builds the metrics at each scrape, under the names of the counters' fields."""

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
        self._stats = stats
        self._bus = bus
        self._max_connections = max_connections
        self._readiness = readiness
        self._mode = config.mode
        self._started_seconds = process.started_seconds()
        self._build = {
            "version": version(),
            "python": platform.python_version(),
            "commit": commit(),
        }
        self._config = {name: str(getattr(config, name)) for name in CONTROLS + LIMITS}
        self._config["reads_per_event"] = str(reads_per_event)
        self._config["max_connections"] = str(max_connections)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; called by prometheus_client."""
        yield self._info("build", "What runs here.", self._build)
        yield self._info("config", "The controls of the experiment, and the limits.", self._config)
        yield self._gauge("start_time_seconds", "Unix time of start.", self._started_seconds)
        yield self._gauge("ready", "1 if /readyz says so, else 0.", self._readiness() is None)
        yield self._gauge(
            "max_connections", "Most peers admitted at one time.", self._max_connections
        )
        for declared in fields(self._stats):
            yield self._declared_metric(declared, getattr(self._stats, declared.name))
        if self._bus is not None:
            yield self._info("bus", "Who this is on the bus.", {"instance": self._bus.me.name})
            for declared in fields(self._bus.stats):
                yield self._declared_metric(declared, getattr(self._bus.stats, declared.name))
        yield from self._process_metrics()

    def _declared_metric(self, declared: Field[Any], value: Any) -> Metric:
        name, meta = declared.name, declared.metadata
        match meta["kind"]:
            case "counter":
                return self._counter(name, meta["help"], value)
            case "gauge":
                return self._gauge(name, meta["help"], value)
            case "histogram":
                return self._histogram(name, meta["help"], value, meta["slots"], meta["per_unit"])
        if name == "syscalls":
            value = self._stats.all_syscalls()
        return self._counters(name, meta["help"], meta["label"], value)

    def _process_metrics(self) -> Iterator[Metric]:
        usage = process.usage()
        yield self._counters(
            "cpu_seconds",
            "CPU time of the process, by getrusage(2).",
            "cpu_mode",
            {"user": usage.user_seconds, "system": usage.system_seconds},
        )
        yield self._counters(
            "context_switches",
            "Context switches of the process.",
            "kind",
            {"voluntary": usage.voluntary_switches, "involuntary": usage.involuntary_switches},
        )
        yield self._gauge("resident_memory_bytes", "Resident memory.", usage.resident_bytes)
        yield self._gauge("open_fds", "Open descriptors.", usage.open_fds)
        yield self._gauge("max_fds", "Limit on open descriptors.", usage.max_fds)

    def _info(self, name: str, help_text: str, values: dict[str, str]) -> Metric:
        return InfoMetricFamily(f"etltd_{name}", help_text, value={"mode": self._mode, **values})

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"etltd_{name}", help_text, labels=["mode"])
        family.add_metric([self._mode], value)
        return family

    def _counter(self, name: str, help_text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"etltd_{name}", help_text, labels=["mode"])
        family.add_metric([self._mode], value)
        return family

    def _counters(
        self, name: str, help_text: str, label: str, values: dict[str, int] | dict[str, float]
    ) -> Metric:
        family = CounterMetricFamily(f"etltd_{name}", help_text, labels=["mode", label])
        for label_value, value in values.items():
            family.add_metric([self._mode, label_value], value)
        return family

    def _histogram(
        self,
        name: str,
        help_text: str,
        value: Log2Histogram,
        slots: tuple[int, int],
        per_unit: int,
    ) -> Metric:
        family = HistogramMetricFamily(f"etltd_{name}", help_text, labels=["mode"])
        edges, count = value.buckets(*slots)
        buckets = [(_le(edge / per_unit), float(below)) for edge, below in edges]
        family.add_metric([self._mode], [*buckets, ("+Inf", count)], value.total / per_unit)
        return family


def _le(edge: float) -> str:
    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]


class ScrapeServer(ThreadingHTTPServer):
    """An HTTP(S) server for scrapes on a socket that is listening already."""

    daemon_threads = True
    timeout = 0  # of handle_request, which is called when there is a client

    def __init__(
        self,
        listener: socket.socket,
        collector: LoopCollector,
        readiness: Callable[[], str | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # Not TCPServer's: it makes a socket of its own, which a confined daemon may not.
        BaseServer.__init__(self, listener.getsockname()[:2], ScrapeHandler)
        self.socket = listener
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(collector)
        self.readiness = readiness
        self._tls = tls
        self._stop_fd = os.eventfd(0)
        self._thread: threading.Thread | None = None
        self._clients: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where to scrape."""
        return f"{'https' if self._tls else 'http'}://{address_of(self.socket)}/metrics"

    def start(self) -> None:
        """Serve in a thread of its own until `pause` or `stop`."""
        self._thread = threading.Thread(target=self._serve, name="etltd-scrape", daemon=True)
        self._thread.start()

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
            self._clients[request] = None
        super().process_request(request, client_address)

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


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Return the exposition format that *accept* asks for; the plain one if that makes no sense."""
    try:
        return choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is no number
        return choose_encoder("")


class ScrapeHandler(BaseHTTPRequestHandler):
    """Answers one request per connection."""

    server: ScrapeServer
    server_version = "etltd"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer the three paths; anything else is not found."""
        match self.path.partition("?")[0]:
            case "/metrics":
                encode, content_type = _encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, encode(self.server.registry), content_type)
            case "/healthz":
                self._answer(HTTPStatus.OK, b"ok\n")
            case "/readyz":
                problem = self.server.readiness()
                if problem is None:
                    self._answer(HTTPStatus.OK, b"ready\n")
                else:
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n".encode())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"try /metrics, /healthz or /readyz\n")

    do_HEAD = do_GET  # noqa: N815 - the base class finds it by this name

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
