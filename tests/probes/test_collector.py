"""What Prometheus gets: names, labels and edges that others rely on."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from ebpf import syscalls
from ebpf.collector import DURATION_SLOTS, EVENT_SLOTS, ProbeCollector
from ebpf.decode import IO_CALLS, CallCounts, Histogram, MapRows, decode_group, upper_edge
from ebpf.doubts import REASONS, doubts
from ebpf.kernel import ProgramInfo
from ebpf.report import as_json, print_table
from ebpf.watch import Group, Label, Snapshot

ET = {"mode": "et", "comm": "etltd-et"}
LT = {"mode": "lt", "comm": "etltd-lt"}

# DESIGN section 8: dashboards, rules and tests elsewhere use these.
CONTRACT = {
    "etlt_probe_syscalls_total": {"syscall"},
    "etlt_probe_syscall_errors_total": {"syscall", "errno"},
    "etlt_probe_syscall_duration_seconds_bucket": {"syscall", "le"},
    "etlt_probe_io_bytes_total": {"syscall", "direction"},
    "etlt_probe_epoll_waits_total": {"outcome"},
    "etlt_probe_epoll_ctl_total": {"op"},
    "etlt_probe_epoll_events_per_wait_bucket": {"le"},
    "etlt_probe_epoll_events_per_wait_sum": set(),
    "etlt_probe_epoll_blocked_seconds_total": set(),
    "etlt_probe_context_switches_total": {"kind"},
    "etlt_probe_loop_threads": set(),
    "etlt_probe_other_thread_syscalls_total": set(),
    "etlt_probe_target_info": {"pid"},
    "etlt_probe_target_up": set(),
    "etlt_probe_unmatched_exits_total": set(),
    "etlt_probe_untracked_calls_total": set(),
}
OF_THE_PROBE = {
    "etlt_probe_missed_runs_total": {"program"},
    "etlt_probe_bpf_runs_total": {"program"},
    "etlt_probe_bpf_run_seconds_total": {"program"},
    "etlt_probe_targets_unwatched": set(),
    "etlt_probe_doubts": {"reason"},
    "etlt_probe_collect_seconds": set(),
}


@pytest.fixture
def snapshot() -> Snapshot:
    record = json.loads(Path(__file__).with_name("recorded_rows.json").read_text())
    counts = decode_group(MapRows.from_json(record["rows"]), 0, syscalls.names("x86_64"))
    return Snapshot(
        groups=(
            Group(Label(**ET), (11, 13), counts),
            Group(Label(**LT), (), counts),
        ),
        absent=("nginx",),
        programs={"sys_enter": ProgramInfo(runs=2, run_ns=300, missed=0)},
        unwatched=0,
        left_out=0,
        misnamed=0,
        renamed=0,
        late=0,
        unseen=(),
        read_seconds=0.001,
    )


def registry(snapshot: Snapshot, *, lite: bool = False, stats: bool = True) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(ProbeCollector(lambda: snapshot, lite=lite, stats=stats))
    return made


def test_every_contracted_series_is_there_with_exactly_its_labels(snapshot: Snapshot) -> None:
    found = {
        sample.name: set(sample.labels)
        for family in registry(snapshot).collect()
        for sample in family.samples
    }
    wanted = {name: labels | {"mode", "comm"} for name, labels in CONTRACT.items()} | OF_THE_PROBE

    assert {name: found.get(name) for name in wanted} == wanted
    assert set(found) - set(wanted) == {
        "etlt_probe_syscall_duration_seconds_count",
        "etlt_probe_syscall_duration_seconds_sum",
        "etlt_probe_epoll_events_per_wait_count",
    }


def test_promtool_has_no_complaint(snapshot: Snapshot) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed")
    text = generate_latest(registry(snapshot))
    result = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_edges_are_exact_and_the_daemons(snapshot: Snapshot) -> None:
    """A heatmap of the daemon's wakeups lies exactly over one of the kernel's waits."""
    edges = [
        sample.labels["le"]
        for family in registry(snapshot).collect()
        for sample in family.samples
        if sample.name.endswith("events_per_wait_bucket") and sample.labels["mode"] == "et"
    ]

    assert edges == [
        *("1.0", "3.0", "7.0", "15.0", "31.0", "63.0", "127.0", "255.0", "511.0", "1023.0"),
        *("2047.0", "4095.0", "8191.0", "+Inf"),
    ]
    assert EVENT_SLOTS == (1, 13)


def test_duration_edges_are_whole_nanoseconds_as_people_write_them(snapshot: Snapshot) -> None:
    edges = {
        sample.labels["le"]
        for family in registry(snapshot).collect()
        for sample in family.samples
        if sample.name.endswith("duration_seconds_bucket")
    } - {"+Inf"}

    assert {round(float(edge) * 1e9) for edge in edges} == {
        upper_edge(slot) for slot in range(DURATION_SLOTS[0], DURATION_SLOTS[1] + 1)
    }
    assert max(map(len, edges)) < 14  # 5.11e-07 and not 5.110000000000001e-07


def test_a_histogram_never_contradicts_itself_nor_its_counter(snapshot: Snapshot) -> None:
    made = registry(snapshot)
    events = "etlt_probe_epoll_events_per_wait"
    waits = [
        made.get_sample_value("etlt_probe_epoll_waits_total", ET | {"outcome": outcome}) or 0
        for outcome in ("wakeup", "ready")
    ]

    count = made.get_sample_value(f"{events}_count", ET)
    assert count == made.get_sample_value(f"{events}_bucket", ET | {"le": "+Inf"}) == sum(waits)
    for call in ("recvfrom", "epoll_wait"):
        by = ET | {"syscall": call}
        durations = made.get_sample_value("etlt_probe_syscall_duration_seconds_count", by)
        assert durations == made.get_sample_value("etlt_probe_syscalls_total", by)


def test_durations_are_of_io_calls_only(snapshot: Snapshot) -> None:
    """Thirty buckets for each of 400 calls would be somebody's storage bill."""
    found = {
        sample.labels["syscall"]
        for family in registry(snapshot).collect()
        for sample in family.samples
        if sample.name.endswith("duration_seconds_count")
    }

    assert found <= IO_CALLS


def test_what_was_not_measured_is_absent_rather_than_nought(snapshot: Snapshot) -> None:
    text = generate_latest(registry(snapshot, lite=True, stats=False)).decode()

    assert "syscall_duration" not in text
    assert "bpf_run" not in text
    assert "etlt_probe_missed_runs_total" in text


def test_the_modes_are_series_of_their_own_and_absent_targets_are_down(snapshot: Snapshot) -> None:
    made = registry(snapshot)

    assert made.get_sample_value("etlt_probe_target_up", ET) == 2
    assert made.get_sample_value("etlt_probe_target_up", LT) == 0
    assert made.get_sample_value("etlt_probe_target_up", {"mode": "unknown", "comm": "nginx"}) == 0
    assert made.get_sample_value("etlt_probe_target_info", ET | {"pid": "13"}) == 1


def test_registering_does_not_read_the_maps() -> None:
    def fail() -> Snapshot:
        raise AssertionError

    CollectorRegistry().register(ProbeCollector(fail, lite=False, stats=False))


def test_a_report_says_why_its_counts_may_be_low(snapshot: Snapshot) -> None:
    missed = {
        "sys_exit": ProgramInfo(runs=0, run_ns=0, missed=3),
        "sched_switch": ProgramInfo(runs=0, run_ns=0, missed=None),
    }
    low = replace(
        snapshot,
        programs=missed,
        absent=("nobody", "none"),
        left_out=2,
        misnamed=7,
        renamed=8,
        late=4,
        unseen=(11,),
    )
    close = CallCounts("close", 0, {"EBADF": 2, "unknown": 6}, Histogram((8, *[0] * 37), 0))
    counts = replace(low.groups[0].counts, untracked=5, calls={"close": close})
    low = replace(low, groups=(replace(low.groups[0], counts=counts),))

    assert list(doubts(replace(snapshot, absent=()))) == []
    assert [doubt.sentence.split()[0] for doubt in doubts(low)] == [
        *("3", "this", "5", "6", "2", "7", "8", "4", "no", "no", "process"),
    ]
    one = next(doubts(replace(low, programs={"sys_exit": ProgramInfo(0, 0, missed=1)})))
    assert one.sentence == "1 run missed by the kernel: counts are low by at most 1"
    record = as_json(low, 1, lite=False)
    assert record["complete"] is False
    assert record["programs"]["sched_switch"]["missed"] is None
    made = registry(low)
    assert {
        reason: made.get_sample_value("etlt_probe_doubts", {"reason": reason}) for reason in REASONS
    } == dict(zip(REASONS, (3, 1, 5, 6, 2, 7, 8, 4, 2, 1), strict=True))
    by_program = {
        sample.labels["program"]: sample.value
        for family in made.collect()
        for sample in family.samples
        if sample.name == "etlt_probe_missed_runs_total"
    }
    assert by_program == {"sys_exit": 3}  # of the other one the kernel does not say


def test_the_table_shows_every_count_unrounded(snapshot: Snapshot) -> None:

    printed = io.StringIO()
    console = Console(width=110, file=printed)
    print_table(snapshot, 3.0, console, lite=False)
    text = printed.getvalue()
    counts = snapshot.groups[0].counts

    for call in counts.calls.values():
        assert f"{call.name} " in text
        assert str(call.calls) in text
    assert f"EAGAIN {counts.calls['recvfrom'].errors['EAGAIN']}" in text
    assert "256 to 511" in text
    assert "exited meanwhile" in text
    assert "sys_enter of the probe: 150 ns a run, mean of 2 timed runs" in text


def headline(snapshot: Snapshot, **counts: Any) -> str:
    out = io.StringIO()
    group = replace(snapshot.groups[0], counts=replace(snapshot.groups[0].counts, **counts))
    print_table(replace(snapshot, groups=(group,)), 3, Console(file=out, width=110), lite=False)
    return out.getvalue().splitlines()[1]


def test_waits_of_threads_that_have_ended_are_not_denied(snapshot: Snapshot) -> None:
    """A server that ended within the run did wait; what is unknown is said to be."""
    nothing = dict.fromkeys(snapshot.groups[0].counts.outcomes, 0)
    ended = headline(snapshot, loop_threads=0, loop_ns=8 * 10**9, blocked_ns=10**9)

    assert ended.startswith("no loop thread is left, blocked 12.5% of the time;")
    assert "unknown part of the time" in headline(snapshot, loop_threads=0, loop_ns=0)
    assert headline(snapshot, loop_threads=0, outcomes=nothing) == "no thread entered epoll_wait"
    assert headline(snapshot, loop_threads=1, outcomes=nothing).startswith("1 loop thread, blocked")


def test_returns_without_an_entry_are_a_footnote_not_a_secret(snapshot: Snapshot) -> None:
    (group, _) = snapshot.groups
    out = io.StringIO()
    unmatched = replace(
        snapshot, groups=(replace(group, counts=replace(group.counts, unmatched=7)),)
    )
    print_table(unmatched, 3, Console(file=out, width=110), lite=False)

    assert "7 returns without an entry that was seen, not counted" in out.getvalue()


@pytest.mark.parametrize(
    ("slot", "mean_ns", "shown"),
    [
        (8, 140, ["0.14", "0.256", "0.256"]),
        (20, 999_700, ["1000", "1049", "1049"]),
        (36, 67_100_000_123, ["67100000", "68719477", "68719477"]),
    ],
)
def test_times_are_written_out_and_the_edges_are_called_edges(
    slot: int, mean_ns: int, shown: list[str], snapshot: Snapshot
) -> None:
    """6.71e+04 is for nobody who has a server to look after."""
    (group, _) = snapshot.groups
    slots = tuple(int(index == slot) for index in range(38))
    call = replace(group.counts.calls["close"], durations=Histogram(slots, mean_ns), errors={})
    one = replace(group, counts=replace(group.counts, calls={"close": call}))
    out = io.StringIO()
    print_table(replace(snapshot, groups=(one,)), 3, Console(file=out, width=110), lite=False)
    (row,) = (line for line in out.getvalue().splitlines() if line.startswith("close "))

    assert row.split()[3:] == shown
    assert "p50 and p99 are upper edges of power-of-two buckets" in out.getvalue()
