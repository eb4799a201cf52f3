"""What the server says in its notices is quoted: it is no silent loss, and no riddle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadclient.demo import running_daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer, Outcome

pytestmark = pytest.mark.system


def test_a_rate_limit_is_not_called_silent_loss(
    tmp_path: Path, load: Callable[..., Outcome]
) -> None:
    """The server said so, and both sides count the same."""
    with running_daemon("et", tmp_path / "daemon.log", "--rate-limit", "20") as daemon:
        outcome = load(daemon.address[1], "--server-metrics", daemon.metrics)
    refused = outcome.result.server["counters"]["messages_discarded_total"]["rate_limited"]

    assert refused > 0
    assert outcome.code == 4
    assert outcome.reasons == f"the server refused {refused} of 200 messages: rate limited"
    assert outcome.result.messages_expected == outcome.result.messages_received


def test_a_rate_limit_needs_no_metrics_to_be_quoted(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("rate-limit").port)

    assert outcome.code == 4
    assert outcome.reasons == "the server refused 5 of 200 messages: rate limited"


def test_lines_that_are_too_long_are_not_called_silent_loss(
    tmp_path: Path, load: Callable[..., Outcome]
) -> None:
    with running_daemon("lt", tmp_path / "daemon.log", "--max-line-bytes", "50") as daemon:
        outcome = load(daemon.address[1], "--server-metrics", daemon.metrics)

    assert outcome.code == 4
    assert outcome.reasons == "the server refused 200 of 200 messages: line too long"


@pytest.mark.parametrize("real", [True, False], ids=["etltd", "another"])
def test_a_refused_hello_is_quoted(
    *,
    tmp_path: Path,
    faulty: Callable[[str], FaultyServer],
    load: Callable[..., Outcome],
    real: bool,
) -> None:
    """The server reads, and would broadcast: it said why not this."""
    if real:
        with running_daemon("lt", tmp_path / "daemon.log", "--max-line-bytes", "8") as daemon:
            outcome = load(daemon.address[1])
    else:
        outcome = load(faulty("refuse-hello").port)

    assert outcome.code == 4
    assert 'it says "[etltd] line too long, discarded"' in outcome.reasons
    assert "does not read" not in outcome.reasons
