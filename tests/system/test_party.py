"""Three instances on two networks: said once, heard once by everybody, or counted and told."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.system.nats import needs_nats
from tests.system.party import Party, party

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    needs_nats,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed"),
]

FAULTS: dict[str, Callable[[Party], None]] = {
    "nats": lambda held: held.lose_nats(0.7),
    "an instance": lambda held: held.lose_an_instance(0.5),
    "the link": lambda held: held.lose_the_link(1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_everybody_hears_everything_once_or_is_told_whatever_is_lost(
    tmp_path: Path, fault: str
) -> None:
    with party(tmp_path) as held:
        held.go_on(0.7)
        assert not any(guest.told for guest in held.steady()), "nothing was lost yet"
        FAULTS[fault](held)
        held.go_on(0.7)
        held.settle()
        held.check()
