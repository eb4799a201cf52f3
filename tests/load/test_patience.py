"""Late is not lost; and what cannot come any more is not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_a_loss_that_the_server_itself_confirms_is_not_waited_for(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """Its counters are at rest and its outboxes empty: a minute would bring nothing."""
    server = faulty("drop")
    outcome = load(
        *(server.port, "--server-metrics", server.counters, "--drain-timeout", 60),
        *("--duration", LOAD_SECONDS),
    )

    assert "were lost without a notice (for example" in outcome.reasons
    assert outcome.result.drain_seconds < 30
