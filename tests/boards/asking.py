"""Ask a real Prometheus every expression of boards and rules, as Grafana would.

`ask` returns what each panel, variable, annotation, rule and alert got for an answer; `faults` says
which got none, an error, or a number that is none. An alert that does not fire answers nothing, so
its selectors are asked: each must find series.
"""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser as promql

from dashboards.lint import (
    annotation_queries,
    board_from,
    interpolate,
    panels,
    query_of,
    variables,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

GENERATED = Path(__file__).parents[2] / "dashboards" / "generated"
LABEL_VALUES = re.compile(r"label_values\((?:(.+),)?\s*(\w+)\)", re.DOTALL)
QUERY_RESULT = re.compile(r"query_result\((.+)\)", re.DOTALL)
TIMEOUT_SECONDS = 30
ALL = "$__all"

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """The time range of a board, Unix seconds; *history* is where annotations begin.

    *at_end* asks all panels for their value at the end alone.
    """

    start: float
    end: float
    step: int = 1
    rate_interval: str = "10s"
    history: float = 0
    at_end: bool = False

    @property
    def seconds(self) -> int:
        """Return how long it is, in whole seconds, as Grafana says it; no less than it is."""
        return math.ceil(self.end - self.start)

    def at_a_glance(self) -> Span:
        """Return the same, looked at from its end, with rates over all of it."""
        return replace(self, rate_interval=f"{self.seconds}s", at_end=True)

    def globals(self) -> dict[str, str]:
        """Return Grafana's own variables."""
        return {
            "__range": f"{self.seconds}s",
            "__range_s": str(self.seconds),
            "__interval": f"{self.step}s",
            "__rate_interval": self.rate_interval,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What one expression yielded: (labels, values) per series."""

    where: str
    expr: str
    series: list[tuple[Labels, list[float]]] = field(default_factory=list)
    error: str = ""

    @property
    def fault(self) -> str:
        """Return what is wrong with it, or nothing."""
        if self.error:
            return self.error
        values = [value for _, values in self.series for value in values]
        if not values:
            return "empty"
        return "" if all(map(math.isfinite, values)) else "not finite"

    @property
    def last(self) -> float:
        """Return the only series' last value."""
        ((_, values),) = self.series
        return values[-1]


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer.

        Raises:
            ValueError: Prometheus says that something is wrong, and what.
        """
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(  # noqa: S310 - http by construction
                f"{self.url}/api/v1/{path}?{query}", timeout=TIMEOUT_SECONDS
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.load(error).get("error", str(error))) from None

    def instant(self, where: str, expr: str, at: float) -> Answer:
        """Ask for the values at one moment."""
        return self._answer(where, expr, "query", time=at)

    def over(self, where: str, expr: str, start: float, end: float, step: float) -> Answer:
        """Ask for the values over a time."""
        return self._answer(where, expr, "query_range", start=start, end=end, step=step)

    def _answer(self, where: str, expr: str, path: str, **times: float) -> Answer:
        try:
            data = self.get(path, query=expr, **times)
        except ValueError as error:
            return Answer(where, expr, error=str(error))
        if data["resultType"] == "scalar":
            return Answer(where, expr, [({}, [float(data["result"][1])])])
        return Answer(
            where,
            expr,
            [
                (one["metric"], [float(v) for _, v in one.get("values") or [one["value"]]])
                for one in data["result"]
            ],
        )


def needs_bus(answer: Answer) -> bool:
    """Tell whether it is about something that only instances on a bus have."""
    return "etltd_bus_" in answer.expr


def our_boards() -> list[dict[str, Any]]:
    """Return the committed boards."""
    return [board_from(path.read_text()) for path in sorted(GENERATED.glob("*.json"))]


def faults(answers: Iterable[Answer]) -> list[str]:
    """Return a line for each answer that is none."""
    return [f"{a.where}: {a.fault}: {a.expr}" for a in answers if a.fault]


def ask(
    url: str,
    boards: Iterable[dict[str, Any]],
    rules: Iterable[tuple[str, str]],
    span: Span,
    choices: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Ask everything; *choices* are values of variables, such as ``{"left": "lt"}``."""
    prometheus = Prometheus(url)
    answers: list[Answer] = []
    for board in boards:
        values = span.globals()
        for answer, name, value in _choose(prometheus, board, span, values, choices or {}):
            answers += answer
            values[name] = value
        answers += _panels(prometheus, board, span, values)
        answers += _annotations(prometheus, board, span, values)
    for name, expr in rules:
        answers += _rule(prometheus, name, expr, span)
    return answers


def _choose(
    prometheus: Prometheus,
    board: dict[str, Any],
    span: Span,
    values: dict[str, str],
    choices: Mapping[str, str],
) -> Iterator[tuple[list[Answer], str, str]]:
    """Yield what each variable offers, its name and its value, in the order of the board."""
    for variable in variables(board):
        name = variable["name"]
        answers = []
        if variable["type"] == "query":
            where = f"{board['title']}: ${name}"
            answers = [_offer(prometheus, where, variable, span, values)]
        current = (variable.get("current") or {}).get("value") or ""
        shown = variable.get("allValue") if current in (ALL, [ALL]) else current
        yield answers, name, choices.get(name, shown or "")


def _offer(
    prometheus: Prometheus,
    where: str,
    variable: dict[str, Any],
    span: Span,
    values: dict[str, str],
) -> Answer:
    """Return the values a variable offers as series of one label."""
    query = interpolate(query_of(variable), values)
    try:
        offered = _offered(prometheus, query, variable.get("regex") or "", span)
    except ValueError as error:
        return Answer(where, query, error=str(error))
    return Answer(where, query, [({"value": text}, [1.0]) for text in offered])


def _offered(prometheus: Prometheus, query: str, regex: str, span: Span) -> Sequence[str]:
    if match := LABEL_VALUES.fullmatch(query):
        selector = {"match[]": match[1]} if match[1] else {}
        found: list[str] = prometheus.get(
            f"label/{match[2]}/values", **selector, start=span.start, end=span.end
        )
        return found
    match = QUERY_RESULT.fullmatch(query)
    if not match:
        raise ValueError(f"not a query of a variable: {query}")
    data = prometheus.get("query", query=match[1], time=span.end)
    texts = [  # as Grafana writes a series before it applies the expression
        one["metric"].get("__name__", "")
        + "{"
        + ",".join(f'{k}="{v}"' for k, v in one["metric"].items() if k != "__name__")
        + "} 1"
        for one in data["result"]
    ]
    matches = (re.search(regex.strip("/"), text) for text in texts)
    return [match[1] for match in matches if match]


def _panels(
    prometheus: Prometheus, board: dict[str, Any], span: Span, values: dict[str, str]
) -> Iterator[Answer]:
    for panel in panels(board):
        for target in panel.get("targets") or []:
            where = f"{board['title']}: {panel['title']}: {target['refId']}"
            expr = interpolate(target["expr"], values)
            if target.get("instant") or span.at_end:
                yield prometheus.instant(where, expr, span.end)
            else:
                yield prometheus.over(where, expr, span.start, span.end, span.step)


def _annotations(
    prometheus: Prometheus, board: dict[str, Any], span: Span, values: dict[str, str]
) -> Iterator[Answer]:
    for annotation in annotation_queries(board):
        where = f"{board['title']}: annotation {annotation['name']}"
        expr = interpolate(annotation["expr"], values)
        yield prometheus.over(where, expr, span.history or span.start, span.end, span.step)


def _rule(prometheus: Prometheus, name: str, expr: str, span: Span) -> Iterator[Answer]:
    expr = expr.replace("offset 30s", "offset 2s")  # no load here lasts so long
    if ":" in name:
        yield prometheus.over(f"rule {name}", expr, span.start, span.end, span.step)
        if "steady" not in name:  # for half a minute: not here
            recorded = f"last_over_time({name}[{span.seconds}s])"
            yield prometheus.instant(f"rule {name}: recorded", recorded, span.end)
        return
    answer = prometheus.instant(f"alert {name}", expr, span.end)
    if answer.error:
        yield answer
    selectors = {str(n) for n, _ in walk(promql.parse(expr)) if _is_selector(n)}
    for selector in sorted(one for one in selectors if "steady" not in one):
        asked = f"last_over_time({selector}[{span.seconds}s])"
        yield prometheus.instant(f"alert {name}: {selector}", asked, span.end)


COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
WINDOW = re.compile(r"\[(?:30s|1m|5m)\]")
LEAST = re.compile(r"(min_over_time\([^[]+)\[1m\]")


def limited(expr: str) -> list[str]:
    """Return what an alert's expression compares with a limit, in its order; outermost only."""
    return list(_limited(promql.parse(expr)))


def _limited(node: Any) -> Iterator[str]:
    if isinstance(node, promql.BinaryExpr) and str(node.op) in COMPARISONS:
        yield str(node.lhs)
        return
    for below, above in walk(node):
        if above == (node,):
            yield from _limited(below)


def over_all_of_it(expr: str, span: Span) -> str:
    """Return a rule's expression with rates over the whole span, however short it is.

    What must have been so for half a minute, or at least for a minute, need only be so for seconds.
    """
    expr = LEAST.sub(rf"\1[{2 * span.step}s]", expr.replace("offset 30s", "offset 2s"))
    return WINDOW.sub(f"[{span.seconds}s]", expr)


def _is_selector(node: Any) -> bool:
    return isinstance(node, promql.VectorSelector)
