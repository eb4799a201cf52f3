"""Parts of one run, merged: nothing is averaged, and what does not belong together is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.cli import exit_code
from loadclient.clocks import Clock, this_clock
from loadclient.histogram import Histogram
from loadclient.ledger import Account, Closed, Profile
from loadclient.merge import MergeError, Part, clock_uncertainty, merge
from loadclient.result import RunResult, Threshold, quantiles

SIZE, PREFIX = 64, 8
HERE = Clock("this host", None)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def part_of_a_run(
    number: int,
    of: int = 2,
    *,
    sent: int = 10,
    heard: int | None = None,
    latencies: tuple[int, ...] = (),
    clock: Clock = HERE,
    server: dict[str, object] | None = None,
    prefix: int = PREFIX,
) -> RunResult:
    """Return the record of a part with one connection, which heard all others' ten messages."""
    frame = SIZE + PREFIX
    copies = 10 * (of - 1) if heard is None else heard
    account = Account(
        sender=number - 1, due=sent, sent_bytes=sent * SIZE, received_bytes=copies * frame
    )
    everybody = dict.fromkeys(range(of), prefix)
    names = (
        "latency",
        "latency_uncorrected",
        "schedule_lag_own",
        "schedule_lag_blocked",
        "connect",
    )
    return RunResult(
        run_id="r",
        valid=True,
        messages_offered=sent,
        messages_sent=sent,
        bytes_sent=sent * SIZE,
        message_rate=float(sent),
        elapsed_seconds=1.0,
        drain_seconds=0.1,
        connections=1,
        latency_samples=len(latencies),
        config={"msg_bytes": SIZE, "rate": 10.0, "duration": 1.0, "senders": None, "conns": 1},
        histograms={name: histogram_of(list(latencies)).as_json() for name in names},
        part=Part(number, of, 123.0, clock, everybody, [account]).as_json(),
        server=server,
    )


def counters(received: int, enqueued: int, **others: object) -> dict[str, object]:
    names = {"messages_received_total": received, "messages_enqueued_total": enqueued}
    calls = {"syscalls_total": {"sendto": enqueued}}
    every = {**names, **calls, **others}
    return {"mode": "et", "counters": every, "gauges": {"x": 1}, "unread_bytes": 0}


def test_counts_add_and_the_ledger_balances() -> None:
    whole = merge([part_of_a_run(1, 3), part_of_a_run(3, 3), part_of_a_run(2, 3)])

    assert whole.valid, whole.invalid_reasons
    assert (whole.messages_sent, whole.connections) == (30, 3)
    assert whole.messages_expected == whole.messages_received == 60
    assert whole.delivery_ratio == 1.0
    assert whole.merged == {"parts": 3, "clock_uncertainty_seconds": 0.0}
    assert whole.part is None
    assert RunResult.from_json(whole.to_json()) == whole


@given(st.lists(st.integers(0, 1 << 40), max_size=30), st.lists(st.integers(0, 1 << 40)))
def test_histograms_merge_without_loss(first: list[int], second: list[int]) -> None:
    """The p99 of two parts is not the mean of their p99s."""
    whole = merge(
        [part_of_a_run(1, latencies=tuple(first)), part_of_a_run(2, latencies=tuple(second))]
    )

    together = histogram_of(first + second)
    assert Histogram.from_json(whole.histograms["latency"]) == together
    assert whole.latency_seconds == quantiles(together)
    assert whole.latency_samples == len(first) + len(second)


def test_what_another_part_really_sent_is_what_is_owed() -> None:
    """A part compares with the plan; one that sent less owes less, and nothing is lost."""
    whole = merge([part_of_a_run(1, sent=7), part_of_a_run(2, heard=7)])

    assert whole.valid, whole.invalid_reasons
    assert whole.messages_expected == whole.messages_received == 17


def test_a_copy_that_no_part_can_explain_makes_the_whole_invalid() -> None:
    whole = merge([part_of_a_run(1), part_of_a_run(2, heard=9)])

    assert not whole.valid
    assert whole.lost_by_reason["unexplained"] == 1


def test_a_parts_own_fault_is_the_wholes_and_named() -> None:
    late = replace(part_of_a_run(2), valid=False, invalid_reasons=["late"], warnings=["busy"])

    whole = merge([part_of_a_run(1), late])

    assert whole.invalid_reasons == ["part 2: late"]
    assert whole.warnings == ["part 2: busy"]


FAILED = Threshold(name="max_p99", limit=5.0, measured=50.0, holds=False)


def test_thresholds_are_held_against_the_whole_and_not_against_a_part() -> None:
    """A part that had failed ended as a run that held everything."""
    slow = replace(part_of_a_run(1, latencies=(50_000_000,)), thresholds=[FAILED])
    fast = [
        replace(part_of_a_run(number, latencies=(1_000_000,) * many), thresholds=[FAILED])
        for number, many in ((2, 1), (2, 1000))
    ]

    wholes = [merge([slow, other]) for other in fast]
    (failed,), (holds,) = (whole.thresholds for whole in wholes)

    assert [exit_code(whole) for whole in wholes] == [3, 0]
    assert (failed.limit, failed.holds) == (5.0, False)
    assert failed.measured == pytest.approx(50, rel=0.05)
    assert holds.measured == pytest.approx(1, rel=0.05)
    assert holds.holds


def test_parts_with_different_thresholds_are_told_and_each_is_judged() -> None:
    ratio = Threshold(name="min_delivery_ratio", limit=1.0, measured=1.0, holds=True)
    other = Threshold(name="max_p99", limit=100.0, measured=None, holds=False)
    first = replace(part_of_a_run(1, latencies=(50_000_000,)), thresholds=[FAILED, ratio])

    whole = merge([first, replace(part_of_a_run(2), thresholds=[other])])
    same = merge([first, replace(part_of_a_run(2), thresholds=[ratio, FAILED])])

    assert [(t.name, t.limit, t.holds) for t in whole.thresholds] == [
        ("max_p99", 5.0, False),
        ("max_p99", 100.0, True),
        ("min_delivery_ratio", 1.0, True),
    ]
    assert [text.partition(":")[0] for text in whole.warnings] == [
        "the parts have different thresholds"
    ]
    assert same.warnings == []
    assert merge([part_of_a_run(1), part_of_a_run(2)]).thresholds == []


def test_samples_that_never_came_are_the_wholes() -> None:
    first = replace(part_of_a_run(1), latency_censored={"samples": 2, "oldest_age_seconds": 1.5})
    second = replace(part_of_a_run(2), latency_censored={"samples": 1, "oldest_age_seconds": 2.5})

    censored = merge([first, second]).latency_censored
    none = merge([part_of_a_run(1), part_of_a_run(2)]).latency_censored

    assert censored == {"samples": 3, "oldest_age_seconds": 2.5}
    assert none == {"samples": 0, "oldest_age_seconds": None}


def test_a_latency_that_one_part_alone_measured_is_not_absent() -> None:
    why = "no marked message arrived"
    deaf = replace(part_of_a_run(1), latency_absent_because=why)

    assert merge([deaf, part_of_a_run(2, latencies=(5,))]).latency_absent_because is None
    assert merge([deaf, part_of_a_run(2)]).latency_absent_because == why


def test_what_is_heard_before_it_is_due_is_told() -> None:
    """Such a latency proves that the clocks differ, and was a nought among the others."""
    whole = merge([part_of_a_run(1, latencies=(0, 5)), part_of_a_run(2, latencies=(0, 7))])

    assert [warning.partition(":")[0] for warning in whole.warnings] == [
        "2 messages were heard before they were due"
    ]
    assert merge([part_of_a_run(1, latencies=(1,)), part_of_a_run(2)]).warnings == []


def test_the_counters_of_several_servers_are_added_and_joined() -> None:
    """Two instances on a bus: each counts what its own clients say, and what they are owed."""
    parts = [
        part_of_a_run(1, server=counters(10, 10)),
        part_of_a_run(2, server=counters(10, 10)),
    ]

    whole = merge(parts)

    assert whole.valid, whole.invalid_reasons
    assert whole.mode == "et"
    assert whole.server is not None
    assert whole.server["counters"]["messages_enqueued_total"] == 20
    assert whole.server["counters"]["syscalls_total"] == {"sendto": 20}
    parts[1] = part_of_a_run(2, server=counters(10, 11))
    assert "enqueued 21 copies" in merge(parts).invalid_reasons[0]


def test_servers_that_differ_are_not_all_taken_for_the_first() -> None:
    """One in each mode made a run of ET, which says nothing of either."""
    et = counters(10, 10) | {"build": {"commit": "a"}, "config": {"drain": "eagain"}}
    two = et | {"mode": "et/lt", "config": {"drain": "eagain/short-read", "instances": "2"}}
    lt = et | {"mode": "lt", "build": {"commit": "b"}}

    whole = merge([part_of_a_run(1, server=et), part_of_a_run(2, server=lt)])
    three = merge([part_of_a_run(1, server=two), part_of_a_run(2, server=lt)])
    one = merge([part_of_a_run(1, server=et), part_of_a_run(2)])

    assert whole.server is not None
    assert three.server is not None
    assert one.server == et
    assert whole.mode == whole.server["mode"] == "et/lt"
    assert whole.server["build"] == {"commit": "a/b"}
    assert whole.server["config"] == {"drain": "eagain", "instances": "2"}
    assert whole.server["gauges"] == {"x": 2}
    assert three.mode == "et/lt"
    assert three.server["config"] == {"drain": "eagain/short-read", "instances": "3"}


@pytest.mark.parametrize("reason", ["slow_consumer", "bus"])
def test_what_one_server_dropped_and_announced_is_a_loss_and_no_contradiction(reason: str) -> None:
    """Of what the bus lost the run was called invalid, and the server accused of silence."""
    second = part_of_a_run(2, heard=7, server=counters(10, 10, messages_dropped_total={reason: 3}))
    kept = Part.from_json(second.part or {})
    told = replace(kept, accounts=[replace(kept.accounts[0], announced=3)])

    whole = merge([part_of_a_run(1, server=counters(10, 10)), replace(second, part=told.as_json())])

    assert whole.valid, whole.invalid_reasons
    assert whole.lost_by_reason == {"announced": 3, "closed": 0, "unexplained": 0}


@pytest.mark.parametrize(("evicted", "valid"), [(1, True), (0, False)])
def test_a_never_reader_that_was_put_out_is_no_stranger(evicted: int, *, valid: bool) -> None:
    """It is owed nothing more from then on: as a run of one process takes it."""
    put_out = counters(20, 25, connections_closed_total={"slow_consumer": evicted, "eof": 2})
    second = part_of_a_run(2)
    kept = Part.from_json(second.part or {})
    with_it = replace(kept, accounts=[*kept.accounts, Account(Profile.NEVER)])

    whole = merge([part_of_a_run(1, server=put_out), replace(second, part=with_it.as_json())])

    assert whole.valid == valid, whole.invalid_reasons


def test_a_server_that_does_not_show_what_it_left_unread_makes_the_sum_unknown() -> None:
    known = counters(20, 20)

    whole = merge([part_of_a_run(1, server=known | {"unread_bytes": None}), part_of_a_run(2)])

    assert whole.server is not None
    assert whole.server["unread_bytes"] is None


def test_accounts_survive_the_record() -> None:
    account = Account(Profile.SLOW, 3, 1, 2, closed=Closed.RESET, unread_looks=9)
    part = Part(1, 2, 5.0, this_clock(), {3: 8}, [account])

    assert Part.from_json(part.as_json()) == part


@pytest.mark.parametrize(
    ("clocks", "seconds"),
    [
        ([Clock("a", None), Clock("a", None)], 0.0),
        ([Clock("a", 0.001), Clock("b", 0.002), Clock("c", 0.004)], 0.006),
        ([Clock("a", 0.001), Clock("b", None)], None),
    ],
    ids=["one host", "set clocks", "a clock that nobody sets"],
)
def test_how_wrong_a_latency_between_parts_may_be_is_said(
    clocks: list[Clock], seconds: float | None
) -> None:
    assert clock_uncertainty(clocks) == seconds


@pytest.mark.parametrize("turned", [False, True])
def test_a_counter_with_labels_in_one_part_alone_is_refused(*, turned: bool) -> None:
    """The labels were forgotten, or an assertion ended the command."""
    parts = [part_of_a_run(number, server=counters(10, 10)) for number in (1, 2)]
    for part, drops in zip(parts, ({"closed": 1.0}, 5.0), strict=True):
        assert part.server is not None
        part.server["counters"]["messages_dropped_total"] = drops
    if turned:
        parts.reverse()

    with pytest.raises(MergeError, match="messages_dropped_total has labels in one part"):
        merge(parts)


def test_what_are_not_the_parts_of_one_run_is_refused_in_a_sentence() -> None:
    """Added up all the same, they would be figures of nothing."""
    first, second = part_of_a_run(1), part_of_a_run(2)
    other_start = dict(second.part or {}) | {"start_at": 124.0}
    for sentence, parts in {
        "no part of a run": [first, replace(second, part=None)],
        "parts 1 to 2 are needed": [first, first],
        "parts of several runs": [first, replace(second, run_id="s")],
        "did not start at one time": [first, replace(second, part=other_start)],
        "differ in rate": [first, replace(second, config=second.config | {"rate": 11.0})],
        "names of two lengths": [first, part_of_a_run(2, prefix=9)],
    }.items():
        with pytest.raises(MergeError, match=sentence):
            merge(parts)
