"""Real daemons, as in `tests.system`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.conftest import daemon, mode

if TYPE_CHECKING:
    import pytest

HERE = Path(__file__).parent

__all__ = ["daemon", "mode"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("system")
