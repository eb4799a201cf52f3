"""From a run to a slice: what is compared, and what is not believed."""

from __future__ import annotations

import pytest

from loadclient.compare.design import Step
from loadclient.compare.slices import Sights, slice_of
from loadclient.result import RunResult

STEP = Step(7, "cell", 3, "b")
SERVER = {
    "mode": "et",
    "build": {"version": "1"},
    "config": {"drain": "eagain"},
    "counters": {
        "cpu_seconds_total": {"user": 0.3, "system": 0.1},
        "epoll_wakeups_total": 40,
        "epoll_events_total": {"in": 110, "hup": 10},
        "epoll_ctl_total": {"mod": 20, "add": 0},
        "syscalls_total": {"recvfrom": 200, "sendmsg": 100},
        "syscall_eagain_total": {"recvfrom": 100, "sendmsg": 7},
        "batch_messages_sum": 100,
        "batch_messages_count": 25,
        "wakeup_events_bucket": {"1": 4, "+Inf": 40, "3": 40},
        "revisits_total": 2,
    },
}


def run(**changes: object) -> RunResult:
    fields = {
        "run_id": "r",
        "mode": "et",
        "messages_offered": 100,
        "messages_sent": 100,
        "messages_received": 400,
        "messages_expected": 400,
        "deliveries_per_second": 200.0,
        "latency_seconds": {"p50": 0.001, "p99": 0.01},
        "client": {"busiest_cpu_share": 0.2},
        "environment": {"steal_share": 0.0},
        "server": SERVER,
    }
    return RunResult(**(fields | changes))


def test_outcomes_are_per_delivered_message_or_per_message() -> None:
    one = slice_of(STEP, run(), 5.0)

    assert one.valid
    assert (one.index, one.cell, one.pair, one.arm, one.started) == (7, "cell", 3, "b", 5.0)
    assert one.outcomes == pytest.approx(
        {
            "cpu_ns_per_delivery": 1e6,
            "latency_p50_seconds": 0.001,
            "latency_p99_seconds": 0.01,
            "deliveries_per_second": 200.0,
            "wakeups_per_message": 0.4,
            "syscalls_per_message": 3.0,
            "eagain_reads_per_message": 1.0,
            "mods_per_message": 0.2,
            "events_per_wakeup": 3.0,
            "messages_per_batch": 4.0,
        }
    )
    assert one.wakeup_events == {"1": 4, "3": 36}
    assert one.epoll_events == {"in": 110, "hup": 10}
    assert one.config == {"drain": "eagain"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invalid_reasons": ["it was late"]}, "it was late"),
        ({"server": None}, "counters were not joined"),
        ({"messages_sent": 98}, "less than 99 %"),
        (
            {"saturated": True, "message_rate": 50.0, "offered_rate": 100.0},
            "saturated: 50.0 of 100.0 messages/s offered were sent in time",
        ),
        ({"latency_windows_seconds": [0.01] * 8 + [0.04] * 8}, "not stationary: latency in the"),
        ({"client": {"busiest_cpu_share": 0.9}}, "used 90% of a core"),
        ({"environment": {"steal_share": 0.2}}, "took 20%"),
    ],
)
def test_a_slice_that_may_not_be_believed_says_why(changes: dict[str, object], reason: str) -> None:
    one = slice_of(STEP, run(**changes), 0.0)

    assert not one.valid
    assert reason in " ".join(one.reasons)


FRAMES = {"frames_forwarded": 1000, "frames_late": 10, "cpu_seconds": 0.1, "seconds": 1.0}


def test_what_the_network_did_is_kept_with_the_slice() -> None:
    one = slice_of(STEP, run(elapsed_seconds=1.0), 0.0, Sights(frames=FRAMES))

    assert one.valid
    assert one.conditions["network"] == FRAMES
    assert "network" not in slice_of(STEP, run(), 0.0).conditions


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cpu_seconds": 0.95}, "the network's forwarder used 95% of a core"),
        ({"frames_late": 260}, "delivered 26% of the frames more than 1 ms late"),
    ],
)
def test_our_forwarder_must_not_be_the_limit(changes: dict[str, float], reason: str) -> None:
    """What it costs would be taken for the network's doing."""
    one = slice_of(STEP, run(elapsed_seconds=1.0), 0.0, Sights(frames=FRAMES | changes))

    assert reason in one.reasons[0]


@pytest.mark.parametrize("frames", [{}, {"frames_forwarded": 0, "seconds": 1.0}])
def test_a_link_that_is_not_ours_has_no_such_limit(frames: dict[str, float]) -> None:
    assert slice_of(STEP, run(), 0.0, Sights(frames=frames)).valid


@pytest.mark.parametrize(("factor", "valid"), [(1.0, True), (1.1, False), (0.7, False)])
def test_a_daemons_word_about_its_processor_time_is_held_against_the_kernels(
    factor: float, *, valid: bool
) -> None:
    """Whoever says least would win."""
    said = 0.4  # user and system
    one = slice_of(STEP, run(), 0.0, Sights(cpu_seconds=said / factor))

    assert one.valid is valid
    assert one.kernel_cpu_seconds == said / factor
    assert valid or "by the kernel's clock it was" in one.misbehaviour


def test_what_was_not_measured_is_null() -> None:
    one = slice_of(STEP, RunResult(run_id="r", messages_sent=0), 0.0)

    assert one.outcomes["cpu_ns_per_delivery"] is None
    assert one.outcomes["latency_p50_seconds"] is None
    assert one.outcomes["messages_per_batch"] is None
    assert one.syscalls == {}
