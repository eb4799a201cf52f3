"""For commands that may not write the file of a coverage measurement, or whose stderr is compared."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """This environment, without what makes a Python child measure its coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
