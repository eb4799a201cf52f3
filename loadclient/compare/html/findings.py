"""Titles that say what was found, "no difference shown" included. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from loadclient.compare.html.parts import capital
from loadclient.compare.study import AT_EQUAL_BATCH, OUTCOMES, PRIMARY, Kind
from loadclient.compare.verdict import interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loadclient.compare.study import ArmReport, Cell, CellReport, Effect, Study

T = TypeVar("T")
OUTCOME = {outcome.name: outcome for outcome in OUTCOMES}
JUDGED = tuple(outcome for outcome in OUTCOMES if outcome.is_judged)
Reported = tuple["Cell", "CellReport"]


def reported(study: Study) -> list[Reported]:
    """Return the cells that have a report, the A/A arm first."""
    cells = {cell.name: cell for cell in study.design.cells}
    pairs = [(cells[report.cell], report) for report in study.cells if report.cell in cells]
    return sorted(pairs, key=lambda pair: not pair[0].control)


def asked(study: Study) -> list[Reported]:
    """Return the cells that ask a question, in the design's order."""
    return [pair for pair in reported(study) if not pair[0].control]


def control(study: Study) -> Reported | None:
    """Return the A/A arm, if there is one."""
    return next((pair for pair in reported(study) if pair[0].control), None)


def effect_of(report: CellReport, outcome: str) -> Effect | None:
    """Return what the cell says about *outcome*."""
    return next((effect for effect in report.effects if effect.outcome == outcome), None)


def arms(cells: Iterable[Cell]) -> tuple[str, str]:
    """Return what the two arms are called in all these cells."""
    names = {(cell.a.name, cell.b.name) for cell in cells}
    return names.pop() if len(names) == 1 else ("first arm", "second arm")


def headline(study: Study) -> str:
    """Return the page's title."""
    pairs = asked(study)
    if not pairs:
        return original_finding(study) if study.original else "Nothing was compared yet"
    return f"{capital(PRIMARY.title)}: {both(pairs)}"


def both(pairs: Sequence[Reported]) -> str:
    """Say how often each verdict was given on the total effect, and on that at equal batch."""
    total, equal = (verdicts(pairs, outcome.name) for outcome in (PRIMARY, AT_EQUAL_BATCH))
    return f"{total}; at equal batch: {equal}"


def original_finding(study: Study) -> str:
    """Say what the original's score makes of a server that never reads."""
    silent = [row.sent_per_second for row in study.original if row.server == "never reads"]
    if silent:
        return f"By the original's score a server that never reads makes {max(silent):,.0f} msg/s"
    return "The original's table, redone" if study.original else "The original's table: not redone"


def verdicts(pairs: Sequence[Reported], outcome: str) -> str:
    """Say how often each verdict was given on *outcome*."""
    first, second = arms(cell for cell, _ in pairs)
    words = {
        Kind.A_BETTER: f"{first} better",
        Kind.B_BETTER: f"{second} better",
        Kind.EQUIVALENT: "equivalent",
        Kind.INCONCLUSIVE: "no difference shown",
        Kind.NOT_COMPARABLE: "not comparable",
        Kind.UNFIT: "unfit",
    }
    effects = [effect_of(report, outcome) for _, report in pairs]
    hint = " (exploratory)" if OUTCOME[outcome].exploratory else ""
    return _tally([effect and effect.verdict for effect in effects], words) + hint


def apart(pairs: Sequence[Reported], confidence: float) -> str:
    """Say how many of the judged intervals do not contain 1, and how many chance makes."""
    found = [effect_of(report, outcome.name) for _, report in pairs for outcome in JUDGED]
    sides = [side for side in map(_direction, found) if side is not None]
    number = sum(map(bool, sides))
    by_chance = round((1 - confidence) * len(sides))
    return (
        f"{number or 'none'} of {len(sides)} intervals, each by itself, "
        f"{'lie' if number > 1 else 'lies'} on one side of 1, where chance alone would put about "
        f"{by_chance}"
    )


def directions(pairs: Sequence[Reported], outcome: str) -> str:
    """Say in how many cells which arm had more of what explains, by the interval alone."""
    first, _ = arms(cell for cell, _ in pairs)
    words = {
        1: f"more for {first}",
        -1: f"fewer for {first}",
        0: "no difference shown",
        None: "no ratio",
    }
    found = [_direction(effect_of(report, outcome)) for _, report in pairs]
    said = _tally(found, words)
    return f"{said} (each by its own interval, not corrected)" if any(found) else said


def _direction(effect: Effect | None) -> int | None:
    if effect is None or effect.low is None or effect.high is None:
        return None
    return int(effect.low > 1) - int(effect.high < 1)


def _tally(found: Sequence[object], words: Mapping[T, str]) -> str:
    """Say how many of *found* are which, in the order of *words*."""
    whole = len(found)
    counts = [(text, sum(one == key for one in found)) for key, text in words.items()]
    said = [(text, number) for text, number in counts if number]
    if whole == 1 and said:
        return said[0][0]
    if len(said) == 1:
        return f"{said[0][0]} in {'both' if whole == 2 else f'all {whole}'} cells"
    parts = [f"{text} in {number}" for text, number in said]
    return (f"{parts[0]} of {whole} cells, " + ", ".join(parts[1:])) if parts else "no verdict"


def sentence(cell: Cell, report: CellReport) -> str:
    """Return one cell's verdict with its interval, and what is left of it at equal batch."""
    effect, equal = (effect_of(report, outcome.name) for outcome in (PRIMARY, AT_EQUAL_BATCH))
    if effect is None:
        return report.sentence or "no verdict"
    if equal is None or report.not_comparable:
        return _told(cell, effect)
    return f"{_told(cell, effect)}. At equal batch: {_told(cell, equal)}"


def _told(cell: Cell, effect: Effect) -> str:
    if effect.ratio is None or effect.verdict is Kind.NOT_COMPARABLE:
        return effect.sentence
    return f"{effect.sentence}: {ratio(cell, effect)}, {effect.pairs} pairs"


def brief(cell: Cell, report: CellReport, outcome: str) -> tuple[str, str]:
    """Return one cell's verdict on *outcome* in two words, and its interval."""
    effect = effect_of(report, outcome)
    if effect is None or effect.ratio is None or effect.verdict is Kind.NOT_COMPARABLE:
        return "not comparable", ""
    return verdicts([(cell, report)], outcome), ratio(cell, effect)


def ratio(cell: Cell, effect: Effect) -> str:
    """Return the ratio of the arms with its interval."""
    return f"{cell.a.name} ÷ {cell.b.name} = {interval(effect)}"


def medians(cell: Cell, report: CellReport, outcome: str, shown: Callable[[float], str]) -> str:
    """Say what both arms measured in the middle."""
    return ", ".join(
        f"{arm.name} {_median(side, outcome, shown)}"
        for arm, side in ((cell.a, report.a), (cell.b, report.b))
    )


def _median(side: ArmReport, outcome: str, shown: Callable[[float], str]) -> str:
    spread = side.outcomes.get(outcome)
    return "not measured" if spread is None else shown(spread.median)
