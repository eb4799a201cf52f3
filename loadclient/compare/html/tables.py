"""Every figure of the study, in rows. Nothing is rounded here: that is the template's."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from loadclient.compare.html.plots import bucket
from loadclient.compare.study import OUTCOMES, Effect, OriginalRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadclient.compare.html.findings import Reported
    from loadclient.compare.study import ArmReport, Slice, Study

Value = str | float | bool | None
Rows = list[list[Value]]
SEEN = {True: "holds", False: "FAILS", None: "not shown"}
LATENCY_SUMMARY = ("sum", "max")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns, with a name by which a test, or a person's script, finds them."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


def effects(pairs: Iterable[Reported]) -> Table:
    """Return what the pairs say about every outcome, the explaining ones included."""
    names = [field.name for field in fields(Effect)]
    rows: Rows = [
        [cell.name, *(getattr(effect, name) for name in names)]
        for cell, report in pairs
        for effect in report.effects
    ]
    return Table("effects", "Ratios with their intervals", ["cell", *names], rows)


def outcomes(pairs: Iterable[Reported]) -> Table:
    """Return the middle and the ends of what each arm's valid slices measured."""
    rows: Rows = [
        [*arm, outcome.title, outcome.unit, spread.median, spread.low, spread.high]
        for arm, side in _sides(pairs)
        for outcome in OUTCOMES
        if (spread := side.outcomes.get(outcome.name))
    ]
    columns = [*ARM, "outcome", "unit", "median", "lowest slice", "highest slice"]
    return Table("outcomes", "What each arm measured", columns, rows)


def latencies(pairs: Iterable[Reported]) -> Table:
    """Return the latency of each arm at each percentile, all its slices merged."""
    sides = list(_sides(pairs))
    fractions = sorted({point[0] for _, side in sides for point in side.latency_curve})
    curves = [(arm, {point[0]: point[1] for point in side.latency_curve}) for arm, side in sides]
    rows = [[*arm, *(curve.get(fraction) for fraction in fractions)] for arm, curve in curves]
    columns = [*ARM, *(f"p{100 * fraction:g} (s)" for fraction in fractions)]
    return Table("latency", "Latency by percentile", columns, rows)


def shares(pairs: Iterable[Reported], field: str, title: str) -> Table:
    """Return one of the arms' tables of shares, by the upper edge of its buckets."""
    sides = list(_sides(pairs))
    edges = sorted({edge for _, side in sides for edge in getattr(side, field)}, key=float)
    rows = [[*arm, *(getattr(side, field).get(edge) for edge in edges)] for arm, side in sides]
    return Table(field, title, [*ARM, *map(bucket, edges)], rows)


def per_message(pairs: Iterable[Reported]) -> Table:
    """Return system calls, those of them that found nothing, and epoll_ctl by operation."""
    rows: Rows = [
        [*arm, what, kind, number]
        for arm, side in _sides(pairs)
        for what, counts in (
            ("system calls", side.syscalls_per_message),
            ("of these EAGAIN", side.eagain_per_message),
            ("epoll_ctl", side.epoll_ctl_per_message),
        )
        for kind, number in counts.items()
    ]
    return Table("syscalls", "Per message sent", [*ARM, "what", "kind", "per message"], rows)


def kernel(study: Study) -> Table:
    """Return what the kernel's probe and the daemon counted of the same slice."""
    names = _names(study)
    rows: Rows = [
        [one.cell, names.get((one.cell, one.arm), one.arm), one.messages, what, number,
         one.daemon.get(what), number / one.messages if one.messages else None]
        for one in study.kernel
        for what, number in one.kernel.items()
    ]  # fmt: skip
    columns = ["cell", "arm", "messages", "what", "kernel", "daemon", "kernel, per message"]
    return Table("kernel", "Counts of the kernel and of the daemon", columns, rows)


def _names(study: Study) -> dict[tuple[str, str], str]:
    return {
        (report.cell, arm): side.name
        for report in study.cells
        for arm, side in (("a", report.a), ("b", report.b))
    }


def woken(study: Study) -> Table:
    """Return who woke for connections made one by one while all loops slept."""
    names = _names(study)
    columns = ["cell", "arm", "connections", "loops woken", "epoll_wait returned for it",
               "accept4 in vain"]  # fmt: skip
    rows: Rows = [
        [one.cell, names.get((one.cell, one.arm), one.arm), one.connections, one.loops,
         one.returns, one.in_vain]
        for one in study.woken
        if one.connections
    ]  # fmt: skip
    return Table("woken", "Who wakes for a connection", columns, rows)


def ledger(pairs: Iterable[Reported]) -> Table:
    """Return what was owed and what came."""
    columns = ["offered", "sent", "expected", "received", "lost"]
    rows = [
        [*arm, side.slices, *(side.ledger.get(name) for name in columns), unaccounted(side)]
        for arm, side in _sides(pairs)
    ]
    return Table("ledger", "Messages and copies", [*ARM, "slices", *columns, "unaccounted"], rows)


def unaccounted(side: ArmReport) -> int | None:
    """Return copies that were neither received nor lost for a known reason."""
    owed, received = side.ledger.get("expected"), side.ledger.get("received")
    if owed is None or received is None:
        return None
    return owed - received - side.ledger.get("lost", 0)


def fingerprint(pairs: Iterable[Reported]) -> Table:
    """Return the signs that each mode was in force."""
    rows = [
        [cell.name, check.arm, check.claim, check.measured, SEEN[check.holds]]
        for cell, report in pairs
        for check in report.fingerprint
    ]
    return Table("fingerprint", "Fingerprints", ["cell", "arm", "claim", "measured", ""], rows)


def gates(study: Study, pairs: Iterable[Reported]) -> Table:
    """Return how many slices and pairs of each cell count."""
    rows: Rows = []
    for cell, report in pairs:
        mine = [one for one in study.slices if one.cell == cell.name]
        because = "; ".join(f"{why} ({n})" for why, n in report.discarded_because.items())
        invalid = sum(not one.valid for one in mine)
        rows.append(
            [cell.name, len(mine), invalid, study.design.pairs, report.pairs, report.discarded,
             because or "-"]
        )  # fmt: skip
    columns = ["cell", "slices measured", "of these invalid", "pairs planned", "pairs valid",
               "pairs discarded", "because (slices)"]  # fmt: skip
    return Table("gates", "Slices and pairs", columns, rows)


def original(rows: Iterable[OriginalRow]) -> Table:
    """Return the original's table, redone."""
    names = [field.name for field in fields(OriginalRow)]
    values = [[_plain(getattr(row, name)) for name in names] for row in rows]
    return Table("original", "The original's table, redone", names, values)


def facts(name: str, title: str, record: Mapping[str, Any]) -> Table:
    """Return a record, with the records in it, as names and values."""
    return Table(name, title, ["", "value"], [[key, value] for key, value in _flat(record).items()])


def loads(study: Study) -> Table:
    """Return what the cells differ in; what they have in common is in `common`."""
    flat = [_flat(asdict(cell)) for cell in study.design.cells]
    same = common(study)
    columns = [key for key in dict.fromkeys(key for row in flat for key in row) if key not in same]
    rows = [[row.get(column) for column in columns] for row in flat]
    return Table("cells", "What the cells differ in", columns, rows)


def common(study: Study) -> dict[str, Value]:
    """Return what all cells have in common."""
    first, *others = [_flat(asdict(cell)) for cell in study.design.cells] or [{}]
    return {
        key: value
        for key, value in first.items()
        if key != "name" and all(key in other and other[key] == value for other in others)
    }


def daemons(slices: Iterable[Slice]) -> Table:
    """Return builds and configurations as the daemons exported them, by mode."""
    found: dict[str, dict[str, set[str]]] = {}
    for one in slices:
        for key, value in (*one.build.items(), *one.config.items()):
            found.setdefault(key, {}).setdefault(one.mode, set()).add(value)
    modes = sorted({mode for by_mode in found.values() for mode in by_mode})
    rows = [
        [key, *(", ".join(sorted(found[key].get(mode, set()))) for mode in modes)] for key in found
    ]
    return Table("daemons", "The daemons, by their own metrics", ["", *modes], rows)


def raw(slices: Sequence[Slice]) -> Table:
    """Return every slice with every number, but for the latency histograms' slots."""
    flat = [_flat(_record(one)) for one in slices]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    rows = [[row.get(column) for column in columns] for row in flat]
    return Table("slices", "Slices", columns, rows)


def as_csv(table: Table) -> str:
    """Return the table as comma-separated values; what was not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.columns, *table.rows])
    return text.getvalue()


ARM = ("cell", "arm", "mode")


def _sides(pairs: Iterable[Reported]) -> Iterable[tuple[tuple[str, str, str], ArmReport]]:
    for cell, report in pairs:
        for side in (report.a, report.b):
            yield (cell.name, side.name, side.mode), side


def _record(one: Slice) -> dict[str, Any]:
    record = {field.name: getattr(one, field.name) for field in fields(one)}
    histogram = record.pop("latency")
    record["latency_ns"] = {key: histogram[key] for key in LATENCY_SUMMARY if key in histogram}
    record["latency_ns"]["samples"] = sum(histogram.get("slots", {}).values())
    return record


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Value:
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    return value if isinstance(value, (int, float, bool)) or value is None else str(value)
