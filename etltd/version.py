"""Which build this is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from functools import cache
from pathlib import Path


def version() -> str:
    """Return the installed version."""
    try:
        return importlib.metadata.version("etlt")
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "0+unknown"


@cache
def commit() -> str:
    """Return the commit: what the image was built from (ETLT_COMMIT), else git's, else unknown."""
    built_from = os.environ.get("ETLT_COMMIT")
    if built_from:
        return built_from
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():  # installed: git would describe whatever is around
        return "unknown"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=package,
            capture_output=True,
            check=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
