"""Several daemons on one port are one side of a comparison: their counts are one ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadclient.compare.bench import OwnDaemons
from loadclient.compare.design import compared
from loadclient.compare.study import Design
from loadclient.compare.waking import CONNECTIONS, ask_who_wakes
from loadclient.daemon import DaemonFailedError
from loadclient.instances import running_instances
from loadclient.options import Options
from loadclient.session import perform
from tests.system.nats import needs_nats

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system


@needs_nats
def test_what_several_loops_deliver_is_owed_and_counted_as_one(tmp_path: Path) -> None:
    """With the counters of one of them alone, no ledger would balance."""
    with running_instances("et", tmp_path, 2, listener="shared") as both:
        options = Options(
            conns=12, rate=5, duration=0.5, warmup=0.2, server_metrics=both.metrics, quiet=True
        )
        result = perform(options, both.address, [])

    wrong = [one for one in result.invalid_reasons if "the client itself" not in one]
    assert wrong == []
    assert result.delivery_ratio == 1
    counters = result.server["counters"]
    assert counters["messages_received_total"] == result.messages_sent
    assert counters["messages_delivered_total"] == result.messages_received
    assert counters["bus_published_messages_total"] == result.messages_sent
    assert result.server["config"]["instances"] == "2"
    assert result.server["config"]["listener"] == "shared"


@pytest.mark.kernel
def test_the_kernel_says_how_many_loops_wake_for_a_connection() -> None:
    """The thundering herd, and no herd, in the counts of a study."""
    one, herd = (compared(64, instances=3, listener=way) for way in ("exclusive", "shared"))
    cell = replace(one, b=herd.b)
    found, complete = ask_who_wakes(Design(cells=(cell,)), OwnDaemons(apart=True), lambda _: None)

    assert complete
    assert [answer.unavailable for answer in found] == ["", ""]
    assert {answer.connections for answer in found} == {CONNECTIONS}
    exclusive, shared = (answer.loops / answer.connections for answer in found)
    assert exclusive < 2 < shared
    assert all(answer.returns >= CONNECTIONS for answer in found)


def test_without_a_server_for_the_bus_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with (
        pytest.raises(DaemonFailedError, match='need the program "nats-server"'),
        running_instances("et", tmp_path, 2, listener="reuseport"),
    ):
        pass
