"""Hold every expression of boards and rules to its truth, on whatever Prometheus recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dashboards import rules
from tests.boards import truth
from tests.boards.asking import ask, limited, our_boards, over_all_of_it
from tests.boards.witnesses import END

if TYPE_CHECKING:
    from tests.boards.asking import Answer, Prometheus, Span
    from tests.boards.truth import Truth
    from tests.boards.witnesses import Values, View

EXPRESSIONS = dict(rules.expressions())
HOME = "etlt / ET vs LT"
SIDES = {"left": "lt", "right": "et"}


class Recorded(Protocol):
    """What was recorded of two equal loads, and what the exporters said meanwhile."""

    @property
    def spans(self) -> dict[str, Span]:
        """Return from rest to each moment: during the load, after it, and in trouble."""

    @property
    def has_probe(self) -> bool:
        """Tell whether the kernel let us watch."""

    @property
    def has_stats(self) -> bool:
        """Tell whether the kernel measured the probe's programs."""

    @property
    def slack(self) -> float:
        """Return how much less exact it is than scrapes a second apart."""

    def view(self, moment: str) -> View:
        """Return what the exporters said at a moment, and since the beginning."""


def board(title: str) -> dict[str, Any]:
    """Return the committed board of this title."""
    (found,) = [one for one in our_boards() if one["title"] == title]
    return found


def needs_probe(answer: Answer) -> bool:
    """Tell whether there is no answer without a probe."""
    return "etlt_probe_" in answer.expr or "$probe" in answer.where or "Kernel" in answer.where


def values(answer: Answer) -> Values:
    """Return the last values by labels."""
    assert not answer.error, answer
    return {
        frozenset(labels.items()) - {("__name__", labels.get("__name__"))}: series[-1]
        for labels, series in answer.series
    }


def wrong(recorded: Recorded, wanted: Truth, answer: Answer) -> list[str]:
    """Return what is not true of *answer*."""
    if needs_probe(answer) and not recorded.has_probe:
        return []
    if "bpf_run" in answer.expr and not recorded.has_stats:
        return []
    found = wanted.faults(recorded.view(wanted.at), values(answer), recorded.slack)
    return [f"{answer.where}: {fault}: {answer.expr}" for fault in found]


def offered(prometheus: Prometheus, span: Span) -> list[tuple[str, set[str]]]:
    """Return every variable of every board, with what it offers."""
    return [
        (answer.where.partition("$")[2], {labels["value"] for labels, _ in answer.series})
        for answer in ask(prometheus.url, our_boards(), [], span, SIDES)
        if "$" in answer.where
    ]


def faults_of_board(prometheus: Prometheus, recorded: Recorded, title: str) -> list[str]:
    """Return what is not true of a board; a panel of no known truth has no business there."""
    found = {
        moment: {
            answer.where: answer
            for answer in ask(prometheus.url, [board(title)], [], span.at_a_glance(), SIDES)
            if "$" not in answer.where and "annotation" not in answer.where
        }
        for moment, span in recorded.spans.items()
    }
    known = [
        (f"{title}: {panel}: {letter}", one)
        for panel, truths in truth.BOARDS[title].items()
        for letter, one in zip("ABCDEF", truths, strict=False)
    ]
    assert sorted(found[END]) == sorted(where for where, _ in known)
    return [w for where, one in known for w in wrong(recorded, one, found[one.at][where])]


def faults_of_rule(prometheus: Prometheus, recorded: Recorded, name: str) -> list[str]:
    """Return what is not true of a rule; of an alert, of what it compares with its limits."""
    found = []
    for part, wanted in parts(name, EXPRESSIONS[name]):
        span = recorded.spans[wanted.at]
        answer = prometheus.instant(name, over_all_of_it(part, span), span.end)
        found += wrong(recorded, wanted, answer)
    return found


def in_place(expr: str) -> str:
    """Return an expression of rules without what is recorded: no load here lasts that long."""
    for rule in rules.RECORDINGS:
        expr = expr.replace(rule.record, f"({rule.expr})")
    return expr


def parts(name: str, expr: str) -> list[tuple[str, Truth]]:
    """Return what a rule or an alert computes, and the truth of each."""
    if name in truth.RECORDINGS:
        return list(zip([expr], truth.RECORDINGS[name], strict=True))
    return list(zip(limited(in_place(expr)), truth.ALERTS[name], strict=True))
