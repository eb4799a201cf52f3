from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.machine import Machine, NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print what the tests here measured, not only that it was within bounds."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """Boot systemd once for all tests of a file, with nothing of ours installed."""
    try:
        machine = Machine()
    except NotPossibleError as reason:
        pytest.skip(f"no systemd can be booted here: {reason}")
    yield machine
    machine.stop()
