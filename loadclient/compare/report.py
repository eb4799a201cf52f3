"""A study in words and tables, for people. Pure: a record in, text out.

Rule: the doubts come first. Whether the machine is fit is said before anybody is called better.
"""

from __future__ import annotations

import io
from copy import copy
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from loadclient.compare.study import MEASURED, PRIMARY
from loadclient.compare.verdict import OUTCOME, interval
from loadclient.report import duration, figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Column

    from loadclient.compare.study import ArmReport, CellReport, Design, Study

TWO_QUESTIONS = (
    f"Two questions were asked of each cell. The total effect, on {PRIMARY.title}, is what a user "
    "gets, larger or smaller batches included; by it a cell is called what it is called. The "
    "effect at equal batch is what is left of it where both arms passed on as many messages at "
    "once (least squares over the pairs' logarithms, Student's interval): a mode that moves the "
    "batches itself has a part of its total effect through them, and that is not in it. It takes "
    "for granted that nothing else moves cost and batch together."
)
EXPLORATORY = (
    "The other measures are exploratory: each is corrected for the number of cells, but none for "
    "there being several, so what they call better is a hint to be measured by itself. What is "
    "called equivalent is called so by its interval alone, not corrected for the number of cells."
)
PADDING = 3  # a blank on either side, and a line
WIDTH = 118  # where no terminal says how wide it is
SEEN_BY_THE_KERNEL = (
    "wakeups", "recvfrom", "recvfrom that found nothing", "sendto", "sendmsg", "epoll_ctl mod",
)  # fmt: skip


def text(study: Study, width: int = WIDTH) -> str:
    """Return the whole report."""
    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=False)
    for part in _parts(study):
        for piece in [part] if isinstance(part, str) else fitted(part, width):
            console.print(piece, soft_wrap=isinstance(piece, str), markup=False)
    file = console.file
    assert isinstance(file, io.StringIO)  # noqa: S101 - as given above
    return file.getvalue()


def fitted(table: Table, width: int) -> Iterator[Table]:
    """Yield *table*; if it is too wide, its columns in several, each with the two that name a row.

    A word that is cut is no word: "epo…" and "re…" were what 80 columns left of its heads.
    """
    named, rest = table.columns[:2], table.columns[2:]
    while rest:
        room = width - 1 - sum(_least(column) + PADDING for column in named)
        each = (_least(column) + PADDING for column in rest)
        taken = max(1, sum(used <= room for used in accumulate(each)))
        piece = copy(table)
        piece.columns = [
            replace(
                one,
                _index=place,
                min_width=_least(one),
                width=_least(one) if one.justify == "right" else None,
            )
            for place, one in enumerate([*named, *rest[:taken]])
        ]
        yield piece
        rest = rest[taken:]


def _least(column: Column) -> int:
    """Return the width that *column* needs: figures stay in one line, words whole."""
    cells = list(map(str, column.cells))
    whole = cells if column.justify == "right" else [w for cell in cells for w in cell.split()]
    return max(map(len, (*str(column.header).split(), *whole)), default=1)


def _parts(study: Study) -> Iterator[str | Table]:
    yield _heading(study)
    if study.cells:
        yield study.fitness.sentence
        yield ""
        yield _verdicts(study)
        yield _costs(study)
        yield _mechanisms(study)
        if any(one.kernel for one in study.kernel):
            yield _kernel_counts(study)
        if any(one.connections for one in study.woken):
            yield _who_wakes(study)
        yield "\n".join(_remarks(study))
    if study.original:
        yield from _original(study)
    yield "\n".join(f"- {note}" for note in study.notes)


def _heading(study: Study) -> str:
    design = study.design
    machine = study.environment
    state = "" if study.complete else ", NOT FINISHED: nothing below is final"
    where = (
        f"machine: {machine.get('cpu')}, {machine.get('usable_cores')} of "
        f"{machine.get('cores')} cores, Linux {machine.get('kernel')}, {machine.get('python')}"
    )
    lines = [
        f"comparison {study.study_id} ({design.preset}, seed {design.seed}{state})",
        f"command: {study.command}",
        where,
    ]
    if design.cells:
        lines.append(
            f"design: {len(design.cells)} cells x {design.pairs} pairs of slices of "
            f"{design.slice_seconds:g} s, {_lifetime(design)}, "
            f"intervals {design.confidence:.0%}, Holm across cells and both confirmatory measures"
        )
    if study.link is not None:
        lines.append(f"network: {study.link.sentence}")
    return "\n".join(lines)


def _lifetime(design: Design) -> str:
    shared = design.pairs_per_daemon
    if 1 < shared >= design.pairs:
        return "all pairs of a cell by the same two daemons"
    return f"fresh daemons for {'each pair' if shared == 1 else f'every {shared} pairs'}"


def _verdicts(study: Study) -> Table:
    table = Table(title="verdicts: ratio a over b (interval)", title_justify="left")
    table.add_column("cell")
    table.add_column("measure")
    table.add_column("ratio", justify="right")
    table.add_column("verdict")
    for report in study.cells:
        name = f"{report.cell}\n{report.a.name} over {report.b.name}, {report.pairs} pairs"
        for effect in report.effects:
            if not OUTCOME[effect.outcome].is_judged:
                continue
            title = OUTCOME[effect.outcome].title
            title += " (exploratory)" if effect.exploratory else ""
            table.add_row(name, title, interval(effect), effect.sentence)
            name = ""
        table.add_section()
    return table


def _costs(study: Study) -> Table:
    table = Table(title="medians of the slices", title_justify="left")
    table.add_column("cell")
    table.add_column("arm")
    judged = [outcome for outcome in MEASURED if outcome.is_judged]
    for outcome in judged:
        unit = "" if outcome.in_seconds else f"\n{outcome.unit}"
        table.add_column(f"{outcome.title}{unit}", justify="right")
    table.add_column("delivered", justify="right")
    for report in study.cells:
        for name, arm in ((report.cell, report.a), ("", report.b)):
            figures = [_median(arm, outcome.name) for outcome in judged]
            table.add_row(name, arm.name, *figures, _delivered(arm))
    return table


def _mechanisms(study: Study) -> Table:
    table = Table(title="what the daemons did, per message", title_justify="left")
    table.add_column("cell")
    table.add_column("arm")
    kinds = ("epoll_wait", "recvfrom", "sendto", "sendmsg")
    for name in (
        *kinds,
        "accept4",
        "EAGAIN reads",
        "ADDs",
        "MODs",
        "events\nper wakeup",
        "messages\nper batch",
    ):
        table.add_column(name, justify="right")
    for report in study.cells:
        for name, arm in ((report.cell, report.a), ("", report.b)):
            table.add_row(
                name,
                arm.name,
                *(figure(arm.syscalls_per_message.get(kind)) for kind in (*kinds, "accept4")),
                figure(arm.eagain_per_message.get("recvfrom")),
                figure(arm.epoll_ctl_per_message.get("add")),
                figure(arm.epoll_ctl_per_message.get("mod")),
                _median(arm, "events_per_wakeup"),
                _median(arm, "messages_per_batch"),
            )
    return table


def _kernel_counts(study: Study) -> Table:
    title = "what the kernel saw, per message, from slices of its own"
    table = Table(title=title, title_justify="left")
    table.add_column("cell")
    table.add_column("arm")
    for name in SEEN_BY_THE_KERNEL:
        table.add_column(name.replace(" that ", "\nthat "), justify="right")
    table.add_column("counts equal\nto the daemon's", justify="right")
    arms = {(r.cell, side): arm.name for r in study.cells for side, arm in (("a", r.a), ("b", r.b))}
    for one in study.kernel:
        if one.kernel and one.messages:
            each = [figure(one.kernel[name] / one.messages) for name in SEEN_BY_THE_KERNEL]
            agreed = f"{len(one.kernel) - len(one.contradictions)} of {len(one.kernel)}"
            cell = one.cell if one.arm == "a" else ""
            table.add_row(cell, arms[one.cell, one.arm], *each, agreed)
    return table


def _who_wakes(study: Study) -> Table:
    title = "who wakes for one connection while all loops sleep, per connection"
    table = Table(title=title, title_justify="left")
    table.add_column("cell")
    table.add_column("arm")
    for name in (
        "loops woken\n(kernel)",
        "epoll_wait returned\nfor it (daemons)",
        "accept4 in vain\n(daemons)",
    ):
        table.add_column(name, justify="right")
    arms = {(r.cell, side): arm.name for r in study.cells for side, arm in (("a", r.a), ("b", r.b))}
    for one in study.woken:
        if one.connections:
            each = (one.loops, one.returns, one.in_vain)
            figures = [f"{value / one.connections:.2f}" for value in each]
            cell = one.cell if one.arm == "a" else ""
            table.add_row(cell, arms[one.cell, one.arm], *figures)
    return table


def _median(arm: ArmReport, outcome: str) -> str:
    spread = arm.outcomes.get(outcome)
    if spread is None:
        return "-"
    return duration(spread.median) if OUTCOME[outcome].in_seconds else figure(spread.median)


def _delivered(arm: ArmReport) -> str:
    expected = arm.ledger.get("expected", 0)
    return f"{arm.ledger['received'] / expected:.6f}" if expected else "-"


def _remarks(study: Study) -> Iterator[str]:
    yield f"{TWO_QUESTIONS} {EXPLORATORY}"
    for report in study.cells:
        yield from _discarded(report)
        for check in report.fingerprint:
            if check.holds is False:
                yield f"{report.cell}: {check.arm}: not so: {check.claim} ({check.measured})"
    signs = [check.holds for report in study.cells for check in report.fingerprint]
    for one in study.kernel:
        if one.unavailable:
            yield f"the kernel was not asked: {one.unavailable}"
        for name in one.contradictions:
            yield (
                f"{one.cell}: the kernel counts {one.kernel[name]:.0f} {name}, "
                f"the daemon {one.daemon.get(name, 0):.0f}"
            )
    for woken in study.woken:
        if woken.unavailable:
            yield f"the kernel was not asked who wakes: {woken.unavailable}"
    unseen = f", {signs.count(None)} could not be looked at" if None in signs else ""
    yield f"fingerprints: {signs.count(True)} of {len(signs)} signs of the modes hold{unseen}"


def _discarded(report: CellReport) -> Iterator[str]:
    if report.discarded:
        why = "; ".join(f"{n} x {reason}" for reason, n in report.discarded_because.items())
        yield f"{report.cell}: {report.discarded} pairs discarded ({why})"


def _original(study: Study) -> Iterator[str | Table]:
    score = Table(title="the original's score, receiving off", title_justify="left")
    for name in ("size", "server", "sent, msg/s", '"bytes/s" (kB/s)', "published: msg/s"):
        score.add_column(name, justify="left" if name == "server" else "right")
    hidden = Table(title="what that score hides, when the sending ends", title_justify="left")
    for name in (
        "size", "server", "messages\nprocessed", "unread\nat the server",
        "in the clients'\nsend buffers", "in the server's\noutboxes", "copies\ndropped",
        "unread\nat the clients",
    ):  # fmt: skip
        hidden.add_column(name, justify="left" if name == "server" else "right")
    read = Table(title="the same load, everybody reading", title_justify="left")
    for name in ("size", "server", "delivered/s", "delivery ratio", "valid"):
        read.add_column(name, justify="left" if name in {"server", "valid"} else "right")
    for row in study.original:
        line = (f"{row.msg_bytes} B", row.server)
        score.add_row(
            *line,
            f"{row.sent_per_second:,.0f}",
            f"{row.kilobytes_per_second:,.1f}",
            figure(row.published_sent_per_second),
        )
        hidden.add_row(
            *line,
            figure(row.processed),
            size(row.unread_at_server_bytes),
            size(row.in_send_buffers_bytes),
            size(row.outbox_bytes),
            figure(row.dropped),
            size(row.unread_at_clients_bytes),
        )
        if row.delivery_ratio is not None:
            valid = "yes" if row.reading_valid else f"no: {'; '.join(row.reading_reasons)}"
            read.add_row(
                *line, figure(row.delivered_per_second), f"{row.delivery_ratio:.6f}", valid
            )
    yield score
    yield hidden
    yield read


def size(number: float | None) -> str:
    """Return a number of bytes with three digits and its unit."""
    if number is None:
        return "-"
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= width:
            return f"{number / width:.3g} {unit}"
    return f"{number:.0f} B"
