"""Slices of two machines are no study: under --resume a file may have been carried to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadclient.compare import command, store
from loadclient.compare.design import compared
from loadclient.compare.fingerprint import mixture
from loadclient.compare.simulation import World, simulated_slices
from loadclient.compare.slices import slice_of
from loadclient.compare.study import Design
from loadclient.environment import Contention, build, describe, machine
from loadclient.options import UsageError
from loadclient.result import RunResult

DESIGN = Design(pairs=6, cells=(compared(64),))
HERE = {**build(), **machine(), "boot": "today"}
SLICES = [replace(one, client=HERE) for one in simulated_slices(DESIGN, World(histograms=False))]
OTHER = [("cpu", "Another 9000"), ("kernel", "6.0.0-other")]


def raw(client: dict[str, str | None]) -> store.Raw:
    header = store.Header(study_id="s", started=1.0, command="c", design=DESIGN)
    return store.Raw(header, {0: replace(SLICES[0], client=client)})


@pytest.mark.parametrize(("name", "other"), OTHER)
def test_a_study_is_not_gone_on_with_on_another_machine(name: str, other: str) -> None:
    """The two hosts' slices were mixed, and their difference was scatter at best."""
    command._check_build(raw(HERE))
    with pytest.raises(UsageError, match=f"the slices so far are of {name} {other}, and this is"):
        command._check_build(raw(HERE | {name: other}))


@pytest.mark.parametrize(("name", "other"), OTHER)
def test_slices_of_two_machines_are_not_compared(name: str, other: str) -> None:
    moved = [replace(one, client=HERE | {name: other}) for one in SLICES[6:]]

    assert mixture(SLICES) is None
    assert f"from different machines: the load client's {name} is" in mixture(SLICES[:6] + moved)


def test_a_study_may_go_on_after_a_reboot() -> None:
    later = [replace(one, client=HERE | {"boot": "tomorrow"}) for one in SLICES[6:]]

    command._check_build(raw(later[0].client))
    assert mixture(SLICES[:6] + later) is None


def test_a_slice_knows_its_machine() -> None:
    environment = describe(Contention.now())
    one = slice_of(
        command.designs.Step(0, "c", 0, "a"), RunResult(run_id="r", environment=environment), 0.0
    )

    assert all(one.client[name] for name in ("cpu", "kernel", "boot"))
