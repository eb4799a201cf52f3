"""Who does not read may be put out; that is policy, and nobody is accused of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadclient.demo import running_daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Outcome

pytestmark = pytest.mark.system


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("mode", ["lt", "et"])
def test_an_evicted_never_reader_is_not_taken_for_a_stranger(
    mode: str, warmup: int, tmp_path: Path, load: Callable[..., Outcome]
) -> None:
    """Its window is shut, so that we cannot see its FIN; the server's counters tell of it."""
    options = ("--slow-consumer", "evict", "--high-water-bytes", "65536", "--sndbuf", "16384")
    with running_daemon(mode, tmp_path / "daemon.log", *options) as daemon:
        outcome = load(
            *(daemon.address[1], "--server-metrics", daemon.metrics, "--never-readers", 1),
            *("--conns", 5, "--senders", 4, "--msg-bytes", 8000, "--rate", 20, "--rcvbuf", 4096),
            *("--duration", 2, "--warmup", warmup),
        )

    assert outcome.reasons == ""
    assert outcome.code == 0
    assert outcome.result.delivery_ratio == 1.0
    if not warmup:
        assert outcome.result.server["counters"]["connections_closed_total"]["slow_consumer"] == 1
