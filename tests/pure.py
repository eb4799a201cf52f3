"""The modules that the project calls pure: one list, of the coverage gate and of the tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pure(package: str) -> list[str]:
    """Return the modules of *package* that the Makefile wants wholly tested, as paths in it."""
    (line,) = re.findall(r"^PURE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [name for name in line.split(",") if name.startswith(f"{package}/")]
