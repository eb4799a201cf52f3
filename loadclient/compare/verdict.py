"""From an estimate to words. Pure.

The order of the questions is the point: may the two be compared at all, is the machine fit, is the
difference too small to matter, is it there, and if none of that can be said, what would it take?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING, TypeVar

from loadclient.compare import ancova
from loadclient.compare.statistics import (
    detectable,
    estimate,
    holm,
    log_ratios,
    pairs_needed,
)
from loadclient.compare.study import CONFIRMATORY, OUTCOMES, Effect, Fitness, Kind

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from loadclient.compare.study import Cell, CellReport, Design, Outcome

K = TypeVar("K", bound="Hashable")
OUTCOME = {outcome.name: outcome for outcome in OUTCOMES}


@dataclass(frozen=True, slots=True)
class Court:
    """What all verdicts of a study have in common."""

    design: Design
    comparisons: int  # cells that ask a question
    unfit: tuple[str, ...] = ()

    def family(self, outcome: Outcome) -> int:
        """Return how many verdicts one on *outcome* is corrected for."""
        return self.comparisons * (len(CONFIRMATORY) if outcome.is_confirmatory else 1)


def measured(outcome: Outcome, pairs: Sequence[tuple[float, float]], court: Court) -> Effect:
    """Return what the *pairs* of one cell say about one outcome, without a verdict yet."""
    effect = Effect(outcome=outcome.name, pairs=len(pairs), exploratory=outcome.exploratory)
    differences = log_ratios(pairs)
    found = estimate(differences, court.design.confidence) if differences else None
    if differences is None or found is None:
        return replace(effect, sentence=_no_ratio(pairs))
    design = court.design
    family, confidence = court.family(outcome), design.confidence
    return replace(
        effect,
        ratio=exp(found.middle),
        low=exp(found.low),
        high=exp(found.high),
        p=found.p,
        detectable=detectable(differences, family, confidence) if outcome.is_judged else None,
        pairs_needed=pairs_needed(found, len(pairs), design.margin, family, confidence),
    )


def measured_at_equal(
    outcome: Outcome,
    pairs: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    court: Court,
) -> Effect:
    """Return what the *pairs* say about one outcome where the *sizes* of both arms are equal."""
    effect = Effect(outcome=outcome.name, pairs=len(pairs), exploratory=outcome.exploratory)
    costs, ratios = log_ratios(pairs), log_ratios(sizes)
    if costs is None or ratios is None:
        return replace(effect, sentence=_no_ratio(pairs if costs is None else sizes))
    if why := ancova.obstacle(ratios, OUTCOME[outcome.at_equal].title):
        return replace(effect, sentence=why)
    design, family = court.design, court.family(outcome)
    line = ancova.line(costs, ratios)
    half = line.half(design.confidence)
    return replace(
        effect,
        ratio=exp(line.alpha),
        low=exp(line.alpha - half),
        high=exp(line.alpha + half),
        p=line.p,
        slope=line.beta,
        detectable=line.detectable(family, design.confidence),
        pairs_needed=line.pairs_needed(design.margin, family, design.confidence),
    )


def _no_ratio(pairs: Sequence[tuple[float, float]]) -> str:
    if pairs and not any(a or b for a, b in pairs):
        return "none in either"
    if pairs and not any(a and b for a, b in pairs):
        return "none in one of the two: a ratio says nothing"
    if not all(a and b for a, b in pairs):
        return "not in every pair: a ratio says nothing"
    return "too few pairs for a ratio with an interval"


def adjusted(effects: Mapping[K, Effect]) -> dict[K, Effect]:
    """Return a family's effects, each p corrected for there being several."""
    ps = holm({key: effect.p for key, effect in effects.items() if effect.p is not None})
    return {key: replace(effect, p_holm=ps.get(key)) for key, effect in effects.items()}


def fitness(control: CellReport | None, confidence: float) -> Fitness:
    """Return what two equal daemons say of the machine."""
    if control is None:
        return Fitness()
    judged = [effect for effect in control.effects if OUTCOME[effect.outcome].is_judged]
    known = [] if control.not_comparable else [e for e in judged if e.low is not None]
    unknown = tuple(effect.outcome for effect in judged if effect not in known)
    if not known:
        return Fitness(
            sentence=f"The A/A arm shows nothing ({control.not_comparable or judged[0].sentence}): "
            "what this machine makes of two equal daemons is unknown, so nothing is called better.",
            unfit_outcomes=unknown,
        )
    unfit = [effect for effect in known if effect.leaves_one_out]
    if unfit:
        return _unfit(unfit, [effect.outcome for effect in judged], unknown, confidence)
    what = "; ".join(f"{OUTCOME[e.outcome].title} {interval(e)}" for e in known)
    return Fitness(
        fit=True,
        sentence=f"Two equal daemons came out equal, as far as can be seen: {what}.",
        unfit_outcomes=unknown,
    )


def _unfit(
    unfit: Sequence[Effect], judged: Sequence[str], unknown: Sequence[str], confidence: float
) -> Fitness:
    """Return what two equal daemons that came out different leave of the study."""
    what = "; ".join(f"{OUTCOME[e.outcome].title} {interval(e)}" for e in unfit)
    wholly = any(OUTCOME[effect.outcome].is_confirmatory for effect in unfit)
    left = (
        "No verdict of this study stands" if wholly else "On such a measure none is called better"
    )
    return Fitness(
        fit=False,
        sentence=f"Unfit: on this machine, today, two equal daemons came out different in {what}. "
        f"{left}. (One interval in {round(1 / (1 - confidence))} misses 1 by chance.)",
        unfit_outcomes=tuple(judged if wholly else (*(e.outcome for e in unfit), *unknown)),
    )


def judged(effect: Effect, cell: Cell, court: Court) -> Effect:
    """Return the effect with its verdict, if its outcome has one."""
    outcome = OUTCOME[effect.outcome]
    if not outcome.is_judged:
        return effect
    kind, sentence = _verdict(effect, outcome, cell, court)
    return replace(effect, verdict=kind, sentence=sentence)


def _verdict(effect: Effect, outcome: Outcome, cell: Cell, court: Court) -> tuple[Kind, str]:
    if effect.ratio is None or effect.low is None or effect.high is None:
        return Kind.NOT_COMPARABLE, f"not comparable ({effect.sentence})"
    if outcome.name in court.unfit:
        return Kind.NOT_COMPARABLE, "not comparable (the A/A arm does not bear this machine out)"
    if cell.control and effect.leaves_one_out:
        return Kind.UNFIT, "unfit (two equal daemons came out different)"
    margin = court.design.margin
    if max(log(effect.high), -log(effect.low)) <= log(1 + margin):
        return Kind.EQUIVALENT, f"equivalent within ±{percent(margin)} (by itself, not corrected)"
    alpha = 1 - court.design.confidence
    differs = effect.leaves_one_out
    if differs and effect.p_holm is not None and effect.p_holm <= alpha:
        a_better = (effect.ratio < 1) == outcome.lower_is_better
        arm = cell.a if a_better else cell.b
        hint = " (exploratory)" if outcome.exploratory else ""
        return (Kind.A_BETTER if a_better else Kind.B_BETTER), f"{arm.name} better{hint}"
    return Kind.INCONCLUSIVE, _inconclusive(effect, differs=differs, margin=margin)


def _inconclusive(effect: Effect, *, differs: bool, margin: float) -> str:
    correction = "not after correction for the number of verdicts; " if differs else ""
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
