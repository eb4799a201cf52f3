"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "loadclient"
PURE = ("histogram", "ledger", "merge", "pacing", "payload", "protocol", "report", "result",
        "sequences", "series", "totals", "verdict", "voices")  # fmt: skip
WORLD = {"os", "select", "selectors", "signal", "socket", "subprocess", "time", "urllib"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("**/*.py")), ids=lambda path: path.stem)
def test_the_witness_shares_no_code_with_the_suspect(path: Path) -> None:
    """With the daemon's framing it could not see the daemon's framing bugs."""
    assert not imported(path) & {"etltd", "ebpf"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reach_for_no_clock_and_no_socket(name: str) -> None:
    assert not imported(PACKAGE / f"{name}.py") & WORLD


def test_workers_start_without_the_command_line() -> None:
    """Importing cyclopts and rich takes longer than connecting."""
    needed = {"worker", "fleet", "dialer", "peer", "receiver", "sender"}
    heavy = {"cyclopts", "rich", "prometheus_client"}

    assert not set.union(*(imported(PACKAGE / f"{name}.py") for name in needed)) & heavy
