from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.rig import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what spawns the real command."""
    for item in items:
        if HERE in item.path.parents and item.path.name != "test_fuzz.py":
            item.add_marker("system")


@pytest.fixture(params=["lt", "et"])
def mode(request: pytest.FixtureRequest) -> str:
    """Run the test once per trigger mode."""
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Start the real command: ``start(mode, *options)``; it is ended when the test ends."""
    started: list[DaemonProcess] = []

    def begin(mode: str, *options: str, **more: Any) -> DaemonProcess:
        log = tmp_path / f"daemon-{len(started)}.log"
        started.append(DaemonProcess(mode, *options, log=log, **more))
        started[-1].wait_until_listening()
        return started[-1]

    yield begin
    for process in started:
        process.close()
    for process in started:
        assert "Traceback" not in process.output(), process.output()


@pytest.fixture(scope="module", params=["lt", "et"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonProcess]:
    """Return one daemon for all tests of a file, in each mode: what one breaks the next sees."""
    process = DaemonProcess(str(request.param), log=tmp_path_factory.mktemp("fire") / "daemon.log")
    try:
        process.wait_until_listening()
        yield process
    finally:
        process.close()
    assert "Traceback" not in process.output(), process.output()
