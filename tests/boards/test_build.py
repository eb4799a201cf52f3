"""The committed files are what the code makes, and the boards keep the house style."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import panels, rules
from dashboards.build import BOARDS, files
from dashboards.cli import DONE, FAILED, USAGE, main
from dashboards.lint import annotation_queries, query_of, variables
from dashboards.lint import panels as panels_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "dashboards"
DARK, LIGHT = "#181b1f", "#ffffff"  # the panels' backgrounds of Grafana's themes
DRAWN = {"timeseries", "stat", "bargauge", "table"}  # what the render harness can draw


@pytest.fixture(params=sorted(BOARDS))
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(files()[f"generated/{request.param}.json"])
    return made


@pytest.mark.parametrize("name", sorted(files()))
def test_committed_files_are_up_to_date(name: str) -> None:
    """Those who import the JSON would otherwise get another board than the code says."""
    assert (PACKAGE / name).read_text() == files()[name], "run etlt-dashboards build"


def test_building_writes_once_and_checks_ever_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--check", "--output", str(tmp_path)]) == FAILED
    assert "not what the code makes" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(["build", "--output", str(tmp_path)]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == len(files())
    assert main(["build", "--output", str(tmp_path)]) == DONE
    assert main(["build", "--check", "--output", str(tmp_path)]) == DONE
    assert capsys.readouterr().out == ""


def test_a_stale_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["build", "--output", str(tmp_path)])
    stale = tmp_path / "generated" / "daemon.json"
    stale.write_text(stale.read_text().replace("Ticks", "Tocks"))
    capsys.readouterr()

    assert main(["build", "--check", "--output", str(tmp_path)]) == FAILED
    assert capsys.readouterr().out == f"{stale}: not what the code makes\n"


def test_what_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "generated").write_text("a file")

    assert main(["build", "--output", str(tmp_path)]) == FAILED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said
    assert "Errno" not in said


def test_what_is_nested_too_deeply_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "deep.json"
    board.write_text("[" * 100_000)

    assert main(["lint", str(board)]) == FAILED
    assert capsys.readouterr().err == (
        f'etlt-dashboards: "{board}" is not a dashboard: it is nested too deeply.\n'
    )


@pytest.mark.parametrize("words", [["--colour"], ["paint"], ["build", "--check=perhaps"]])
def test_wrong_usage_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    said = capsys.readouterr().err
    assert said.startswith("etlt-dashboards: ")
    assert said.count("\n") == 1


def test_without_the_extra_packages_it_says_what_to_install(tmp_path: Path) -> None:
    """Users of the daemon have no SDK; the command is there all the same."""
    (tmp_path / "grafana_foundation_sdk.py").write_text("raise ModuleNotFoundError(name='sdk')")
    done = subprocess.run(
        [sys.executable, "-m", "dashboards", "build", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )

    assert done.returncode == FAILED
    assert done.stderr == (
        'etlt-dashboards: the package "sdk" is not installed: pip install ".[dashboards]"\n'
    )


def test_version_and_help_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == DONE
    assert capsys.readouterr().out.startswith("etlt-dashboards ")
    assert main(["--help"]) == DONE


# -- the boards -----------------------------------------------------------------------------------


def test_the_sdk_reads_back_what_it_wrote(board: dict[str, Any]) -> None:
    """Fields that it does not know are dropped silently: Grafana might not know them either."""
    again = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board))

    assert json.loads(again) == board


def test_panels_have_numbers_of_their_own(board: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in board["panels"]]

    assert numbers == list(range(1, len(numbers) + 1))


def test_panels_fill_their_rows_and_do_not_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    bottom = max(y for _, y in taken)

    assert taken == {(x, y) for x in range(panels.WIDTH) for y in range(bottom + 1)}


def test_only_what_can_be_rendered_is_used(board: dict[str, Any]) -> None:
    assert {panel["type"] for panel in panels_of(board)} <= DRAWN


def test_links_lead_to_the_other_boards(board: dict[str, Any]) -> None:
    others = {f"/d/{uid}" for uid, _ in panels.BOARDS} - {f"/d/{board['uid']}"}

    assert {link["url"] for link in board["links"]} == others
    assert all(link["includeVars"] and link["keepTime"] for link in board["links"])


def test_every_variable_in_use_is_declared(board: dict[str, Any]) -> None:
    """Grafana would ask for the variable's name itself, and find nothing."""
    declared = {variable["name"] for variable in variables(board)}
    texts = [target["expr"] for panel in panels_of(board) for target in panel["targets"]]
    texts += [query_of(variable) for variable in variables(board) if variable["type"] == "query"]
    texts += [one["expr"] for one in annotation_queries(board)]
    used = {name for text in texts for name in re.findall(r"\$\{?([A-Za-z]\w*)", text)}

    assert used <= declared
    assert declared - used == {"datasource"}


def test_no_bucket_is_selected_by_its_text(board: dict[str, Any]) -> None:
    """Prometheus 2 stores le="1" as "1", Prometheus 3 as "1.0"."""
    for panel in panels_of(board):
        for target in panel["targets"]:
            assert not re.search(r'\ble\s*[=!]~?\s*"', target["expr"]), panel["title"]


def luminance(color: str) -> float:
    """Return the relative luminance, WCAG 2.2."""
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [DARK, LIGHT])
@pytest.mark.parametrize(
    "color", [panels.ET_COLOR, panels.LT_COLOR, panels.GOOD, panels.BAD, *panels.KINDS]
)
def test_colors_can_be_seen_on_both_themes(color: str, theme: str) -> None:
    """WCAG 2.2, 1.4.11: 3:1 for what is needed to understand a graphic."""
    high, low = sorted((luminance(color), luminance(theme)), reverse=True)

    assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize(
    ("legend", "color"),
    [
        ("et", panels.ET_COLOR),
        ("et p99", panels.ET_COLOR),
        ("etltd-et wakeup", panels.ET_COLOR),
        ("lt", panels.LT_COLOR),
        ("lt 10.0.0.1:9700 p50", panels.LT_COLOR),
        ("etltd-lt", panels.LT_COLOR),
        ("etltd", None),
        ("ratio", None),
        ("nginx", None),
    ],
)
def test_a_mode_has_its_color_whatever_else_the_legend_says(legend: str, color: str | None) -> None:
    found = [shade for names, shade in panels.MODES if re.search(names.strip("/"), legend)]

    assert found == ([color] if color else [])


# -- who imports whom -----------------------------------------------------------------------------


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("**/*.py")), ids=lambda path: path.stem)
def test_the_view_imports_none_of_the_programs_it_shows(path: Path) -> None:
    """Boards are for whatever is scraped, from whichever version; names are the contract."""
    assert not set(imported(path)) & {"etltd", "loadclient", "ebpf"}


@pytest.mark.parametrize("name", ["queries", "rules"])
def test_rules_need_no_extra_package(name: str) -> None:
    """Other tests read the rules without them."""
    standard = {"__future__", "dashboards", "dataclasses", "json", "typing", "collections"}

    assert set(imported(PACKAGE / f"{name}.py")) <= standard


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [name for name, _ in rules.expressions()]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"mode:[a-z0-9_]+:[a-z0-9_]+", name) for name in names if ":" in name)
