"""The README names every option there is, and no command in it is misspelt."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMAND = re.compile(r"(etltd|loadclient|etlt-probe) ")
OPTION = re.compile(r"--[a-z][a-z0-9-]+")


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    )
    return done.stdout


def tables(heading: str) -> str:
    """Return the rows of the tables below a heading, up to the next one of its rank."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


@pytest.mark.system
@pytest.mark.parametrize(
    ("heading", "command"),
    [("etltd", ("etltd",)), ("loadclient", ("loadclient", "run")), ("etlt-probe", ("ebpf",))],
)
def test_every_option_is_in_the_table_of_its_command(
    heading: str, command: tuple[str, ...]
) -> None:
    """Somebody would look for it in vain; a mention elsewhere explains nothing."""
    options = set(OPTION.findall(help_of(*command))) - {"--help", "--version"}

    assert options - set(OPTION.findall(tables(heading))) == set()


@pytest.mark.system
def test_every_option_in_the_readme_exists() -> None:
    """A newcomer would type it and be told that there is no such thing."""
    ours = [
        line for line in README.splitlines() if re.search(r"(etltd|loadclient|etlt-probe) ", line)
    ]
    named = {option for line in ours for option in OPTION.findall(line)}
    known = "".join(
        help_of(*command)
        for command in [
            ("etltd",), ("loadclient", "run"), ("loadclient", "compare"), ("loadclient", "search"),
            ("loadclient", "report"), ("loadclient", "merge"), ("ebpf",),
        ]
    )  # fmt: skip

    assert {option for option in named if option not in known} == set()
