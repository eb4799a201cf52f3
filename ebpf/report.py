"""One run for people (a table) and for programs (JSON).

Rule: the report says what it could not see before it says what it saw, and never rounds a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from ebpf.decode import CallCounts, GroupCounts, upper_edge
from ebpf.doubts import doubts, many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ebpf.watch import Group, Snapshot

SCHEMA = "etlt.probe/1"
BAR_CELLS = 24
MICROSECOND_NS = 1e3
WHOLE_MICROSECONDS = 999.5  # from here on three digits are no fraction, and would be 1e+03

MEANINGS = {
    "wakeup": "slept, then events",
    "ready": "events at once",
    "timeout": "slept, no events",
    "empty": "no events, did not sleep",
    "interrupted": "by a signal",
    "failed": "with an error",
}


def as_json(snapshot: Snapshot, seconds: float, *, lite: bool) -> dict[str, Any]:
    """Return the run as plain data."""
    return {
        "schema": SCHEMA,
        "elapsed_seconds": seconds,
        "lite": lite,
        "complete": not any(doubts(snapshot)),
        "doubts": [doubt.sentence for doubt in doubts(snapshot)],
        "programs": {
            name: {"missed": program.missed, "runs": program.runs, "run_ns": program.run_ns}
            for name, program in snapshot.programs.items()
        },
        "groups": [_group_json(group, lite=lite) for group in snapshot.groups],
    }


def _group_json(group: Group, *, lite: bool) -> dict[str, Any]:
    counts = group.counts
    return {
        "mode": group.label.mode,
        "comm": group.label.comm,
        "pids": list(group.pids),
        "loop_threads": counts.loop_threads,
        "loop_thread_seconds": counts.loop_ns / 1e9,
        "epoll_waits": dict(counts.outcomes),
        "epoll_events": counts.events.total,
        "epoll_events_per_wait": _slots_json(counts.events.slots),
        "epoll_blocked_seconds": counts.blocked_ns / 1e9,
        "epoll_ctl": dict(counts.operations),
        "context_switches": dict(counts.switches),
        "syscalls": {name: _call_json(call, lite=lite) for name, call in counts.calls.items()},
        "other_thread_syscalls": counts.other_threads,
        "unmatched_exits": counts.unmatched,
        "untracked_calls": counts.untracked,
    }


def _call_json(call: CallCounts, *, lite: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"calls": call.calls, "errors": dict(call.errors)}
    if call.transferred is not None:
        record["bytes"] = call.transferred
    if not lite:
        record["seconds"] = call.durations.total / 1e9
        record["duration_ns"] = _slots_json(call.durations.slots)
    return record


def _slots_json(slots: tuple[int, ...]) -> list[list[int | None]]:
    """Return [upper edge, count] of each slot in use; the open one has no edge."""
    last = len(slots) - 1
    return [[upper_edge(k) if k < last else None, n] for k, n in enumerate(slots) if n]


def print_table(snapshot: Snapshot, seconds: float, console: Console, *, lite: bool) -> None:
    """Print the run."""
    for group in snapshot.groups:
        console.print(_group_table(group, seconds, lite=lite))
        console.print()
    for sentence in _price(snapshot):
        console.print(sentence, style="dim", highlight=False)
    found = list(doubts(snapshot))
    for doubt in found:
        console.print(
            f"incomplete: {doubt.sentence}", style="bold red", highlight=False, markup=False
        )
    if not found:
        console.print("complete: no run of the probe was missed, no call untracked", style="green")


def _price(snapshot: Snapshot) -> Iterator[str]:
    """Yield what a run of each program took, where the kernel timed them (`--stats`)."""
    for name, program in snapshot.programs.items():
        if program.runs:
            mean = program.run_ns / program.runs
            yield f"{name} of the probe: {mean:.0f} ns a run, mean of {program.runs} timed runs"


def _group_table(group: Group, seconds: float, *, lite: bool) -> Lines:
    return Lines(
        Text(_headline(group, seconds), style="bold"),
        Text(_busy(group.counts)),
        Text(),
        _waits(group.counts, seconds),
        *_events(group.counts),
        Text(),
        _calls(group.counts, seconds, lite=lite),
        *_footnotes(group.counts, lite=lite),
    )


def _headline(group: Group, seconds: float) -> str:
    pids = ", ".join(map(str, group.pids)) or f"{group.last} meanwhile"
    mode = "" if group.label.mode == "unknown" else f", mode {group.label.mode}"
    return f"{group.label.comm} (pid {pids}{mode}): {seconds:.2f} s"


def _busy(counts: GroupCounts) -> str:
    threads = counts.loop_threads
    if not counts.waits and not threads:
        return "no thread entered epoll_wait"
    who = many(threads, "loop thread") if threads else "no loop thread is left"
    if not counts.loop_ns:
        time = "blocked for an unknown part of the time"
    else:
        time = f"blocked {counts.blocked_ns / counts.loop_ns:.1%} of the time"
    switches = counts.switches
    return (
        f"{who}, {time}; context switches {switches['voluntary']} voluntary, "
        f"{switches['involuntary']} involuntary"
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _waits(counts: GroupCounts, seconds: float) -> Table:
    table = _table("epoll_wait returned", "count", "per s", "")
    table.columns[-1].justify = "left"
    for outcome, count in counts.outcomes.items():
        table.add_row(outcome, str(count), f"{count / seconds:.1f}", MEANINGS[outcome])
    return table


def _events(counts: GroupCounts) -> Iterator[Text | Table]:
    events = counts.events
    if not events.count:
        return
    yield Text()
    table = _table("events per wait", "waits", "")
    table.columns[-1].justify = "left"
    highest = max(slot for slot, count in enumerate(events.slots) if count)
    for slot in range(1, highest + 1):
        low, high = upper_edge(slot - 1) + 1, upper_edge(slot)
        edges = str(low) if low == high else f"{low} to {high}"
        bar = "█" * round(BAR_CELLS * events.slots[slot] / max(events.slots))
        table.add_row(
            f"{low} or more" if slot == len(events.slots) - 1 else edges,
            str(events.slots[slot]),
            bar,
        )
    yield table
    yield Text(f"{events.total} events in all, {events.total / events.count:.2f} per wait with any")


def _calls(counts: GroupCounts, seconds: float, *, lite: bool) -> Table:
    timing = () if lite else ("mean µs", "p50 < µs", "p99 < µs")
    table = _table("system call", "calls", "per s", "bytes", *timing, "errors")
    table.columns[-1].justify = "left"
    for call in sorted(counts.calls.values(), key=lambda call: -call.calls):
        table.add_row(
            call.name,
            str(call.calls),
            f"{call.calls / seconds:.1f}",
            "" if call.transferred is None else str(call.transferred),
            *(() if lite else _timing(call)),
            ", ".join(f"{name} {count}" for name, count in sorted(call.errors.items())),
        )
    return table


def _timing(call: CallCounts) -> tuple[str, str, str]:
    """Return the mean, and the edges that half and 99 % of the calls stay under."""
    edges = (call.durations.quantile_edge(share) for share in (0.5, 0.99))
    bounds = ["" if edge is None else _microseconds(edge + 1) for edge in edges]
    return _microseconds(call.durations.total / call.calls), bounds[0], bounds[1]


def _microseconds(nanoseconds: float) -> str:
    value = nanoseconds / MICROSECOND_NS
    return f"{value:.0f}" if value >= WHOLE_MICROSECONDS else f"{value:.3g}"


def _footnotes(counts: GroupCounts, *, lite: bool) -> Iterator[Text]:
    if counts.calls and not lite:
        yield Text(
            "p50 and p99 are upper edges of power-of-two buckets: at most twice the true value"
        )
    if counts.calls.get("epoll_ctl"):
        operations = ", ".join(f"{name} {count}" for name, count in counts.operations.items())
        yield Text(f"epoll_ctl: {operations}")
    if counts.other_threads:
        calls = many(counts.other_threads, "call")
        yield Text(f"{calls} of threads without an epoll loop, not counted")
    if counts.unmatched:
        yield Text(
            f"{many(counts.unmatched, 'return')} without an entry that was seen, not counted: "
            "of a call in progress when the probe came, or of a new thread"
        )
