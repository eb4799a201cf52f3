"""What judges must not measure: these modules reach for no clock, socket or process."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "loadclient" / "compare"
PURE = ("analysis", "bisection", "design", "fingerprint", "replacements", "report", "simulation",
        "slices", "statistics", "study", "studyfile", "verdict")  # fmt: skip
WORLD = {"os", "select", "selectors", "signal", "socket", "subprocess", "time", "urllib"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reach_for_no_clock_and_no_socket(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not {module.partition(".")[0] for module in imported} & WORLD
