from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.rig import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("system")


@pytest.fixture(params=["lt", "et"])
def mode(request: pytest.FixtureRequest) -> str:
    """Run the test once per trigger mode."""
    return str(request.param)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Start the real command: ``daemon(mode, *options)``; it is ended when the test ends."""
    started: list[DaemonProcess] = []

    def start(mode: str, *options: str, wait: bool = True, **more: Any) -> DaemonProcess:
        log = tmp_path / f"daemon-{len(started)}.log"
        started.append(DaemonProcess(mode, *options, log=log, **more))
        if wait:
            started[-1].wait_until_listening()
        return started[-1]

    yield start
    for process in started:
        process.close()
    for process in started:
        assert "Traceback" not in process.output(), process.output()
