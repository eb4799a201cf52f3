"""The linter: our boards are clean, and each rule finds the board that breaks it."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import pytest

from dashboards.cli import DONE, FAILED, main
from dashboards.lint import board_from, findings, parse, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAEMON = 'job=~"$job", instance=~"$instance"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def good_variable(name: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "label": label,
        "datasource": DATASOURCE,
        "multi": True,
        "allValue": ".+",
        "refresh": 2,
        "query": f'label_values(etltd_build_info{{job=~"$job"}}, {name})',
    }


GOOD: dict[str, Any] = {
    "title": "good",
    "editable": False,
    "templating": {
        "list": [
            {
                "name": "datasource",
                "type": "datasource",
                "label": "Data source",
                "query": "prometheus",
            },
            good_variable("job", "Job"),
            good_variable("instance", "Instance"),
        ]
    },
    "annotations": {"list": [{"name": "Starts", "expr": f"etltd_start_time_seconds{{{DAEMON}}}"}]},
    "panels": [
        {"type": "row", "title": "A row", "panels": []},
        {
            "type": "timeseries",
            "title": "Ticks",
            "description": "How often it ticks.",
            "datasource": DATASOURCE,
            "fieldConfig": {"defaults": {"unit": "ops"}},
            "targets": [{"expr": f"rate(etltd_epoll_waits_total{{{DAEMON}}}[$__rate_interval])"}],
        },
    ],
}


def variable(board: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in board["templating"]["list"] if one["name"] == name]
    return cast("dict[str, Any]", found)


def ask(expr: str) -> Callable[[dict[str, Any]], None]:
    return lambda board: board["panels"][1]["targets"].append({"expr": expr})


def with_variable(which: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda board: variable(board, which).update(changes)


def with_panel(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda board: board["panels"][1].update(changes)


def without_variable(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda board: board["templating"]["list"].remove(variable(board, name))


BROKEN: list[tuple[str, str, Callable[[dict[str, Any]], None]]] = [
    ("template-datasource", "0 data source variables", without_variable("datasource")),
    ("template-datasource", 'called "ds"', with_variable("datasource", name="ds")),
    ("template-datasource", 'label is "DS"', with_variable("datasource", label="DS")),
    ("template-datasource", '"loki"', with_variable("datasource", query="loki")),
    ("template-job", "no variable $job", without_variable("job")),
    ("template-job", "no query", with_variable("job", type="custom")),
    ("template-job", "does not ask", with_variable("job", datasource={"uid": "abc"})),
    ("template-job", "does not ask", with_variable("job", datasource=None)),
    ("template-job", "one value only", with_variable("job", multi=False)),
    ("template-job", 'not ".+"', with_variable("job", allValue=".*")),
    ("template-job", "the label of", with_variable("job", label="job")),
    ("template-instance", "no variable $instance", without_variable("instance")),
    ("template-instance", "one value only", with_variable("instance", multi=False)),
    ("template-label-promql", "no call", with_variable("job", query="etltd_build_info")),
    ("template-label-promql", "not PromQL", with_variable("job", query="label_values(a{, job)")),
    (
        "template-label-promql",
        "not PromQL",
        with_variable("job", query={"query": "query_result(a b)"}),
    ),
    ("template-on-time-change-reload", "$job", with_variable("job", refresh=1)),
    ("uneditable-dashboard", "edited", lambda board: board.update(editable=True)),
    ("uneditable-dashboard", "edited", lambda board: board.pop("editable")),
    ("panel-title-description", "no title", with_panel(title="")),
    ("panel-title-description", "no description", with_panel(description="")),
    ("panel-units", '"furlongs"', with_panel(fieldConfig={"defaults": {"unit": "furlongs"}})),
    ("panel-units", '"None"', with_panel(fieldConfig={})),
    ("panel-datasource", '"abc"', with_panel(datasource={"uid": "abc"})),
    ("panel-datasource", '"None"', with_panel(datasource=None)),
    ("panel-no-targets", "asks nothing", with_panel(targets=[])),
    ("target-promql", "", ask("rate(etltd_epoll_waits_total[")),
    ("target-promql", "expected type", ask(f"rate(etltd_connections{{{DAEMON}}})")),
    (
        "target-rate-interval",
        "not taken over",
        ask(f"rate(etltd_epoll_waits_total{{{DAEMON}}}[5m])"),
    ),
    (
        "target-rate-interval",
        "not taken over",
        ask(f"max_over_time(rate(etltd_epoll_waits_total{{{DAEMON}}}[5m])[1h:$__interval])"),
    ),
    ("target-job", "etltd_connections", ask('etltd_connections{instance=~"$instance"}')),
    ("target-job", "up", ask('up{job="etltd", instance=~"$instance"}')),
    ("target-instance", "etltd_connections", ask('etltd_connections{job=~"$job"}')),
    ("target-counter-agg", "etltd_epoll_waits_total", ask(f"etltd_epoll_waits_total{{{DAEMON}}}")),
    (
        "target-counter-agg",
        "etltd_epoll_waits_total",
        ask(f"deriv(etltd_epoll_waits_total{{{DAEMON}}}[$__rate_interval])"),
    ),
    (
        "target-job",
        "etltd_start_time_seconds",
        lambda board: board["annotations"]["list"].append(
            {"name": "bad", "expr": "etltd_start_time_seconds"}
        ),
    ),
]


def test_a_good_board_has_no_findings() -> None:
    assert list(findings(GOOD)) == []


@pytest.mark.parametrize(("rule", "problem", "break_it"), BROKEN)
def test_a_broken_board_is_found(
    rule: str, problem: str, break_it: Callable[[dict[str, Any]], None]
) -> None:
    board = deepcopy(GOOD)
    break_it(board)

    found = list(findings(board))

    assert [one for one in found if one.rule == rule and problem in one.problem], found


def test_a_panel_in_a_collapsed_row_is_looked_at() -> None:
    board = deepcopy(GOOD)
    board["panels"][0]["panels"] = [board["panels"].pop()]
    board["panels"][0]["panels"][0]["description"] = ""

    assert [one.panel for one in findings(board)] == ["Ticks"]


def test_a_text_has_no_unit() -> None:
    board = deepcopy(GOOD)
    board["panels"].append({"type": "text", "title": "Read me"})

    assert list(findings(board)) == []


def test_every_job_variable_is_held_to_the_rules() -> None:
    """A board of several jobs would otherwise hide behind its first."""
    board = deepcopy(GOOD)
    board["templating"]["list"].append(good_variable("probe_job", "Probe"))
    ask('etlt_probe_collect_seconds{job=~"$probe_job"}')(board)

    (found,) = findings(board)

    assert (found.rule, found.problem[:19]) == ("template-job", "the label of $probe")


def test_the_instance_goes_with_the_job() -> None:
    board = deepcopy(GOOD)
    board["templating"]["list"] += [
        good_variable("probe_job", "Probe job"),
        good_variable("probe_instance", "Probe instance"),
    ]
    ask('etlt_probe_collect_seconds{job=~"$probe_job", instance=~"$instance"}')(board)

    (found,) = findings(board)

    assert found.rule == "target-instance"
    assert "$probe_instance" in found.problem


@pytest.mark.parametrize("reader", ["increase", "max_over_time", "irate"])
def test_totals_of_counters_may_be_read_so(reader: str) -> None:
    board = deepcopy(GOOD)
    ask(f"{reader}(etltd_epoll_waits_total{{{DAEMON}}}[$__rate_interval])")(board)

    assert list(findings(board)) == []


def test_a_counter_may_be_read_less_its_earlier_self_and_nothing_else() -> None:
    """A restart is filtered out of such a difference; one of two counters means nothing."""
    board, odd = deepcopy(GOOD), deepcopy(GOOD)
    counter = f"etltd_epoll_waits_total{{{DAEMON}}}"
    ask(f"({counter} offset 2s - {counter} offset 4s) >= 0")(board)
    ask(f"{counter} offset 2s - {counter.replace('waits', 'wakeups')} offset 4s")(odd)

    assert list(findings(board)) == []
    assert [finding.rule for finding in findings(odd)] == ["target-counter-agg"] * 2


def test_a_rate_at_steps_of_its_own_has_a_window_of_its_own() -> None:
    """The panel's step over a day is longer than the load that is looked for."""
    board = deepcopy(GOOD)
    ask(f"max_over_time(rate(etltd_epoll_waits_total{{{DAEMON}}}[20s])[$__range:5s])")(board)

    assert list(findings(board)) == []


def test_selectors_are_found_wherever_they_stand() -> None:
    tree = parse(
        "topk(scalar(a), -sum by (x) (rate(b[$__range]) / on () (c))) "
        "or max_over_time(d[1h:1m]) > e"
    )

    names = {getattr(node, "name", None) for node, _ in walk(tree)} - {None}

    assert names == set("abcde")


# -- the command ----------------------------------------------------------------------------------


def test_our_boards_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint"]) == DONE
    assert capsys.readouterr().out == ""


def test_a_finding_names_board_panel_and_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = deepcopy(GOOD)
    with_panel(datasource=None)(board)
    with_variable("job", refresh=0)(board)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(board))

    assert main(["lint", str(path)]) == FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mine.json: board: template-on-time-change-reload: $job")
    assert lines[1].startswith("mine.json: Ticks: panel-datasource: ")


@pytest.mark.parametrize("text", ["{", "[]", '{"panels": 3}', "\udcff"])
def test_what_is_no_board_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no.json"
    path.write_bytes(text.encode(errors="surrogateescape"))

    assert main(["lint", str(path)]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith(f'etlt-dashboards: "{path}" is not a dashboard: ')
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "text", ['{"panels": [3]}', '{"panels": [], "templating": {"list": [{}]}}']
)
def test_json_of_another_shape_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)

    assert main(["lint", str(path)]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith(f'etlt-dashboards: "{path}" is not a classic dashboard: ')
    assert said.count("\n") == 1


def test_a_missing_file_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "/nowhere.json"]) == FAILED
    assert capsys.readouterr().err == (
        'etlt-dashboards: "/nowhere.json" is not a dashboard: No such file or directory.\n'
    )


def test_a_board_needs_panels() -> None:
    with pytest.raises(ValueError, match="no list of panels"):
        board_from("{}")
