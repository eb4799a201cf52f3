"""The sections that have drawings. Pure: a study in, records out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.compare.html import plots, tables
from loadclient.compare.html.findings import (
    JUDGED,
    OUTCOME,
    apart,
    arms,
    asked,
    brief,
    control,
    directions,
    effect_of,
    medians,
    reported,
    verdicts,
)
from loadclient.compare.html.looks import MODES, SYSCALLS, arm_looks, syscall_color, verdict_look
from loadclient.compare.html.parts import Figure, Section, capital
from loadclient.compare.html.plots import Interval, Point
from loadclient.compare.verdict import interval, percent
from loadclient.report import duration, figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadclient.compare.html.findings import Reported
    from loadclient.compare.html.looks import Look
    from loadclient.compare.study import ArmReport, Outcome, Study

BY_SIZE = (
    ("deliveries_per_second", "delivered (1/s)", 1.0),
    ("latency_p50_seconds", "latency p50 (ms)", 1e3),
    ("latency_p99_seconds", "latency p99 (ms)", 1e3),
    ("cpu_ns_per_delivery", "server CPU per delivery (ns)", 1.0),
)
BY_THE_DAEMON = (
    "By the daemon's own counters, per message sent (not per copy). Reads that found nothing "
    "(EAGAIN) are what edge-triggered mode pays for draining; epoll_ctl MODs are what "
    "level-triggered mode pays for writing."
)
COUNTS = (
    ("wakeup_events", "events per wakeup", "events_per_wakeup"),
    ("batch_messages", "messages per batch", "messages_per_batch"),
)


def equal_daemons(study: Study) -> Section:
    """Show what the machine makes of two equal daemons."""
    pair = control(study)
    titles = {
        True: "Two equal daemons came out equal, as far as can be seen",
        False: "Two equal daemons came out different: this machine is unfit",
        None: "Nothing shows what this machine makes of two equal daemons",
    }
    figures = []
    if pair is not None:
        cell, report = pair
        rows = [_interval(pair, outcome, outcome.title) for outcome in JUDGED]
        figures = [
            Figure(
                title=f"{cell.name}, {report.pairs} pairs: the interval of each measure should "
                "contain 1",
                drawings=plots.forest(rows, study.design.margin, "ratio of two equal daemons"),
            )
        ]
    return Section(
        name="control",
        subject="A/A: two equal daemons",
        title=titles[study.fitness.fit],
        paragraphs=[
            "Two daemons that do not differ were compared like all others, under the load of the "
            f"first cell. On a fit machine their intervals contain 1; one in "
            f"{round(1 / (1 - study.design.confidence))} misses it by chance."
            if pair
            else study.fitness.sentence
        ],
        figures=figures,
    )


def ratios(study: Study) -> Section:
    """Show every ratio with its interval."""
    pairs = asked(study)
    first, second = arms(cell for cell, _ in pairs)
    margin = percent(study.design.margin)
    if not any(report.pairs for _, report in pairs):
        return Section(
            name="ratios",
            subject="Ratios",
            title="No ratios yet",
            paragraphs=["There are no valid pairs yet."],
        )
    figures = [
        Figure(
            title=f"{capital(outcome.title)}: {verdicts(pairs, outcome.name)}",
            note=_direction(outcome, first),
            drawings=plots.forest(
                [_interval(pair, outcome) for pair in reported(study)],
                study.design.margin,
                f"{outcome.title}: {first} ÷ {second}",
            ),
        )
        for outcome in JUDGED
    ]
    a, b = MODES["et"], MODES["lt"]
    return Section(
        name="ratios",
        subject="Ratios",
        title=capital(f"{apart(pairs, study.design.confidence)}; ±{margin} counts as none"),
        legend=[
            (a.glyph, a.color, "et better"),
            (b.glyph, b.color, "lt better"),
            ("◆", "var(--ink)", f"equivalent within ±{margin}"),
            ("◇", "var(--dim)", "inconclusive: no difference shown"),
            ("▲", "var(--dim)", "A/A: two equal daemons"),
            ("▒", "var(--band-key)", f"±{margin}"),
        ],
        figures=figures,
        tables=[tables.effects(reported(study))],
    )


def _direction(outcome: Outcome, first: str) -> str:
    better, side = ("Lower", "left") if outcome.lower_is_better else ("Higher", "right")
    return f"{better} is better: {side} of 1 is in favour of {first}."


def _interval(pair: Reported, outcome: Outcome, name: str = "") -> Interval:
    cell, report = pair
    effect = effect_of(report, outcome.name)
    if effect is None:
        return Interval(name or cell.name, "not measured")
    look = verdict_look(cell, effect.verdict)
    if cell.control and effect.ratio:
        look = verdict_look(cell, None)
    text = interval(effect) if effect.ratio else "no ratio"
    if look is None:
        text = "not comparable"
    return Interval(name or cell.name, text, look, effect.ratio, effect.low, effect.high)


def sizes(study: Study) -> Section:
    """Show what each arm measured against message size."""
    groups: dict[tuple[object, ...], list[Reported]] = {}
    for pair in asked(study):
        cell, _ = pair
        options = [tuple(sorted(arm.options.items())) for arm in (cell.a, cell.b)]
        key = (cell.drain, cell.shape, cell.a.name, cell.b.name, *options)
        groups.setdefault(key, []).append(pair)
    groups = {key: cells for key, cells in groups.items() if _differ_in_size(cells)}
    shown = [pair for cells in groups.values() for pair in cells]
    figures = [
        Figure(
            title=f"{capital(OUTCOME[name].title)}, {cells[0][0].shape.name}, "
            f"{cells[0][0].drain}: {verdicts(cells, name)}",
            drawings=(plots.by_size(arms_of, title),),
        )
        for cells in groups.values()
        for name, title, scale in BY_SIZE
        if (arms_of := _by_size(cells, name, scale))
    ]
    return Section(
        name="sizes",
        subject="Message size",
        title=f"By message size, throughput: {verdicts(shown, BY_SIZE[0][0])}"
        if figures
        else "Throughput and latency against message size",
        paragraphs=[
            "Marks are medians of the valid slices, upright lines their whole range. They are not "
            "intervals: what differs is said by the ratios above, which are paired."
            if figures
            else "No two cells differ in message size alone, or none has valid slices."
        ],
        legend=_mode_legend() if figures else (),
        figures=figures,
        tables=[tables.outcomes(reported(study))],
    )


def _differ_in_size(cells: Sequence[Reported]) -> bool:
    return len({cell.msg_bytes for cell, _ in cells}) > 1


def _by_size(cells: Sequence[Reported], name: str, scale: float) -> list[tuple[Look, list[Point]]]:
    looks = arm_looks(cells[0][0])
    found = []
    for look, sides in zip(looks, zip(*((r.a, r.b) for _, r in cells), strict=True), strict=True):
        points = [
            Point(
                cell.msg_bytes,
                spread.median * scale,
                f"{side.name}, {cell.msg_bytes} B: {spread.median * scale:.6g}",
                spread.low * scale,
                spread.high * scale,
            )
            for (cell, _), side in zip(cells, sides, strict=True)
            if (spread := side.outcomes.get(name))
        ]
        found.append((look, sorted(points, key=lambda point: point.x)))
    return found if all(points for _, points in found) else []


def latency(study: Study) -> Section:
    """Show the latency percentiles of each cell."""
    figures = [
        Figure(
            title=f"{cell.name}: p99, {verdict}",
            note=ratio,
            drawings=(
                plots.latency(
                    [
                        (look, _curve(side))
                        for look, side in zip(arm_looks(cell), (report.a, report.b), strict=True)
                    ]
                ),
            ),
        )
        for cell, report in reported(study)
        if report.a.latency_curve and report.b.latency_curve
        for verdict, ratio in [brief(cell, report, "latency_p99_seconds")]
    ]
    pairs = asked(study)
    return Section(
        name="latency",
        subject="Latency",
        title=f"Latency, p99: {verdicts(pairs, 'latency_p99_seconds')}" if figures else "Latency",
        paragraphs=[
            "Latency runs from when a message should have been sent. The slices of an arm are "
            "merged, percentiles are never averaged; both axes are logarithmic."
            if figures
            else "The study has no latencies."
        ],
        legend=_mode_legend() if figures else (),
        figures=figures,
        tables=[tables.latencies(reported(study))] if figures else (),
    )


def _curve(side: ArmReport) -> list[Point]:
    return [
        Point(fraction, seconds * 1e3, f"{side.name}, p{100 * fraction:g}: {duration(seconds)}")
        for fraction, seconds in side.latency_curve
    ]


def system_calls(study: Study) -> Section:
    """Show system calls per message, by kind."""
    pairs = reported(study)
    rows = [row for pair in pairs for row in _calls(pair)]
    if not rows:
        return Section(
            name="syscalls",
            subject="System calls",
            title="System calls per message",
            paragraphs=["The study has no counts of system calls."],
        )
    found = dict.fromkeys(row["kind"] for row in rows)
    kinds = [kind for kind in dict.fromkeys((*SYSCALLS, *found)) if kind in found]
    legend = [("■", syscall_color(kind), kind) for kind in kinds]
    title = f"System calls per message: {directions(asked(study), 'syscalls_per_message')}"
    return Section(
        name="syscalls",
        subject="System calls",
        title=title,
        paragraphs=[
            BY_THE_DAEMON,
        ],
        legend=legend,
        figures=[
            Figure(
                title=title,
                drawings=(plots.stacked(rows, plots.WIDE - 140), plots.stacked(rows, 220)),
            )
        ],
        tables=[tables.per_message(pairs)],
    )


def _calls(pair: Reported) -> Iterator[plots.Row]:
    cell, report = pair
    for look, side in zip(arm_looks(cell), (report.a, report.b), strict=True):
        for kind, calls in side.syscalls_per_message.items():
            nothing = side.eagain_per_message.get(kind, 0.0)
            empty = "recvfrom, nothing there" if kind == "recvfrom" else "send, no room"
            for name, number in ((kind, calls - nothing), (empty, nothing)):
                if number > 0:
                    yield {
                        "cell": cell.name,
                        "arm": f"{look.glyph} {side.name}",
                        "kind": name,
                        "calls": number,
                        "said": f"{cell.name}, {side.name}, {name}: {number:.6g} per message",
                    }


def wakeups(study: Study) -> Section:
    """Show how much each wakeup and each batch carried."""
    figures = [
        Figure(
            title=f"{cell.name}: {title}",
            note=f"median of the slices: {medians(cell, report, outcome, figure)}",
            drawings=(plots.distribution(_both(cell_pair, field_name), title),),
        )
        for cell_pair in reported(study)
        for cell, report in [cell_pair]
        for field_name, title, outcome in COUNTS
        if getattr(report.a, field_name) or getattr(report.b, field_name)
    ]
    found = directions(asked(study), "events_per_wakeup")
    return Section(
        name="wakeups",
        subject="Wakeups and batches",
        title=f"Events per wakeup: {found}" if figures else "Events per wakeup",
        paragraphs=[
            "How many events one return of epoll_wait brought, and how many messages were then "
            "passed on together. Buckets with less than 0.1 % are only in the tables."
            if figures
            else "The study has no counts of events per wakeup."
        ],
        legend=_mode_legend() if figures else (),
        figures=figures,
        tables=[
            tables.shares(reported(study), name, f"Share of {title}") for name, title, _ in COUNTS
        ]
        if figures
        else (),
    )


def _both(pair: Reported, name: str) -> list[tuple[Look, dict[str, float]]]:
    cell, report = pair
    sides = (report.a, report.b)
    return [(look, getattr(side, name)) for look, side in zip(arm_looks(cell), sides, strict=True)]


def _mode_legend() -> list[tuple[str, str, str]]:
    known = [(look.glyph, look.color, mode) for mode, look in MODES.items()]
    return [*known, ("□", "var(--dim)", "hollow, broken line: a second arm in the same mode")]
