"""For commands that may not write a file of coverage, or whose stderr is compared."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """Return this environment without what makes a Python child measure its coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
