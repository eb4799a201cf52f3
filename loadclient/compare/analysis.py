"""From slices to a study: pairs, effects, verdicts, and what each arm did. Pure.

Rule: a pair counts only if both of its slices are valid; one slice of a pair is never used alone.
Against a daemon every slice counts, also one that was measured again.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from loadclient.compare import fingerprint
from loadclient.compare.design import comparisons
from loadclient.compare.statistics import LEAST_PAIRS, coin
from loadclient.compare.study import (
    OUTCOMES,
    PRIMARY,
    ArmReport,
    CellReport,
    Fitness,
    Kind,
    Spread,
)
from loadclient.compare.verdict import Court, adjusted, fitness, judged, measured, measured_at_equal
from loadclient.histogram import Histogram, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadclient.compare.study import (
        Arm,
        Cell,
        Check,
        Design,
        Effect,
        KernelCounts,
        Outcome,
        Slice,
        Study,
    )

ONE_SIDED = 0.05  # chance of two equal arms to differ so in what was discarded
CURVE = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
Pair = tuple["Slice", "Slice"]


def analyse(
    design: Design,
    slices: Iterable[Slice],
    superseded: Iterable[Slice] = (),
    kernel: Iterable[KernelCounts] = (),
) -> tuple[Fitness, tuple[CellReport, ...]]:
    """Return what the slices say, cell by cell, in the design's order.

    Those *superseded* are in no pair; what they show of a daemon is not forgotten. An arm whose own
    counts the *kernel* contradicts is compared by nothing.
    """
    slices, superseded, kernel = list(slices), list(superseded), list(kernel)
    court = Court(design, max(1, comparisons(design)))
    drafts = [_draft(cell, slices, superseded, kernel, court) for cell in design.cells]
    asked = {draft.cell: draft for draft, cell in zip(drafts, design.cells, strict=True)
             if not cell.control}  # fmt: skip
    corrected = _corrected(list(asked.values()))
    controls = [draft for draft in drafts if draft.cell not in asked]
    fit = fitness(controls[0] if controls else None, design.confidence)
    court = replace(court, unfit=fit.unfit_outcomes)
    reports = (
        _report(replace(draft, effects=corrected.get(draft.cell, draft.effects)), cell, court)
        for draft, cell in zip(drafts, design.cells, strict=True)
    )
    return fit, tuple(reports)


def judged_again(study: Study) -> tuple[Fitness, tuple[CellReport, ...]]:
    """Return what a stored study's own evidence says by today's rules."""
    return analyse(study.design, study.slices, study.superseded, study.kernel)


def _draft(
    cell: Cell,
    slices: Sequence[Slice],
    superseded: Sequence[Slice],
    kernel: Sequence[KernelCounts],
    court: Court,
) -> CellReport:
    """Return a cell's report without verdicts."""
    mine = [one for one in slices if one.cell == cell.name]
    seen = [*(one for one in superseded if one.cell == cell.name), *mine]
    pairs, because, discarded = paired(mine)
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    shape = cell.shape
    conns = shape.conns - shape.slow_readers - shape.never_readers  # which it may have let go
    checks = (
        (*fingerprint.checks(cell.a, a, conns), *fingerprint.checks(cell.b, b, conns))
        if pairs
        else ()
    )
    return CellReport(
        cell=cell.name,
        pairs=len(pairs),
        discarded=discarded,
        discarded_because=because,
        fingerprint=checks,
        not_comparable=_misbehaviour(cell, seen)
        or _misbehaviour_probed(cell, kernel)
        or fingerprint.contradiction(cell, kernel)
        or _one_sided(cell, seen)
        or _shared_daemons(court.design)
        or _obstacle(cell, checks, pairs, discarded),
        effects=tuple(_measured(outcome, pairs, court) for outcome in OUTCOMES),
        a=arm_report(cell.a, a),
        b=arm_report(cell.b, b),
    )


def _misbehaviour_probed(cell: Cell, kernel: Iterable[KernelCounts]) -> str | None:
    """Return what an arm did wrong while the kernel was asked about it."""
    for one in kernel:
        if one.cell == cell.name and one.misbehaviour:
            name = cell.arms[one.arm].name
            return f"{name} misbehaved while the kernel was asked: {one.misbehaviour}"
    return None


def paired(slices: Iterable[Slice]) -> tuple[list[Pair], dict[str, int], int]:
    """Return one cell's valid pairs, why the others were discarded, and how many they are."""
    by_pair: dict[int, dict[str, Slice]] = {}
    for one in slices:
        by_pair.setdefault(one.pair, {})[one.arm] = one
    pairs: list[Pair] = []
    because: Counter[str] = Counter()
    discarded = 0
    for _, arms in sorted(by_pair.items()):
        if len(arms) < 2:
            continue  # interrupted; resuming measures it again
        if all(one.valid for one in arms.values()):
            pairs.append((arms["a"], arms["b"]))
            continue
        discarded += 1
        because.update({_kind(reason) for one in arms.values() for reason in one.reasons})
    return pairs, dict(because), discarded


def _kind(reason: str) -> str:
    """Return a reason without its numbers, so that equal reasons can be counted."""
    return re.sub(r"\d[\d.,]*", "N", reason)


def _measured(outcome: Outcome, pairs: Iterable[Pair], court: Court) -> Effect:
    if not outcome.of:
        return measured(outcome, _values(outcome.name, pairs), court)
    whole = [pair for pair in pairs if _values(outcome.of, [pair])
             and _values(outcome.at_equal, [pair])]  # fmt: skip
    costs, sizes = (_values(name, whole) for name in (outcome.of, outcome.at_equal))
    return measured_at_equal(outcome, costs, sizes, court)


def _values(outcome: str, pairs: Iterable[Pair]) -> list[tuple[float, float]]:
    values = [(a.outcomes.get(outcome), b.outcomes.get(outcome)) for a, b in pairs]
    return [(a, b) for a, b in values if a is not None and b is not None]


def _misbehaviour(cell: Cell, slices: Iterable[Slice]) -> str | None:
    """Return what an arm did wrong: one that loses or repeats is not judged by its good slices."""
    for one in slices:
        if why := one.misbehaviour:
            lost = sum(one.lost.values())
            what = f"lost {lost:,} messages" if lost else "misbehaved"
            return f"{cell.arms[one.arm].name} {what} in a slice: {why}"
    return None


def _one_sided(cell: Cell, slices: Sequence[Slice]) -> str | None:
    """Return which arm's bad slices were discarded: what is left would be chosen in its favour.

    Nobody can tell a machine that stumbled from a daemon that could not keep up, so a single slice
    more than the other arm has is enough. A late client may be either's doing, and whoever computes
    longer meets more of what the hypervisor takes: there the two arms' numbers must differ by more
    than chance makes them. Equal daemons have no favourite.
    """
    if cell.control:
        return None
    strained = Counter(one.arm for one in slices if one.is_strained)
    late = Counter(one.arm for one in slices if one.client_was_late)
    held_up = Counter(one.arm for one in slices if one.is_spoiled and not one.client_was_late)
    for found, what in (
        (strained, "could not keep up"),
        (late, "made the client late"),
        (held_up, "was held up by the machine"),
    ):
        worse, better = sorted("ab", key=lambda arm: -found[arm])
        more = found is strained and found[worse] > found[better]
        if more or coin(found[worse], found[better]) <= ONE_SIDED:
            return (
                f"{cell.arms[worse].name} {what} in {found[worse]} discarded slices, "
                f"{cell.arms[better].name} in {found[better]}: what is left is no fair choice"
            )
    return None


def _shared_daemons(design: Design) -> str | None:
    """Return why pairs are not independent, if they are not: a process is like itself."""
    if design.pairs_per_daemon == 1:
        return None
    return (
        f"{design.pairs_per_daemon} pairs share two processes: they do not count as so many, "
        "so the ratios name no winner"
    )


def _obstacle(
    cell: Cell, checks: Iterable[Check], pairs: Sequence[Pair], discarded: int
) -> str | None:
    """Return why the cell cannot be compared, if it cannot."""
    for check in checks:
        if check.holds is False:
            return f"{check.arm} was to show {check.claim}, but shows {check.measured}"
    a, b = [a for a, _ in pairs], [b for _, b in pairs]
    other = (
        fingerprint.unarmed(cell, cell.a, a)
        or fingerprint.unarmed(cell, cell.b, b)
        or fingerprint.mixture(a)
        or fingerprint.mixture(b)
        or fingerprint.difference(cell, a, b)
    )
    if other is not None:
        return other
    if len(pairs) < LEAST_PAIRS:
        return f"only {len(pairs)} valid pairs ({discarded} discarded), {LEAST_PAIRS} are needed"
    return None


def _corrected(drafts: Sequence[CellReport]) -> dict[str, tuple[Effect, ...]]:
    """Return each comparable cell's effects, each p corrected across cells.

    The confirmatory outcomes are one family; each of the others is one by itself.
    """
    compared = [draft for draft in drafts if draft.not_comparable is None]
    families: dict[str, dict[tuple[str, str], Effect]] = {}
    for draft in compared:
        for outcome, effect in zip(OUTCOMES, draft.effects, strict=True):
            family = "" if outcome.is_confirmatory else outcome.name
            families.setdefault(family, {})[draft.cell, outcome.name] = effect
    found: dict[tuple[str, str], Effect] = {}
    for row in families.values():
        found |= adjusted(row)
    return {d.cell: tuple(found[d.cell, outcome.name] for outcome in OUTCOMES) for d in compared}


def _report(draft: CellReport, cell: Cell, court: Court) -> CellReport:
    """Return the report with its verdicts; what the A/A arm says does not hang on itself."""
    if draft.not_comparable is not None:
        sentence = f"not comparable ({draft.not_comparable})"
        effects = tuple(
            replace(effect, verdict=Kind.NOT_COMPARABLE, sentence=_short(outcome, sentence))
            if outcome.is_judged
            else effect
            for outcome, effect in zip(OUTCOMES, draft.effects, strict=True)
        )
        return replace(draft, sentence=sentence, effects=effects)
    court = replace(court, unfit=()) if cell.control else court
    effects = tuple(judged(effect, cell, court) for effect in draft.effects)
    asked = [e for o, e in zip(OUTCOMES, effects, strict=True) if o.is_confirmatory]
    said = next((effect for effect in asked if effect.verdict is Kind.UNFIT), asked[0])
    verdict = said.verdict or Kind.NOT_COMPARABLE
    return replace(draft, effects=effects, verdict=verdict, sentence=said.sentence)


def _short(outcome: Outcome, sentence: str) -> str:
    """Return the reason once, at the primary outcome: it is the same for all."""
    return sentence if outcome is PRIMARY else "not comparable"


def arm_report(arm: Arm, slices: Sequence[Slice]) -> ArmReport:
    """Return what an arm's valid slices did, taken together."""
    sent = sum(one.sent for one in slices)
    return ArmReport(
        name=arm.name,
        mode=arm.mode,
        slices=len(slices),
        outcomes={o.name: spread for o in OUTCOMES if (spread := _spread(o, slices))},
        latency_curve=_curve(slices),
        syscalls_per_message=_shares((one.syscalls for one in slices), sent),
        eagain_per_message=_shares((one.eagain for one in slices), sent),
        epoll_ctl_per_message=_shares((one.epoll_ctl for one in slices), sent),
        wakeup_events=_shares(one.wakeup_events for one in slices),
        batch_messages=_shares(one.batch_messages for one in slices),
        ledger={
            "offered": sum(one.offered for one in slices),
            "sent": sent,
            "expected": sum(one.expected for one in slices),
            "received": sum(one.received for one in slices),
            "lost": sum(sum(one.lost.values()) for one in slices),
        },
    )


def _spread(outcome: Outcome, slices: Iterable[Slice]) -> Spread | None:
    values = [v for one in slices if (v := one.outcomes.get(outcome.name)) is not None]
    if not values:
        return None
    return Spread(median=median(values), low=min(values), high=max(values))


def _curve(slices: Iterable[Slice]) -> list[list[float]]:
    stored = [one.latency for one in slices if one.latency]
    if not stored:
        return []
    latency = merged(list(map(Histogram.from_json, stored)))
    points = ((fraction, latency.percentile(fraction)) for fraction in CURVE)
    return [[fraction, ns / 1e9] for fraction, ns in points if ns is not None]


def _shares(rows: Iterable[dict[str, float]], whole: float | None = None) -> dict[str, float]:
    """Return the sums of the rows over *whole*, or over their own total."""
    total: Counter[str] = Counter()
    for row in rows:
        for name, number in row.items():
            total[name] += number  # type: ignore[assignment]  # Counter is typed for int alone
    divisor = sum(total.values()) if whole is None else whole
    return {name: number / divisor for name, number in total.items()} if divisor else {}
