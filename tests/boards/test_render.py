"""Boards in a real browser, from a real Prometheus: what they show is what it answers."""

from __future__ import annotations

import json
import os
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from dashboards import panels
from dashboards.cli import main
from dashboards.render import bundle as bundles
from dashboards.render.command import GENERATED
from tests.boards.drawing import (
    END,
    MESSAGES,
    SOURCE,
    START,
    WAKEUPS,
    ask,
    board,
    panel,
    past,
    prometheus,
    target,
)
from tests.boards.rig import CONNECTIONS, MODES
from tests.boards.witnesses import DURING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.boards.rig import Scene

RATE = 'sum by (mode) (rate(etltd_epoll_wakeups_total{job=~"$job"}[$__rate_interval]))'
DELIVERED = 'sum by (mode) (rate(etltd_messages_delivered_total{job=~"$job"}[$__rate_interval]))'
PLAIN = "sum by (mode) (rate(etltd_epoll_wakeups_total[1m]))"
BLUE = {"mode": "fixed", "fixedColor": "#123456"}
JOB = {
    "name": "job",
    "type": "query",
    "datasource": SOURCE,
    "multi": True,
    "includeAll": True,
    "allValue": ".+",
    "query": "label_values(etltd_epoll_wakeups_total, job)",
    "refresh": 2,
}

LOOKS = [(theme, width) for theme in ("dark", "light") for width in (1440, 2560)]

Drawn = tuple[int, list[dict[str, Any]]]


@pytest.fixture(scope="session")
def server(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert page
    with prometheus(tmp_path_factory.mktemp("prometheus"), past()) as address:
        yield address


@pytest.fixture
def draw(server: str, tmp_path: Path) -> Callable[..., Drawn]:
    """Draw boards of the past, once unless asked otherwise; returns status and report."""

    def drawn(*boards: Path, theme: str = "dark", more: tuple[str, ...] = ()) -> Drawn:
        out = tmp_path / "out"
        named = [word for path in boards for word in ("--board", str(path))]
        span = ["--from", str(START), "--to", str(END), "--scrape-interval", str(5)]
        look = ["--theme", theme, "--width", "1440"]
        status = main(
            ["render", "--prometheus", server, "--out", str(out), *named, *span, *look, *more]
        )
        return status, json.loads((out / "report.json").read_text())

    return drawn


def shown(report: list[dict[str, Any]], title: str) -> str:
    """Return the words of a panel, read from the page."""
    [found] = [one for one in report[0]["panels"] if one["title"] == title]
    assert found["state"] == "ok", found
    return str(found["shown"])


@pytest.mark.browser
def test_figures_on_the_page_are_those_that_prometheus_answers(
    server: str, draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    """Variables, intervals, joins, renames, units: each may spoil a figure in silence."""
    legend = {"showLegend": True, "displayMode": "table", "placement": "bottom"}
    joined = [
        {"id": "joinByField", "options": {"byField": "mode", "mode": "outer"}},
        {
            "id": "calculateField",
            "options": {
                "mode": "binary",
                "alias": "per message",
                "binary": {"left": "Value #A", "operator": "/", "right": "Value #B"},
            },
        },
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time 1": True, "Time 2": True},
                "renameByName": {"Value #A": "wakeups per second"},
            },
        },
    ]
    as_table = {"format": "table", "instant": True, "range": False}
    path = board(
        tmp_path / "figures.json",
        panel("stat", "Stat", target(RATE), defaults={"unit": "ops"}),
        panel(
            "timeseries", "Lines of $job", target(RATE), defaults={"unit": "ops"},
            options={"legend": {**legend, "calcs": ["mean", "max"]}},
        ),
        panel("bargauge", "Bars", target(RATE), defaults={"unit": "ops"}),
        panel(
            "table", "Table", target(RATE, **as_table), target(DELIVERED, **as_table),
            transformations=joined,
        ),
        panel("stat", "Window", target("count_over_time(etltd_restarts[$__rate_interval])", "n")),
        panel("text", "Words", options={"mode": "markdown", "content": "of **$job**"}),
        variables=[JOB],
    )  # fmt: skip

    status, report = draw(path)

    assert status == 0, report[0]["problems"]
    assert report[0]["variables"]["job"] == ["etltd"]
    answered = ask(server, PLAIN, END)
    assert answered == pytest.approx(WAKEUPS)
    for title in ("Stat", "Lines of All", "Bars"):
        words = shown(report, title)
        for mode, rate in answered.items():
            assert mode in words
            assert f"{rate:.0f} ops/s" in words
    table = shown(report, "Table")
    assert "wakeups per second" in table
    for rate in answered.values():
        assert f"{rate:.0f}" in table
        assert f"{rate / MESSAGES:.3g}" in table
    window = ask(server, "count_over_time(etltd_restarts[20s])", END)  # four scrapes
    assert f"{window['']:.0f}" in shown(report, "Window").split()
    assert "of All" in shown(report, "Words")


@pytest.mark.browser
def test_an_override_reaches_its_series_and_no_other(
    draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    """The colours of ET and LT are the same on every panel of every board."""
    blue = {
        "matcher": {"id": "byName", "options": "et"},
        "properties": [{"id": "color", "value": BLUE}],
    }
    path = board(tmp_path / "colours.json", panel("timeseries", "Lines", target(RATE), overrides=[blue]), variables=[JOB])  # fmt: skip  # noqa: E501

    status, _ = draw(path)

    assert status == 0
    page = (tmp_path / "out" / "colours-dark-1440.html").read_text()
    assert page.count("rgb(18, 52, 86)") == 1


@pytest.mark.browser
@pytest.mark.kernel
def test_all_boards_show_the_live_system_in_all_looks(
    page: Path, scene: Scene, tmp_path: Path
) -> None:
    """Nothing empty, clipped or in error, on a laptop and a wall, and the figures are true."""
    assert page
    during = scene.during
    span = [f"--from={during.start:.0f}", f"--to={during.end:.0f}", "--scrape-interval=1"]
    out = ["--out", str(tmp_path)]
    boards = [path for path in sorted(GENERATED.glob("*")) if path.stem != "bus"]
    named = [f"--board={path}" for path in boards]  # that of the bus: test_instances.py
    status = main(["render", "--prometheus", scene.servers["prometheus"].url, *out, *span, *named])
    report = json.loads((tmp_path / "report.json").read_text())

    assert status == 0, {text for one in report for text in one["problems"]}
    looks = [(path.stem, *look) for path in boards for look in LOOKS]
    assert [(one["board"], one["theme"], one["width"]) for one in report] == looks
    assert {panel["state"] for one in report for panel in one["panels"]} == {"ok"}
    pictures = [(tmp_path / one["file"]).read_bytes() for one in report]
    assert [struct.unpack(">I", png[16:20])[0] for png in pictures] == [look[2] for look in looks]
    assert len(set(pictures)) == len(looks)
    for one in report:
        variables, panels = one["variables"], {panel["title"]: panel for panel in one["panels"]}
        if one["board"] == "et-vs-lt":
            assert variables["left"] == ["lt"]
            assert set(variables["run"]) == {"run-lt", "run-et"}
        if one["board"] == "daemon":
            words = panels["Connections, of the limit"]["shown"]
            shown = [float(number) for number in re.findall(r"([\d.]+)%", words)]
            limits = scene.view(DURING).level("etltd_max_connections", "mode")
            shares = [100 * CONNECTIONS / limits[frozenset({("mode", mode)})] for mode in MODES]
            assert sorted(shown) == pytest.approx(sorted(shares), rel=0.01)


@pytest.mark.browser
@pytest.mark.kernel
def test_the_home_board_is_full_after_the_load(page: Path, scene: Scene, tmp_path: Path) -> None:
    """When the load is over is when people look; rates of the last seconds are of nothing then."""
    assert page
    span = [f"--from={scene.span.start:.0f}", f"--to={scene.span.end:.0f}", "--scrape-interval=1"]
    look = ["--board=et-vs-lt", "--theme=light", "--width=1440"]
    url = scene.servers["prometheus"].url

    assert main(["render", "--prometheus", url, "--out", str(tmp_path), *span, *look]) == 0


@pytest.mark.browser
def test_a_broken_expression_is_an_error_with_prometheus_own_words(
    draw: Callable[..., Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = board(tmp_path / "broken.json", panel("stat", "Broken", target("rate(etltd_restarts)")))

    status, report = draw(path)

    assert status == 1
    [found] = report[0]["panels"]
    assert found["state"] == "error"
    assert "expected type range vector" in found["text"]
    assert found["text"] in found["shown"], "the reader of the picture sees it, too"
    assert 'broken: panel "Broken" (stat): error: bad_data' in capsys.readouterr().err


@pytest.mark.browser
def test_a_panel_without_a_figure_is_empty(draw: Callable[..., Drawn], tmp_path: Path) -> None:
    """Whatever draws it; and NaN is no figure."""
    nothing, nan = target("etltd_no_such_metric"), target("etltd_restarts * 0 / 0")
    kinds = ("timeseries", "stat", "table", "bargauge", "heatmap")
    panels = [panel(kind, "Empty", one) for kind in kinds for one in (nothing, nan)]

    status, report = draw(board(tmp_path / "empty.json", *panels))

    assert status == 1
    found = [(one["type"], one["state"], one["text"]) for one in report[0]["panels"]]
    texts = ("no data", "every sample is NaN or infinite")
    assert found == [(kind, "empty", text) for kind in kinds for text in texts]


@pytest.mark.browser
def test_a_legend_behind_a_scroll_bar_is_a_problem(
    draw: Callable[..., Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A series that nobody can name is as good as not drawn."""
    legend = {"showLegend": True, "placement": "bottom", "calcs": []}
    many = [target("etltd_restarts", f"series {i}") for i in range(20)]
    tall, flat = (
        panel("timeseries", kind, *many, options={"legend": {**legend, "displayMode": kind}})
        for kind in ("table", "list")
    )
    flat["targets"] = flat["targets"][:2]

    status, report = draw(board(tmp_path / "clipped.json", tall, flat))

    assert status == 1
    assert [one["clipped"] for one in report[0]["panels"]] == [True, False]
    [said] = report[0]["problems"]
    assert said == 'panel "table" (timeseries): clipped: its legend or rows do not fit'
    assert said in capsys.readouterr().err


@pytest.mark.browser
def test_a_label_that_is_cut_off_is_a_problem(
    draw: Callable[..., Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By dots, or by the panel's edge: who reads the picture guesses the rest."""
    calls = [
        target("etltd_restarts", f"{mode} {call}") for mode in MODES for call in panels.SYSTEM_CALLS
    ]
    where = {"x": 0, "y": 0, "w": 8, "h": 12}
    options = {"orientation": "horizontal", "namePlacement": "auto"}
    small = {**options, "text": {"titleSize": panels.MANY_BARS}}
    one, narrow = target("etltd_restarts", "one"), {"custom": {"axisWidth": 12}}
    path = board(
        tmp_path / "cut.json",
        panel("bargauge", "dots", *calls, options=options, gridPos=where),
        panel("bargauge", "as on our board", *calls, options=small, gridPos={**where, "x": 8}),
        panel("timeseries", "edge", one, defaults=narrow, gridPos={**where, "y": 12}),
        panel("timeseries", "whole", one, gridPos={**where, "x": 8, "y": 12}),
    )

    status, report = draw(path)

    assert status == 1
    dots, ours, edge, whole = (one["cut"] for one in report[0]["panels"])
    assert dots == ["et epoll_wait"]
    assert len(edge) == 1
    assert ours == whole == []
    said = [
        f'panel "dots" (bargauge): cut off: the label "{dots[0]}"',
        f'panel "edge" (timeseries): cut off: the label "{edge[0]}"',
    ]
    assert report[0]["problems"] == said
    assert capsys.readouterr().err.splitlines() == [f"cut: {one}" for one in said]


@pytest.mark.browser
def test_what_it_does_not_know_is_an_error_and_not_silence(
    draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    """Grafana's libraries pass over unknown transformations and overrides without a word."""
    lines = target("etltd_restarts")
    odd = {
        "matcher": {"id": "byName", "options": "x"},
        "properties": [{"id": "custom.colour", "value": 1}],
    }
    path = board(
        tmp_path / "unknown.json",
        panel("flamegraph", "type", lines),
        panel("table", "transformation", lines, transformations=[{"id": "jion", "options": {}}]),
        panel("stat", "override", lines, overrides=[odd]),
        panel("stat", "variable", target("etltd_restarts{job=~'$jop'}")),
        panel("stat", "repeat", lines, repeat="job"),
        panel("stat", "known", lines),
    )

    status, report = draw(path)

    assert status == 1
    texts = {one["title"]: (one["state"], one["text"]) for one in report[0]["panels"]}
    assert texts.pop("known")[0] == "ok"
    assert {state for state, _ in texts.values()} == {"error"}
    for title, word in (
        *(("type", "flamegraph"), ("transformation", "jion"), ("override", "custom.colour")),
        *(("variable", "jop"), ("repeat", "repeated")),
    ):
        assert word in texts[title][1]


@pytest.mark.browser
def test_a_panel_of_the_server_alone_is_queried_and_said_to_be(
    draw: Callable[..., Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = board(tmp_path / "queried.json", panel("heatmap", "Heat", target(RATE)), variables=[JOB])

    status, report = draw(path)

    assert status == 0
    assert [one["state"] for one in report[0]["panels"]] == ["unsupported"]
    said = capsys.readouterr().out
    assert 'queried: "Heat": heatmap: checked by query only' in said
    assert "2 series" in said


@pytest.mark.browser
def test_annotations_are_asked_counted_and_refused_aloud(
    draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    lines = panel("timeseries", "Lines", target("etltd_restarts"))
    asked = {"enable": True, "datasource": SOURCE, "step": "5s"}
    good = {**asked, "name": "Restarts", "expr": "etltd_restarts > 0", "titleFormat": "again"}
    bad = {**asked, "name": "Bad", "expr": "etltd_restarts >"}
    path = board(tmp_path / "noted.json", lines, annotations={"list": [good, bad]})

    status, report = draw(path)

    assert status == 1
    restarts, broken = report[0]["annotations"]
    assert (restarts["state"], restarts["count"]) == ("ok", 1)
    assert broken["state"] == "error"
    assert len(report[0]["problems"]) == 1


@pytest.mark.browser
def test_a_collapsed_row_is_opened_and_pushes_down_what_follows(
    draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    """A panel that nobody opens is a panel that nobody checks."""
    row = {"type": "row", "title": "Row", "collapsed": True}
    inner = {**panel("stat", "Inner", target("etltd_restarts")), "id": 9}
    inner["gridPos"] = {"x": 0, "y": 1, "w": 24, "h": 6}
    outer = panel("stat", "Outer", target("etltd_restarts"))
    row |= {"gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}, "panels": [inner]}
    outer |= {"gridPos": {"x": 0, "y": 1, "w": 24, "h": 6}}

    status, report = draw(board(tmp_path / "rows.json", row, outer))

    assert status == 0
    assert [one["title"] for one in report[0]["panels"]] == ["Inner", "Outer"]
    boxes = report[0]["panels"]
    assert boxes[0]["box"]["bottom"] <= boxes[1]["box"]["top"]


@pytest.mark.browser
def test_a_board_whose_variable_finds_nothing_cannot_be_drawn(
    draw: Callable[..., Drawn], tmp_path: Path
) -> None:
    job = {**JOB, "query": "label_values(etltd_no_such_metric, job)"}
    path = board(tmp_path / "nobody.json", panel("stat", "S", target(RATE)), variables=[job])

    status, report = draw(path)

    assert status == 1
    assert report[0]["problems"] == ["the board cannot be drawn: variable job has no values"]


@pytest.mark.browser
def test_no_prometheus_is_told_on_every_panel(page: Path, tmp_path: Path) -> None:
    assert page
    path = board(tmp_path / "alone.json", panel("stat", "S", target("up")))
    asked = ["--board", str(path), "--theme", "dark", "--width", "1440"]

    status = main(["render", "--prometheus", "http://127.0.0.1:1", "--out", str(tmp_path), *asked])

    assert status == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert "502" in report[0]["panels"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--prometheus", "ftp://h"], "ftp://h"),
        (["--prometheus", "http://h:70000"], "http://h:70000"),
        (["--prometheus", "http://h", "--board", "nobody"], "nobody"),
        (["--prometheus", "http://h", "--from", "yesterday"], "yesterday"),
        (["--prometheus", "http://h", "--from", "5", "--to", "4"], "--from 5"),
        (["--prometheus", "http://h", "--theme", "blue"], "blue"),
        (["--prometheus", "http://h", "--width", "10"], "10"),
        (["--prometheus", "http://h", "--scrape-interval", "0"], "scrape-interval"),
        (["--prometheus", "http://h", "--var", "job"], "job"),
        ([], "--prometheus"),
    ],
)
def test_a_wrong_option_is_named_in_one_sentence(
    arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", *arguments, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert word in told
    assert "Traceback" not in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("where", ["", "below"])
def test_a_folder_that_cannot_be_is_named_before_anything_is_drawn(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error number without a name is no help, least of all after minutes of drawing."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / where

    assert main(["render", "--prometheus", "http://h", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f'--out "{out}"' in told
    assert "[Errno" not in told
    assert told.count("\n") == 1


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH with nothing on it but *scripts*."""
    folder.mkdir()
    for name, text in scripts.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("scripts", "words"),
    [
        ({}, "drawing needs chromium: sudo apt-get install chromium"),
        ({"chromium": "exit 1"}, "needs node and npm: sudo apt-get install nodejs npm"),
        (
            {"chromium": "exit 1", "node": "", "npm": "echo no such host >&2; exit 7"},
            "no such host",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_type(
    scripts: dict[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", **scripts) + ":/nowhere")
    path = board(tmp_path / "any.json", panel("stat", "S", target("up")))

    status = main(
        ["render", "--prometheus", "http://h", "--out", str(tmp_path), "--board", str(path)]
    )

    assert status == 1
    assert words in capsys.readouterr().err
    left = list((tmp_path / "cache").rglob("*"))
    assert all(one.name == "etlt-dashboards" for one in left), "half a page is no page"


@pytest.mark.browser
def test_a_browser_that_ends_by_itself_is_said_to_have(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page
    bad = programs(tmp_path / "bin", chromium="exit 1")
    monkeypatch.setenv("PATH", f"{bad}:{os.environ['PATH']}")
    path = board(tmp_path / "any.json", panel("stat", "S", target("up")))

    status = main(
        ["render", "--prometheus", "http://h", "--out", str(tmp_path), "--board", str(path)]
    )

    assert status == 1
    assert "Chromium has ended by itself" in capsys.readouterr().err


def test_the_lock_names_no_registry() -> None:
    """Whoever builds the page asks the registry of their own choice, by checksum."""
    lock = json.loads((bundles.HERE / "package-lock.json").read_text())
    packages = [one for name, one in lock["packages"].items() if name]
    assert packages
    assert not [one for one in packages if "://" in one.get("resolved", "")]
    assert all("integrity" in one for one in packages if not one.get("link"))


def test_the_page_is_built_anew_when_a_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundles.key()
    copy = tmp_path / "copy"
    for path in bundles.inputs():
        (copy / path.relative_to(bundles.HERE)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(bundles.HERE)).write_bytes(path.read_bytes())
    monkeypatch.setattr(bundles, "HERE", copy)
    assert bundles.key() == before
    with (copy / "src" / "main.jsx").open("a") as source:
        source.write("\n")
    assert bundles.key() != before
