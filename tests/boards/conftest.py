"""One live scene for all tests of the boards: making it takes longer than asking about it."""

from __future__ import annotations

import faulthandler
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from dashboards.render import bundle as bundles
from tests.boards import rig
from tests.boards.drawing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.boards.rig import Scene


ON_THE_SCENE = {"test_on_prometheus.py", "test_render.py"}
standing = ExitStack()


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if not rig.available():
        pytest.skip("no Prometheus here (deploy/setup.sh dev unpacks it)")
    faulthandler.cancel_dump_traceback_later()  # on a busy machine it takes more than a minute
    with standing:
        yield standing.enter_context(rig.scene(tmp_path_factory.mktemp("scene")))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the scene with the last test on it, or two Prometheus scrape beside all that follow."""
    if nextitem is None or nextitem.path.name not in ON_THE_SCENE:
        standing.close()


@pytest.fixture(scope="session")
def page() -> Path:
    """Build the page, or skip: only the first time on a machine it takes more than a moment."""
    if missing():
        pytest.skip(f"not installed: {', '.join(missing())}")
    faulthandler.cancel_dump_traceback_later()  # npm may take more than a test does
    return bundles.bundle()
