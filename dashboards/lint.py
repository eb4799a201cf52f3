"""The rules of the public dashboard-linter (Prometheus ones), on a real parser's tree of PromQL.

Ported from their documentation, with three differences, each stricter or said here:

- A board may have several jobs. `$job` and every `$…_job` are held to the rules of `$job`, and
  `$instance` goes with `$job` as `$probe_instance` goes with `$probe_job`; a selector must name a
  job variable, and the instance variable that goes with it where the board has one.
- A counter may also be read by `max_over_time`, which is how the exact total of a short-lived run
  is read; `increase` would extrapolate. So may the difference of a counter and itself some time
  earlier. Bare counters are found as they are by the original.
- Units are those the SDK knows; the original's list lacks some. Annotations are parsed, too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import promql_parser as promql
from grafana_foundation_sdk.models import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rule = Callable[[dict[str, Any]], Iterator[str]]

Board = dict[str, Any]
Panel = dict[str, Any]

GLOBALS = {
    "__rate_interval": "5m3s",  # a length that nobody writes: what stands for it can be told
    "__interval": "1m",
    "__range": "1h",
    "__range_s": "3600",
    "__interval_ms": "60000",
    "__from": "1",
    "__to": "2",
}
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}|\[\[(\w+)(?::\w+)?\]\]")
QUERY = re.compile(r"(label_names|label_values|metrics|query_result)\((.*)\)", re.DOTALL)
DATASOURCES = {"$datasource", "${datasource}"}
# What draws numbers; texts and lists have no unit.
DRAWN = {"stat", "gauge", "bargauge", "timeseries", "table", "heatmap", "graph", "singlestat"}
UNITS = {value for value in vars(units).values() if isinstance(value, str)}
COUNTER_READERS = {"rate", "irate", "increase", "max_over_time"}
ON_TIME_RANGE_CHANGED = 2
RATE_INTERVAL, STEP = (
    promql.parse_duration(GLOBALS[f"__{name}"]) for name in ("rate_interval", "interval")
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault: of which panel (empty: of the board), by which rule, and what."""

    panel: str
    rule: str
    problem: str


def board_from(text: str) -> Board:
    """Return the board in *text*. Raises ValueError."""
    board = json.loads(text)
    if not isinstance(board, dict) or not isinstance(board.get("panels"), list):
        raise ValueError("it has no list of panels")  # noqa: TRY004 - the caller's one error
    return board


def findings(board: Board) -> Iterator[Finding]:
    """Yield what is wrong with *board*."""
    for rule in (_datasource, _jobs, _instances, _variable_queries, _reloads, _uneditable):
        yield from _findings("", rule, board)
    for panel in panels(board):
        if panel.get("type") in DRAWN:
            for panel_rule in (_described, _unit, _panel_datasource, _has_targets):
                yield from _findings(_title(panel), panel_rule, panel)
        for target in panel.get("targets") or []:
            for name, problem in _expression(board, target.get("expr", "")):
                yield Finding(_title(panel), name, problem)
    for annotation in annotation_queries(board):
        for name, problem in _expression(board, annotation["expr"]):
            yield Finding(f"annotation {annotation.get('name')}", name, problem)


def panels(board: Board) -> Iterator[Panel]:
    """Yield the panels, also those in collapsed rows; not the rows."""
    for panel in board["panels"]:
        if panel.get("type") == "row":
            yield from panel.get("panels") or []
        else:
            yield panel


def variables(board: Board) -> list[dict[str, Any]]:
    """Return the template variables."""
    found: list[dict[str, Any]] = board.get("templating", {}).get("list", [])
    return found


def annotation_queries(board: Board) -> Iterator[dict[str, Any]]:
    """Yield the annotations that are queries of ours."""
    for annotation in board.get("annotations", {}).get("list", []):
        if annotation.get("expr"):
            yield annotation


def query_of(variable: dict[str, Any]) -> str:
    """Return a query variable's query, whichever way it is written."""
    query = variable.get("query") or ""
    return query if isinstance(query, str) else str(query.get("query", ""))


def interpolate(text: str, values: dict[str, str]) -> str:
    """Replace variables that are known; others stay, as in Grafana."""

    def value(match: re.Match[str]) -> str:
        name = next(group for group in match.groups() if group)
        return values.get(name, match[0])

    return VARIABLE.sub(value, text)


def parse(expression: str) -> promql.Expr:
    """Return the tree of *expression*, whose variables stand as Grafana writes them.

    Within quotes they stay: `$job` is to be found in the tree. Raises ValueError.
    """
    parts = expression.split('"')
    parts[::2] = [interpolate(part, GLOBALS) for part in parts[::2]]
    return promql.parse('"'.join(parts))


def walk(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield every node of a tree with the nodes above it, outermost first."""
    yield node, above
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param")]
    below += [getattr(node, "vector_selector", None), *(getattr(node, "args", None) or [])]
    for child in below:
        if isinstance(child, promql.Expr):
            yield from walk(child, (*above, node))


# -- the board ------------------------------------------------------------------------------------


def _datasource(board: Board) -> Iterator[str]:
    """template-datasource."""
    found = [v for v in variables(board) if v["type"] == "datasource"]
    if len(found) != 1:
        yield f"{len(found)} data source variables instead of one"
    for variable in found:
        if variable["name"] != "datasource":
            yield f'the data source variable is called "{variable["name"]}", not "datasource"'
        if variable.get("label") != "Data source":
            yield f'its label is "{variable.get("label")}", not "Data source"'
        if variable.get("query") != "prometheus":
            yield f'it offers "{variable.get("query")}" data sources, not "prometheus"'


def _named(board: Board, kind: str) -> list[dict[str, Any]]:
    return [v for v in variables(board) if v["name"] == kind or v["name"].endswith(f"_{kind}")]


def _jobs(board: Board) -> Iterator[str]:
    """template-job."""
    yield from _selecting(board, "job")


def _instances(board: Board) -> Iterator[str]:
    """template-instance."""
    yield from _selecting(board, "instance")


def _selecting(board: Board, kind: str) -> Iterator[str]:
    found = _named(board, kind)
    if not found:
        yield f"no variable ${kind}"
    for variable in found:
        name = variable["name"]
        wanted = name.replace("_", " ").capitalize()
        if variable["type"] != "query":
            yield f"${name} is no query"
        if (variable.get("datasource") or {}).get("uid") not in DATASOURCES:
            yield f"${name} does not ask $datasource"
        if not variable.get("multi"):
            yield f"${name} takes one value only"
        if variable.get("allValue") != ".+":
            yield f'the value for all of ${name} is "{variable.get("allValue")}", not ".+"'
        if variable.get("label") != wanted:
            yield f'the label of ${name} is "{variable.get("label")}", not "{wanted}"'


def _variable_queries(board: Board) -> Iterator[str]:
    """template-label-promql."""
    for variable in variables(board):
        if variable["type"] != "query":
            continue
        match = QUERY.fullmatch(query_of(variable).strip())
        if not match:
            yield f"the query of ${variable['name']} is no call of label_values or its kin"
            continue
        inner = match[2]
        if match[1] == "label_values":
            inner = inner.rpartition(",")[0]
        if match[1] in ("label_values", "query_result") and inner:
            try:
                parse(inner)
            except ValueError as error:
                yield f"the query of ${variable['name']} is not PromQL: {error}"


def _reloads(board: Board) -> Iterator[str]:
    """template-on-time-change-reload."""
    for variable in variables(board):
        if variable["type"] == "query" and variable.get("refresh") != ON_TIME_RANGE_CHANGED:
            yield f"${variable['name']} is not asked anew when the time range changes"


def _uneditable(board: Board) -> Iterator[str]:
    """uneditable-dashboard."""
    if board.get("editable", True):
        yield "it can be edited in place, and the edits would be lost"


# -- panels ---------------------------------------------------------------------------------------


def _described(panel: Panel) -> Iterator[str]:
    """panel-title-description."""
    if not panel.get("title"):
        yield "it has no title"
    if not panel.get("description"):
        yield "it has no description"


def _unit(panel: Panel) -> Iterator[str]:
    """panel-units."""
    config = panel.get("fieldConfig") or {}
    defaults = config.get("defaults") or {}
    unit = defaults.get("unit")
    if unit not in UNITS and not defaults.get("mappings"):
        yield f'"{unit}" is no unit'


def _panel_datasource(panel: Panel) -> Iterator[str]:
    """panel-datasource."""
    uid = (panel.get("datasource") or {}).get("uid")
    if uid not in DATASOURCES:
        yield f'its data source is "{uid}", not $datasource'


def _has_targets(panel: Panel) -> Iterator[str]:
    """panel-no-targets."""
    if not panel.get("targets"):
        yield "it asks nothing"


# -- expressions ----------------------------------------------------------------------------------


def _expression(board: Board, expression: str) -> Iterator[tuple[str, str]]:
    try:
        tree = parse(expression)
    except ValueError as error:
        yield "target-promql", str(error)
        return
    for node, above in walk(tree):
        if isinstance(node, promql.VectorSelector):
            yield from _selector(board, node, above)
        if (
            isinstance(node, promql.MatrixSelector)
            and _is_call(above[-1:], {"rate", "irate"})
            and node.range != RATE_INTERVAL
            and not _has_own_step(above)
        ):
            yield "target-rate-interval", "a rate is not taken over $__rate_interval"


def _selector(
    board: Board, selector: promql.VectorSelector, above: tuple[Any, ...]
) -> Iterator[tuple[str, str]]:
    matchers = {(m.name, m.value) for m in selector.matchers.matchers}
    jobs = [v["name"] for v in _named(board, "job") if ("job", f"${v['name']}") in matchers]
    if not jobs:
        yield "target-job", f"{selector.name} has no matcher job=~ with a job variable"
    instances = {v["name"] for v in _named(board, "instance")}
    wanted = (jobs[0] if jobs else "job").removesuffix("job") + "instance"
    if wanted in instances and ("instance", f"${wanted}") not in matchers:
        yield "target-instance", f'{selector.name} has no matcher instance=~"${wanted}"'
    if (
        (selector.name or "").endswith("_total")
        and not (
            isinstance(above[-1] if above else None, promql.MatrixSelector)
            and _is_call(above[-2:-1], COUNTER_READERS)
        )
        and not _is_difference(above[-1] if above else None)
    ):
        yield "target-counter-agg", f"{selector.name} is a counter, and no rate of it is taken"


def _has_own_step(above: tuple[Any, ...]) -> bool:
    """Tell whether it is asked at steps that are not the panel's: then neither is its window.

    The public linter has no such exception.
    """
    steps = {node.step for node in above if isinstance(node, promql.SubqueryExpr)}
    return bool(steps - {None, STEP})


def _is_difference(node: Any) -> bool:
    """Tell whether it is what a series has risen by: it less its earlier self."""
    if not isinstance(node, promql.BinaryExpr) or str(node.op) != "-":
        return False
    both = (node.lhs, node.rhs)
    same = {str(one).partition(" offset ")[0] for one in both}
    return len(same) == 1 and all(isinstance(one, promql.VectorSelector) for one in both)


def _is_call(above: tuple[Any, ...], names: set[str]) -> bool:
    return bool(above) and isinstance(above[0], promql.Call) and above[0].func.name in names


def _findings(where: str, rule: Rule, subject: dict[str, Any]) -> Iterator[Finding]:
    """Yield what *rule* finds; its name is the first word of its docstring."""
    name = str(rule.__doc__).partition(".")[0]
    for problem in rule(subject):
        yield Finding(where, name, problem)


def _title(panel: Panel) -> str:
    return str(panel.get("title") or f"panel {panel.get('id')}")
