"""What is scraped, and what a hostile or silent client of the scrape port can do: nothing."""

from __future__ import annotations

import contextlib
import errno
import http.client
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from etltd import metrics, process
from etltd.config import EXPERIMENT, LIMITS, Config
from etltd.listener import bind_tcp
from etltd.metrics import MOST_CLIENTS, LoopCollector, ScrapeServer, TlsFilesError, tls_context
from etltd.stats import LoopStats
from tests.certificates import Certificates, Identity, make_certificates
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from tests.daemon.rig import Rig

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# DESIGN §8, word for word: name, kind, label, and the closed set of its values.
NAMES = {
    "build": ("info", {"version", "python", "commit"}),
    "config": (
        "info",
        {"drain", "reads_per_event", "recv_bytes", "max_events", "fan_out", "max_connections"}
        | {"listener"}
        | {"max_line_bytes", "high_water_bytes", "slow_consumer", "rate_limit", "idle_timeout"}
        | {"peer_timeout", "sanitize", "max_connections_per_ip"}
        | {"sndbuf", "rcvbuf", "backlog"},
    ),
    "start_time_seconds": ("gauge", None),
    "ready": ("gauge", None),
    "max_connections": ("gauge", None),
    "connections": ("gauge", None),
    "connections_high_water": ("gauge", None),
    "connections_accepted": ("counter", None),
    "connections_rejected": (
        "counter",
        ("reason", "max_connections max_connections_per_ip no_descriptors"),
    ),
    "connections_closed": (
        "counter",
        ("reason", "eof reset slow_consumer idle timeout shutdown error"),
    ),
    "messages_received": ("counter", None),
    "received_bytes": ("counter", None),
    "messages_enqueued": ("counter", None),
    "messages_delivered": ("counter", None),
    "sent_bytes": ("counter", None),
    "messages_discarded": ("counter", ("reason", "too_long rate_limited truncated")),
    "sanitized_bytes": ("counter", None),
    "messages_dropped": ("counter", ("reason", "slow_consumer evicted closed shutdown bus")),
    "epoll_waits": ("counter", None),
    "epoll_wakeups": ("counter", None),
    "epoll_timeouts": ("counter", None),
    "epoll_events": ("counter", ("kind", "in out hup accept")),
    "syscalls": (
        "counter",
        ("syscall", "epoll_wait epoll_ctl accept4 recvfrom sendto sendmsg close"),
    ),
    "syscall_eagain": ("counter", ("syscall", "accept4 recvfrom sendto sendmsg")),
    "epoll_ctl": ("counter", ("op", "add mod del")),
    "wakeup_events": ("histogram", None),
    "batch_messages": ("histogram", None),
    "tick_seconds": ("histogram", None),
    "outbox_bytes": ("gauge", None),
    "outbox_messages": ("gauge", None),
    "outbox_connections": ("gauge", None),
    "handovers": ("counter", None),
    "revisits": ("counter", None),
    "cpu_seconds": ("counter", ("cpu_mode", "user system")),
    "context_switches": ("counter", ("kind", "voluntary involuntary")),
    "resident_memory_bytes": ("gauge", None),
    "open_fds": ("gauge", None),
    "max_fds": ("gauge", None),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


class Scraped:
    """A scrape endpoint over counters that a test may set, and a client of it."""

    def __init__(self, host: str = "127.0.0.1", **options: object) -> None:
        config = replace(Config(), mode="et", **options)  # type: ignore[arg-type]
        self.stats = LoopStats()
        self.problem: str | None = None
        self.listener = bind_tcp(host, 0, 64)
        self.listener.sock.setblocking(True)
        collector = LoopCollector(self.stats, config, 16, 1000, lambda: self.problem)
        self.server = ScrapeServer(
            self.listener.sock, collector, lambda: None, lambda: self.problem, tls_context(config)
        )
        self.address = self.listener.sock.getsockname()[:2]
        self.silent: list[socket.socket] = []
        self.server.start()

    def close(self) -> None:
        for sock in self.silent:
            sock.close()
        self.server.stop()
        until(lambda: not self.threads())

    def ask(
        self,
        path: str,
        method: str = "GET",
        tls: ssl.SSLContext | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Return status, headers and body."""
        host, port = self.address
        connection = (
            http.client.HTTPConnection(host, port, timeout=20)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=20, context=tls)
        )
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def connect_and_say_nothing(self, count: int) -> list[socket.socket]:
        fresh = [socket.create_connection(self.address) for _ in range(count)]
        self.silent += fresh
        return fresh

    @staticmethod
    def threads() -> list[threading.Thread]:
        """Return the threads of clients."""
        return [t for t in threading.enumerate() if "process_request_thread" in t.name]


@pytest.fixture
def make_scraped() -> Iterator[Callable[..., Scraped]]:
    made: list[Scraped] = []

    def make(**options: object) -> Scraped:
        made.append(Scraped(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for scraped in made:
        scraped.close()


@pytest.fixture
def scraped(make_scraped: Callable[..., Scraped]) -> Scraped:
    return make_scraped()


def families(text: str) -> dict[str, Metric]:
    return {
        family.name.removeprefix("etltd_"): family
        for family in text_string_to_metric_families(text)
    }


# -- names ----------------------------------------------------------------------------------------


def test_names_kinds_and_labels_are_those_of_the_design(scraped: Scraped) -> None:
    """Dashboards, rules and the load client ask for these names."""
    _, _, text = scraped.ask("/metrics", headers={"Accept": OPENMETRICS})
    found = {
        family.name.removeprefix("etltd_"): family
        for family in openmetrics.text_string_to_metric_families(text)
    }

    assert set(found) == set(NAMES)
    for name, (kind, labels) in NAMES.items():
        family = found[name]
        assert family.type == kind, name
        assert family.documentation.endswith("."), name
        own = [{k: v for k, v in s.labels.items() if k != "le"} for s in family.samples]
        assert all(labels_.pop("mode") == "et" for labels_ in own), name
        if isinstance(labels, set):
            assert set(own[0]) == labels, name
        elif labels is None:
            assert own == [{}] * len(own), name
        else:
            label, values = labels
            assert own == [{label: value} for value in values.split()], name


def test_there_are_fewer_than_two_hundred_series(scraped: Scraped) -> None:
    """A scrape holds the interpreter's lock for as long as it fills in their numbers."""
    _, _, text = scraped.ask("/metrics")

    assert sum(not line.startswith("#") for line in text.splitlines()) < 200


def test_a_scrape_takes_little_of_the_interpreter_s_time(scraped: Scraped) -> None:
    """The loop waits for as long: it was 0.9 ms when prometheus_client put the text together.

    The least of many tries is what it takes when nobody else is in the way: 0.05 ms.
    """
    tries = []
    for _ in range(100):
        began = time.thread_time()
        scraped.server.collector.page(openmetrics=True)
        tries.append(time.thread_time() - began)

    assert min(tries) < 0.5e-3


def test_nothing_is_exported_under_two_names(scraped: Scraped) -> None:
    _, _, text = scraped.ask("/metrics")
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]

    assert len(series) == len(set(series))
    assert all(name.startswith("etltd_") for name in series)


def test_readiness_is_a_number_too(scraped: Scraped) -> None:
    """An alert can be made of a number, not of what /readyz says."""
    found = {}
    for problem in (None, "the loop has not ticked for 9.0 s"):
        scraped.problem = problem
        (sample,) = families(scraped.ask("/metrics")[2])["ready"].samples
        found[problem] = sample.value

    assert list(found.values()) == [1, 0]


def test_values_are_those_of_the_loop(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)
    anna.say(b"hello\n")
    rig.tick_until(bert.hear)
    config = rig.config
    collector = LoopCollector(rig.stats, config, 1, 7, lambda: None)
    found = {
        (sample.name, *[v for k, v in sample.labels.items() if k not in {"mode", "le"}]): sample
        for family in text_string_to_metric_families(collector.page(openmetrics=False).decode())
        for sample in family.samples
        if sample.name != "etltd_build_info"
    }

    value = {name: sample.value for name, sample in found.items()}
    assert value["etltd_connections",] == 2
    assert value["etltd_max_connections",] == 7
    assert value["etltd_messages_received_total",] == 1
    assert value["etltd_messages_delivered_total",] == 1
    assert value["etltd_syscalls_total", "sendto"] == 1
    assert value["etltd_syscalls_total", "epoll_wait"] == rig.stats.epoll_waits
    assert value["etltd_syscalls_total", "epoll_ctl"] == sum(rig.stats.epoll_ctl.values())
    assert value["etltd_cpu_seconds_total", "user"] == pytest.approx(
        process.usage().user_seconds, abs=1
    )
    (info,) = [s for name, s in found.items() if name[0] == "etltd_config_info"]
    assert info.labels["mode"] == config.mode
    assert info.labels["max_connections"] == "7"


def test_every_control_and_limit_is_exported() -> None:
    """A result that does not say the kernel's buffers cannot be repeated, nor compared."""
    declared = {
        name
        for name, hint in get_type_hints(Config, include_extras=True).items()
        if {EXPERIMENT, LIMITS} & set(getattr(hint, "__metadata__", ()))
    }

    assert {"drain", "sndbuf", "rcvbuf"} < declared
    assert declared - {"mode"} - NAMES["config"][1] == set()


def test_a_histogram_s_last_bucket_is_its_count(scraped: Scraped) -> None:
    """Prometheus takes quantiles from the buckets and rates from the count: they must agree."""
    for value in (0, 1, 2, 3, 5_000, 10**9, 2**40):
        scraped.stats.wakeup_events.observe(value)
        scraped.stats.batch_messages.observe(value)
        scraped.stats.tick_seconds.observe(value)

    _, _, text = scraped.ask("/metrics")

    for name in ("wakeup_events", "batch_messages", "tick_seconds"):
        samples = families(text)[name].samples
        buckets = [s for s in samples if s.name.endswith("_bucket")]
        counts = [s.value for s in buckets]
        (count,) = [s.value for s in samples if s.name.endswith("_count")]
        (total,) = [s.value for s in samples if s.name.endswith("_sum")]
        assert buckets[-1].labels["le"] == "+Inf"
        assert counts[-1] == count == 7
        assert counts == sorted(counts)
        scale = 1e-9 if name == "tick_seconds" else 1
        assert total == pytest.approx(scale * (1 + 2 + 3 + 5_000 + 10**9 + 2**40))
        edges = [float(s.labels["le"]) for s in buckets]
        assert edges == sorted(edges)


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (package prometheus)")
def test_promtool_finds_nothing_to_say(scraped: Scraped) -> None:
    scraped.stats.wakeup_events.observe(3)
    _, _, text = scraped.ask("/metrics")

    check = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/healthz/x", "/%6detrics", "//"])
def test_unknown_paths_are_not_found(scraped: Scraped, path: str) -> None:
    """prometheus_client's own server answers every path with the metrics."""
    status, _, body = scraped.ask(path)

    assert (status, body) == (404, "try /metrics, /healthz or /readyz\n")


def test_a_query_is_no_other_path(scraped: Scraped) -> None:
    assert scraped.ask("/healthz?verbose=1")[0] == 200


def test_head_has_the_headers_and_no_body(scraped: Scraped) -> None:
    status, headers, body = scraped.ask("/healthz", method="HEAD")

    assert (status, headers["Content-Length"], body) == (200, "3", "")


@pytest.mark.parametrize("method", ["POST", "DELETE", "NONSENSE"])
def test_other_methods_are_refused(scraped: Scraped, method: str) -> None:
    assert scraped.ask("/metrics", method=method)[0] == 501


def test_openmetrics_is_spoken_to_who_asks_for_it(scraped: Scraped) -> None:
    _, headers, body = scraped.ask("/metrics", headers={"Accept": OPENMETRICS})

    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_readyz_says_what_is_wrong(scraped: Scraped) -> None:
    assert scraped.ask("/readyz")[::2] == (200, "ready\n")

    scraped.problem = "the loop has not ticked for 7.0 s"

    assert scraped.ask("/readyz")[::2] == (503, "the loop has not ticked for 7.0 s\n")
    assert scraped.ask("/healthz")[::2] == (200, "ok\n")


def test_the_url_can_be_opened(make_scraped: Callable[..., Scraped]) -> None:
    six = make_scraped(host="::1")

    assert six.server.url == f"http://[::1]:{six.address[1]}/metrics"
    assert six.ask("/healthz")[0] == 200


def test_the_version_of_python_is_not_told_to_everybody(scraped: Scraped) -> None:
    assert scraped.ask("/healthz")[1]["Server"].strip() == "etltd"


# -- clients that misbehave -----------------------------------------------------------------------


def has_hung_up(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_silent_client_does_not_delay_a_scrape(scraped: Scraped) -> None:
    (silent,) = scraped.connect_and_say_nothing(1)

    assert scraped.ask("/metrics")[0] == 200
    assert not has_hung_up(silent), "it was in nobody's way"


def test_silent_clients_do_not_pile_up_threads(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prometheus_client's own server, 50 of them are 50 threads for ever."""
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 3600.0)  # not by patience: by making room
    silent = scraped.connect_and_say_nothing(50)

    assert scraped.ask("/metrics")[0] == 200
    until(lambda: sum(map(has_hung_up, silent)) >= 50 - MOST_CLIENTS)
    until(lambda: len(scraped.threads()) <= MOST_CLIENTS)
    assert len(scraped.server._clients) <= MOST_CLIENTS


def test_a_silent_client_is_given_up(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 0.05)
    (silent,) = scraped.connect_and_say_nothing(1)

    until(lambda: has_hung_up(silent))
    until(lambda: not scraped.threads())


def test_a_client_that_leaves_before_its_turn_is_forgotten(scraped: Scraped) -> None:
    for sock in scraped.connect_and_say_nothing(MOST_CLIENTS + 2):
        sock.close()

    until(lambda: not scraped.threads() and not scraped.server._clients)
    assert scraped.ask("/healthz")[0] == 200


def test_an_accept_header_that_makes_no_sense_gets_the_plain_format(scraped: Scraped) -> None:
    """A traceback per request, and no answer: anybody on the port could fill the log."""
    accept = {"Accept": "application/openmetrics-text;version=abc"}

    status, headers, body = scraped.ask("/metrics", headers=accept)

    assert status == 200
    assert "etltd_connections" in body
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("words", [b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"A" * 70_000 + b"\r\n"])
def test_nonsense_gets_an_answer_and_no_traceback(
    scraped: Scraped, capfd: pytest.CaptureFixture[str], words: bytes
) -> None:
    (client,) = scraped.connect_and_say_nothing(1)
    client.sendall(words)

    client.settimeout(20)
    with contextlib.suppress(ConnectionResetError):  # it did not read all of it
        assert b"Error code: 4" in b"".join(iter(lambda: client.recv(10_000), b""))
    until(lambda: not scraped.threads())

    assert capfd.readouterr().err == ""


def test_a_bug_in_the_exporter_is_not_hidden(
    scraped: Scraped, capfd: pytest.CaptureFixture[str]
) -> None:
    """An empty answer with no word in the log cannot be debugged."""
    scraped.stats.wakeup_events = None  # type: ignore[assignment]

    with pytest.raises(http.client.RemoteDisconnected):
        scraped.ask("/metrics")

    until(lambda: not scraped.threads())
    assert "AttributeError" in capfd.readouterr().err


def test_the_lack_of_descriptors_does_not_make_the_scrape_thread_spin(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its selector reports the waiting client again and again, at 100 % CPU."""
    refusals = 0
    accept = scraped.server.socket.accept
    pauses: list[float] = []

    class NoRoom:
        """A listener out of descriptors, twice."""

        def __getattr__(self, name: str) -> object:
            return getattr(scraped.listener.sock, name)

        def accept(self) -> object:
            nonlocal refusals
            refusals += 1
            if refusals <= 2:
                raise OSError(errno.EMFILE, "Too many open files")
            return accept()

    monkeypatch.setattr(scraped.server, "socket", NoRoom())
    monkeypatch.setattr(time, "sleep", pauses.append)

    assert scraped.ask("/healthz")[0] == 200
    assert pauses == [metrics.ACCEPT_PAUSE_SECONDS] * 2


def test_another_error_of_accept_is_not_waited_for(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Aborted:
        """A listener whose client left."""

        def accept(self) -> object:
            raise OSError(errno.ECONNABORTED, "Software caused connection abort")

    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with monkeypatch.context() as patch:
        patch.setattr(scraped.server, "socket", Aborted())
        with pytest.raises(OSError, match="abort"):
            scraped.server.get_request()


# -- TLS ------------------------------------------------------------------------------------------


def client_context(certificates: Certificates, who: Identity | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    if who is not None:
        context.load_cert_chain(who.cert, who.key)
    return context


@pytest.fixture
def secured(make_scraped: Callable[..., Scraped], certificates: Certificates) -> Scraped:
    server = certificates.server
    return make_scraped(metrics_tls_cert=server.cert, metrics_tls_key=server.key)


def test_a_scrape_works_over_tls(secured: Scraped, certificates: Certificates) -> None:
    assert secured.server.url.startswith("https://")
    assert secured.ask("/readyz", tls=client_context(certificates))[0] == 200


def test_plain_http_is_not_answered_on_a_tls_port(secured: Scraped) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        secured.ask("/metrics")


def test_tls_1_1_is_refused(secured: Scraped, certificates: Certificates) -> None:
    context = client_context(certificates)
    context.set_ciphers("ALL:@SECLEVEL=0")  # or the client itself would refuse
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        secured.ask("/metrics", tls=context)


def test_one_stalled_handshake_does_not_stop_others(
    secured: Scraped, certificates: Certificates
) -> None:
    """prometheus_client shakes hands in its accept loop: one silent client stops all scrapes."""
    (silent,) = secured.connect_and_say_nothing(1)

    assert secured.ask("/metrics", tls=client_context(certificates))[0] == 200
    assert not has_hung_up(silent)


def test_stalled_handshakes_do_not_pile_up_threads(
    secured: Scraped, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapped socket gives its descriptor away: hanging up the old one would do nothing."""
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 3600.0)
    silent = secured.connect_and_say_nothing(50)

    assert secured.ask("/metrics", tls=client_context(certificates))[0] == 200
    until(lambda: sum(map(has_hung_up, silent)) >= 50 - MOST_CLIENTS)
    until(lambda: len(secured.threads()) <= MOST_CLIENTS)


def test_a_client_given_up_before_its_handshake_stays_given_up(secured: Scraped) -> None:
    server = secured.server
    ours, theirs = socket.socketpair()
    assert server._tls is not None

    wrapped = server._secure(ours, server._tls)  # it is not, or no longer, among the clients

    assert wrapped not in server._clients
    wrapped.close()
    theirs.close()


def test_only_clients_with_a_certificate_of_the_ca_may_scrape(
    make_scraped: Callable[..., Scraped], certificates: Certificates
) -> None:
    guarded = make_scraped(
        metrics_tls_cert=certificates.server.cert,
        metrics_tls_key=certificates.server.key,
        metrics_tls_client_ca=certificates.ca,
    )

    known = client_context(certificates, certificates.client)
    assert guarded.ask("/metrics", tls=known)[0] == 200
    for who in (None, certificates.stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            guarded.ask("/metrics", tls=client_context(certificates, who))


def test_files_that_do_not_hold_what_they_should_are_named(certificates: Certificates) -> None:
    server, stranger = certificates.server, certificates.stranger
    nonsense = Path(__file__)
    cases = [
        (server.cert, stranger.key, None, "KEY_VALUES_MISMATCH"),
        (nonsense, server.key, None, str(nonsense)),
        (server.cert, nonsense, None, str(nonsense)),
        (server.cert, Path("/nope"), None, "No such file or directory"),
        (server.cert, certificates.locked_key, None, "unencrypted key"),
        (server.cert, server.key, nonsense, f'--metrics-tls-client-ca: "{nonsense}"'),
        (server.cert, server.key, Path("/nope"), "No such file or directory"),
    ]
    for cert, key, client_ca, part in cases:
        config = replace(
            Config(), metrics_tls_cert=cert, metrics_tls_key=key, metrics_tls_client_ca=client_ca
        )
        with pytest.raises(TlsFilesError) as raised:
            tls_context(config)
        sentence = str(raised.value)
        assert part in sentence
        assert sentence.startswith("Invalid value for --metrics-tls-c")
        assert sentence.endswith(").")
        assert "\n" not in sentence


def test_no_files_mean_plain_http() -> None:
    assert tls_context(Config()) is None


def test_the_limit_of_descriptors_is_exported_as_it_is_now(scraped: Scraped) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        _, _, text = scraped.ask("/metrics")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert families(text)["max_fds"].samples[0].value == soft - 1
