from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["lt", "et"])
def mode(request: pytest.FixtureRequest) -> str:
    """Run the test once per trigger mode."""
    return str(request.param)


@pytest.fixture
def make_rig(mode: str) -> Iterator[Callable[..., Rig]]:
    """Make reactors of this mode; each one's ledger must balance at the end."""
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(mode, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Return a reactor with default options."""
    return make_rig()
