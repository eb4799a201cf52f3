"""SCALING.md says what the model says."""

from __future__ import annotations

from pathlib import Path

from tests.bench.scaling_model import LOOP_CORE, NATS_CORES, Crowd, least, need, table


def test_the_table_in_the_document_is_the_models() -> None:
    """A constant that was measured anew would leave old figures behind."""
    assert table() in (Path(__file__).parents[2] / "SCALING.md").read_text()


def test_no_fewer_instances_would_do() -> None:
    crowd = Crowd(connections=100_000, messages=1000)
    found = least(crowd)

    assert found is not None
    assert found.loop_cores <= LOOP_CORE
    assert found.nats_cores <= NATS_CORES
    assert not need(crowd, found.instances * 9 // 10).fits


def test_one_instance_needs_no_bus() -> None:
    alone = need(Crowd(connections=1000, messages=10), 1)

    assert alone.nats_cores == 0
    assert alone.fits
