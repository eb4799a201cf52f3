"""Decoding is tested everywhere: on rows that a kernel really wrote, and on edges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf import syscalls
from ebpf.decode import (
    CALL_FIELDS,
    LOOP_FIELDS,
    OUTCOMES,
    Histogram,
    MapRows,
    ThreadRow,
    add,
    decode_group,
    error_name,
    move,
    upper_edge,
)

NAMES = syscalls.names("x86_64")
SECOND = 1_000_000_000
WAIT = 232  # epoll_wait on x86-64


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """Return rows of two CPUs, and what the workload had counted itself when they were read."""
    record: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_rows.json").read_text())
    return record


def rows(**parts: Any) -> MapRows:
    """Return rows of one idle group, with *parts* put in."""
    idle = [0] * (len(LOOP_FIELDS) + 15)
    return MapRows(
        **{"taken_ns": 0, "calls": {}, "loops": {0: [idle]}, "errors": {}, "threads": []} | parts
    )


def thread(**parts: Any) -> ThreadRow:
    fields: dict[str, Any] = {"entered_ns": 0, "first_wait_ns": 1, "nr": WAIT, "tgid": 7}
    return ThreadRow(**fields | {"group": 0, "slept": True, "is_loop": True} | parts)


def test_recorded_rows_decode_to_what_the_workload_counted(recorded: dict[str, Any]) -> None:
    counts = decode_group(MapRows.from_json(recorded["rows"]), 0, NAMES)
    truth = recorded["truth"]

    assert counts.outcomes == {outcome: truth.get(outcome, 0) for outcome in OUTCOMES}
    assert counts.events.total == truth["events"]
    for name in ("epoll_wait", "recvfrom", "sendto", "sendmsg", "accept4", "close", "read"):
        assert (name, counts.calls[name].calls) == (name, truth[name])
    assert counts.calls["recvfrom"].errors == {"EAGAIN": truth["recvfrom EAGAIN"]}
    assert counts.calls["recvfrom"].transferred == truth["recvfrom bytes"]
    assert counts.operations == {"add": truth["add"], "del": 11, "mod": 13, "other": 0}


def test_rows_survive_being_recorded(recorded: dict[str, Any]) -> None:
    once = MapRows.from_json(recorded["rows"])

    assert MapRows.from_json(json.loads(json.dumps(once.to_json()))).to_json() == once.to_json()


@given(st.integers(min_value=0, max_value=2**63))
def test_a_value_is_never_above_the_edge_of_its_slot(value: int) -> None:
    slot = value.bit_length()

    assert value <= upper_edge(slot)
    assert slot == 0 or value > upper_edge(slot - 1)


@pytest.mark.parametrize(
    ("value", "edge"), [(1, 1), (2, 3), (3, 3), (4, 7), (7, 7), (8, 15), (255, 255), (256, 511)]
)
def test_a_value_on_an_edge_belongs_to_that_bucket(value: int, edge: int) -> None:
    slots = [0] * 12
    slots[value.bit_length()] = 1
    cumulative = dict(Histogram(tuple(slots), value).buckets(1, 10))

    assert cumulative[edge] == 1
    assert cumulative[edge // 2 or 1] == (edge == 1)


def test_counts_below_the_lowest_bucket_are_in_it() -> None:
    assert Histogram((2, 3, 5, 7), 0).buckets(2, 2) == [(3, 10)]


def test_the_open_slot_has_no_edge() -> None:
    assert Histogram((0, 0, 1), 9).quantile_edge(0.5) is None
    assert Histogram((0, 1, 0), 1).quantile_edge(0.5) == 1
    assert Histogram((0, 0, 0), 0).quantile_edge(0.5) is None


def test_cpus_are_added_up_field_by_field() -> None:
    cpu = [0] * len(CALL_FIELDS) + [1, 2, 3]
    call = decode_group(rows(calls={(0, 45): [cpu, cpu]}), 0, NAMES).calls["recvfrom"]

    assert call.durations.slots == (2, 4, 6)
    assert call.calls == 12


def test_another_groups_rows_are_not_mixed_in() -> None:
    cpu = [0] * len(CALL_FIELDS) + [1]
    idle = [0] * (len(LOOP_FIELDS) + 15)
    both = rows(
        calls={(0, 45): [cpu], (1, 45): [cpu]},
        loops={0: [idle], 1: [idle]},
        errors={(1, 45, 104): 1},
        threads=[thread(group=1)],
    )

    assert decode_group(both, 0, NAMES).calls["recvfrom"].errors == {}
    assert decode_group(both, 0, NAMES).loop_threads == 0


def test_errors_that_the_full_table_lost_are_shown_as_unknown() -> None:
    cpu = [0, 0, 2, 5, 7]  # 2 EAGAIN, 5 other errors, 7 calls
    lossy = rows(calls={(0, 45): [cpu]}, errors={(0, 45, 104): 3})

    assert decode_group(lossy, 0, NAMES).calls["recvfrom"].errors == {
        "ECONNRESET": 3,
        "EAGAIN": 2,
        "unknown": 2,
    }


def test_a_wait_that_still_lasts_counts_as_blocked_time() -> None:
    """Otherwise an idle server would look busy until something happens."""
    asleep = rows(taken_ns=5 * SECOND, threads=[thread(entered_ns=2 * SECOND)])

    assert decode_group(asleep, 0, NAMES).blocked_ns == 3 * SECOND


@pytest.mark.parametrize("awake", [{"slept": False}, {"nr": 45}, {"is_loop": False}])
def test_a_thread_that_does_not_sleep_in_a_wait_is_not_blocked(awake: dict[str, Any]) -> None:
    busy = rows(taken_ns=5 * SECOND, threads=[thread(**awake)])

    assert decode_group(busy, 0, NAMES).blocked_ns == 0


def test_restarts_that_only_the_kernel_sees_have_names() -> None:
    assert error_name(512) == "ERESTARTSYS"
    assert error_name(11) == "EAGAIN"
    assert error_name(4000) == "errno_4000"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_epoll_numbers_and_their_names_agree(machine: str) -> None:
    """A wrong number would count some other call as a wait, and nothing would look broken."""
    from ebpf.kernel import ARCHITECTURES, NO_SUCH_CALL

    numbers, names = ARCHITECTURES[machine], syscalls.names(machine)
    for call in (
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_ctl",
        "exit",
        "exit_group",
        "rt_sigreturn",
        "bpf",
    ):
        if (number := getattr(numbers, call)) != NO_SUCH_CALL:
            assert names[number] == call


def test_what_is_kept_of_a_group_that_is_no_more_still_counts(recorded: dict[str, Any]) -> None:
    """A restarted daemon counts into a group of its own until it has a name; nothing is lost."""
    read = MapRows.from_json(recorded["rows"])
    once, kept = decode_group(read, 0, NAMES), move(read, 0, 1)
    both = {**read.loops, 1: [[0] * len(read.loops[0][0])]}
    twice = decode_group(add(replace(read, loops=both), kept), (0, 1), NAMES)

    assert {name: call.calls for name, call in twice.calls.items()} == {
        name: 2 * call.calls for name, call in once.calls.items()
    }
    assert twice.calls["recvfrom"].errors == {
        name: 2 * count for name, count in once.calls["recvfrom"].errors.items()
    }
    assert twice.outcomes == {name: 2 * count for name, count in once.outcomes.items()}
    assert decode_group(add(read, kept), 1, NAMES).outcomes == once.outcomes
