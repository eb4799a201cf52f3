"""Late is not lost; and what cannot come any more is not waited for."""

from __future__ import annotations

import http.server
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FaultyServer, Outcome

pytestmark = pytest.mark.system
LOAD_SECONDS = 3
LATE_SECONDS = 2.5  # what the faulty server holds back, it holds so long


def test_messages_within_the_drain_time_are_not_called_lost(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """A pause of the server's, a garbage collection, say, is latency."""
    outcome = load(faulty("late-end").port, "--drain-timeout", 60)

    assert outcome.reasons == ""
    assert outcome.result.delivery_ratio == 1.0
    assert outcome.result.drain_seconds > LATE_SECONDS - 1
    assert outcome.result.latency_seconds["max"] > LATE_SECONDS


def test_messages_that_did_not_come_in_time_may_be_late(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("late-end").port, "--drain-timeout", 0.5)

    assert outcome.code == 4
    assert "or had not come 0.5 s after the last one was due" in outcome.reasons


def test_what_is_left_of_the_warm_up_is_not_called_a_duplicate(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """It came in the measured phase, which nobody owed it to."""
    outcome = load(faulty("late-once").port, "--warmup", 1, "--drain-timeout", 0.5)

    assert outcome.code == 4
    assert outcome.reasons == (
        "part of the warm-up had not come 0.5 s after it (3 copies), "
        "so a measured phase would not have begun at rest"
    )


def test_a_late_message_of_the_warm_up_is_waited_for(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("late-once").port, "--warmup", 1, "--drain-timeout", 30)

    assert outcome.reasons == ""
    assert outcome.result.messages_received == outcome.result.messages_expected == 600


def test_a_warm_up_that_cannot_be_sent_is_no_rest(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(
        *(faulty("stop-reading").port, "--warmup", 1, "--drain-timeout", 3),
        *("--msg-bytes", 8000, "--rate", 500, "--senders", 1, "--sndbuf", 4096),
    )

    assert outcome.code == 4
    assert "s after the warm-up" in outcome.reasons
    assert "the server's side took no more" in outcome.reasons


class Counters(http.server.BaseHTTPRequestHandler):
    """Counters that say, once a load has run: I have processed it, and owe nobody."""

    latest = 0.0
    received = 0

    def do_GET(self) -> None:
        now = time.monotonic()
        if self.latest and now - self.latest > LOAD_SECONDS:  # nobody asks while it runs
            type(self).received = 600
        type(self).latest = now
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            b"# TYPE etltd_messages_received_total counter\n"
            b'etltd_messages_received_total{mode="et"} %d\n'
            b"# TYPE etltd_outbox_bytes gauge\n"
            b'etltd_outbox_bytes{mode="et"} 0\n' % self.received
        )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def counters() -> Iterator[str]:
    Counters.latest, Counters.received = 0.0, 0
    with http.server.HTTPServer(("127.0.0.1", 0), Counters) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/metrics"
        web.shutdown()
        thread.join()


def test_a_loss_that_the_server_itself_confirms_is_not_waited_for(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], counters: str
) -> None:
    """Its counters are at rest and its outboxes empty: a minute would bring nothing."""
    begun = time.monotonic()
    outcome = load(
        *(faulty("drop").port, "--server-metrics", counters, "--drain-timeout", 60),
        *("--duration", LOAD_SECONDS),
    )

    assert "were lost without a notice (for example" in outcome.reasons
    assert time.monotonic() - begun < 30
