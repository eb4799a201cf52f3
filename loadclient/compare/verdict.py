"""From an estimate to words. Pure.

The order of the questions is the point: may the two be compared at all, is the machine fit, is the
difference too small to matter, is it there, and if none of that can be said, what would it take?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING

from loadclient.compare.statistics import (
    detectable,
    estimate,
    holm,
    log_ratios,
    pairs_needed,
)
from loadclient.compare.study import OUTCOMES, Effect, Fitness, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadclient.compare.study import Cell, CellReport, Design, Outcome

OUTCOME = {outcome.name: outcome for outcome in OUTCOMES}


@dataclass(frozen=True, slots=True)
class Court:
    """What all verdicts of a study have in common."""

    design: Design
    comparisons: int
    unfit: tuple[str, ...] = ()


def measured(outcome: Outcome, pairs: Sequence[tuple[float, float]], court: Court) -> Effect:
    """Return what the *pairs* of one cell say about one outcome, without a verdict yet."""
    effect = Effect(outcome=outcome.name, pairs=len(pairs), exploratory=outcome.exploratory)
    differences = log_ratios(pairs)
    found = estimate(differences, court.design.confidence) if differences else None
    if differences is None or found is None:
        return replace(effect, sentence=_no_ratio(pairs))
    design = court.design
    is_judged = outcome.lower_is_better is not None
    cells, confidence = court.comparisons, design.confidence
    return replace(
        effect,
        ratio=exp(found.middle),
        low=exp(found.low),
        high=exp(found.high),
        p=found.p,
        detectable=detectable(differences, cells, confidence) if is_judged else None,
        pairs_needed=pairs_needed(found, len(pairs), design.margin, cells, confidence),
    )


def _no_ratio(pairs: Sequence[tuple[float, float]]) -> str:
    if pairs and not any(a or b for a, b in pairs):
        return "none in either"
    if pairs and not any(a and b for a, b in pairs):
        return "none in one of the two: a ratio says nothing"
    if not all(a and b for a, b in pairs):
        return "not in every pair: a ratio says nothing"
    return "too few pairs for a ratio with an interval"


def adjusted(effects: Mapping[str, Effect]) -> dict[str, Effect]:
    """Return one outcome's effects of all cells, each p corrected for there being several."""
    ps = holm({cell: effect.p for cell, effect in effects.items() if effect.p is not None})
    return {cell: replace(effect, p_holm=ps.get(cell)) for cell, effect in effects.items()}


def fitness(control: CellReport | None, confidence: float) -> Fitness:
    """Return what two equal daemons say of the machine."""
    if control is None:
        return Fitness()
    judged = [
        effect for effect in control.effects if OUTCOME[effect.outcome].lower_is_better is not None
    ]
    known = [] if control.not_comparable else [e for e in judged if e.low is not None]
    unknown = tuple(effect.outcome for effect in judged if effect not in known)
    if not known:
        return Fitness(
            sentence="The A/A arm has too few valid pairs: nothing shows what this machine makes "
            "of two equal daemons, so nothing is called better.",
            unfit_outcomes=unknown,
        )
    unfit = [e for e in known if e.low is not None and e.high is not None
             and not e.low <= 1 <= e.high]  # fmt: skip
    if unfit:
        what = "; ".join(f"{OUTCOME[e.outcome].title} {interval(e)}" for e in unfit)
        return Fitness(
            fit=False,
            sentence=f"Unfit: on this machine, today, two equal daemons came out different in "
            f"{what}. On such a measure nothing is called better. (One interval in "
            f"{round(1 / (1 - confidence))} misses 1 by chance.)",
            unfit_outcomes=(*(e.outcome for e in unfit), *unknown),
        )
    what = "; ".join(f"{OUTCOME[e.outcome].title} {interval(e)}" for e in known)
    return Fitness(
        fit=True,
        sentence=f"Two equal daemons came out equal, as far as can be seen: {what}.",
        unfit_outcomes=unknown,
    )


def judged(effect: Effect, cell: Cell, court: Court) -> Effect:
    """Return the effect with its verdict, if its outcome has one."""
    outcome = OUTCOME[effect.outcome]
    if outcome.lower_is_better is None:
        return effect
    kind, sentence = _verdict(effect, outcome, cell, court)
    return replace(effect, verdict=kind, sentence=sentence)


def _verdict(effect: Effect, outcome: Outcome, cell: Cell, court: Court) -> tuple[Kind, str]:
    if effect.ratio is None or effect.low is None or effect.high is None:
        return Kind.NOT_COMPARABLE, f"not comparable ({effect.sentence})"
    if outcome.name in court.unfit:
        return Kind.NOT_COMPARABLE, "not comparable (the A/A arm does not bear this machine out)"
    margin = court.design.margin
    if max(log(effect.high), -log(effect.low)) <= log(1 + margin):
        return Kind.EQUIVALENT, f"equivalent within ±{percent(margin)}"
    alpha = 1 - court.design.confidence
    differs = not effect.low <= 1 <= effect.high
    if differs and effect.p_holm is not None and effect.p_holm <= alpha:
        a_better = (effect.ratio < 1) == outcome.lower_is_better
        arm = cell.a if a_better else cell.b
        hint = " (exploratory)" if outcome.exploratory else ""
        return (Kind.A_BETTER if a_better else Kind.B_BETTER), f"{arm.name} better{hint}"
    return Kind.INCONCLUSIVE, _inconclusive(effect, differs=differs, margin=margin)


def _inconclusive(effect: Effect, *, differs: bool, margin: float) -> str:
    correction = "not after correction for the number of cells; " if differs else ""
    seen = (
        "with so few nothing could have been seen"
        if effect.detectable is None
        else f"could have seen {percent(effect.detectable)}"
    )
    return (
        f"inconclusive ({correction}would need about {effect.pairs_needed} pairs to see "
        f"{percent(margin)}; {seen})"
    )


def interval(effect: Effect) -> str:
    """Return a ratio with its interval, as people read it."""
    if effect.ratio is None or effect.low is None or effect.high is None:
        return "-"
    return f"{effect.ratio:.3f} ({effect.low:.3f} to {effect.high:.3f})"


def percent(share: float) -> str:
    """Return a share as a percentage with two digits."""
    return f"{share * 100:.2g} %" if share < 1 else f"{share * 100:.0f} %"
