"""SCALING.md says what the model says, and the model says about what was measured."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from statistics import median

import pytest

from tests.bench.bench_loops import Run, summary
from tests.bench.scaling_model import (
    BASE_BYTES,
    FASTER,
    IDLE_BYTES,
    LAG,
    NATS,
    NATS_CORES,
    SIGNS,
    SLOWER,
    SOCKET_BYTES,
    Crowd,
    Instance,
    Play,
    burst,
    least,
    need,
    table,
)
from tests.untraced import untraced

ROOT = Path(__file__).parents[2]
FACTOR = 1.5  # off at most
STUDY = json.loads(lzma.decompress((ROOT / "results" / "loops.json.xz").read_bytes()))
CONNS, RATE, CORES = 40, 20, 2  # of that study, and of its machine


@untraced()
def test_the_table_in_the_document_is_the_models() -> None:
    """A constant that was measured anew would leave old figures behind."""
    assert table() in (ROOT / "SCALING.md").read_text()


def measured_cores(cell: str, arm: str) -> float:
    """Return the cores that one arm of the stored study used, its median slice."""
    return median(
        slice_["outcomes"]["cpu_ns_per_delivery"] * slice_["received"] / slice_["seconds"] / 1e9
        for slice_ in STUDY["slices"]
        if slice_["cell"] == cell and slice_["arm"] == arm and slice_["valid"]
    )


@pytest.mark.parametrize("mode", ["et", "lt"])
@pytest.mark.parametrize("loops", [2, 4])
def test_the_model_foretells_what_more_loops_cost(mode: str, loops: int) -> None:
    """What a process takes beside its messages (scrapes) is what one loop had left over."""
    cell = f"{mode}, {loops} loops over 1"
    foretold, beside = fitted(mode, loops)

    measured = measured_cores(cell, "a") / measured_cores(cell, "b")
    assert beside > 0
    assert measured / FACTOR < foretold < measured * FACTOR


def fitted(mode: str, loops: int) -> tuple[float, float]:
    """Return how much more *loops* cost than one, and the cores beside messages of each in it."""
    one = measured_cores(f"{mode}, {loops} loops over 1", "b")
    beside = one - burst(1, CONNS, RATE, CORES)
    return (burst(loops, CONNS, RATE, CORES) + loops * beside) / one, beside


def test_the_document_says_what_the_model_says_alone_and_what_is_fitted() -> None:
    text = " ".join((ROOT / "SCALING.md").read_text().split())
    one, two, four = (burst(loops, CONNS, RATE, CORES) for loops in (1, 2, 4))
    found = {loops: [fitted(mode, loops) for mode in ("et", "lt")] for loops in (2, 4)}
    beside = [cores for both in found.values() for _, cores in both]
    ratios = [f"{min(both)[0]:.1f} to {max(both)[0]:.1f}" for both in found.values()]

    assert f"two loops cost {two / one:.1f} times as much as one, and four {four / one:.1f}" in text
    assert f"({one:.4f}, {two:.4f} and {four:.4f} cores)" in text
    assert f"{min(beside):.4f} to {max(beside):.4f} cores, is added to each loop" in text
    assert f"it says {' and '.join(ratios)}; that is fitted" in text


def test_what_two_loops_deliver_is_what_was_stored() -> None:
    stored = json.loads(lzma.decompress((ROOT / "results" / "loops-two.json.xz").read_bytes()))
    pairs = [(Run(**one), Run(**two)) for one, two in stored["pairs"]]
    ratio = re.search(r"over one: ([\d.]+) \(95 %: ([\d.]+ to [\d.]+)\)", summary(pairs))
    assert ratio is not None
    text = (ROOT / "SCALING.md").read_text()

    assert f"Two loops deliver {ratio[1]} times ({ratio[2]}) as much" in text
    for loops in zip(*pairs, strict=True):
        middle, *ends = (f(run.deliveries for run in loops) for f in (median, min, max))
        row = rf" {_near(middle)} \({_near(ends[0])} to {_near(ends[1])}\) "
        assert re.search(row, text), row


def test_what_the_stored_runs_of_two_loops_warn_of_is_told() -> None:
    stored = json.loads(lzma.decompress((ROOT / "results" / "loops-two.json.xz").read_bytes()))
    runs = [run for pair in stored["pairs"] for run in pair]
    busy, unsteady = (
        [run["loops"] for run in runs if any(words in w for w in run["result"]["warnings"])]
        for words in ("the machine is too busy", "not stationary")
    )
    drains = [run["result"]["drain_seconds"] for run in runs]
    text = " ".join((ROOT / "SCALING.md").read_text().split())

    assert f"needs {min(drains):.1f} to {max(drains):.1f} s after its load" in text
    assert f"all {len(busy)} records warn that the machine is too busy" in text
    assert len(busy) == len(runs)
    each = f"({unsteady.count(1)} with one loop, {unsteady.count(2)} with two)"
    assert f"and {len(unsteady)} {each} that the load was not stationary" in text


def _near(figure: float) -> str:
    """Return a pattern for a figure to three or four digits."""
    return "|".join({f"{round(figure, -places):,.0f}" for places in (2, 3)}).join(("(?:", ")"))


@untraced()
def test_no_fewer_instances_would_do() -> None:
    crowd = Crowd(connections=100_000, messages=10)
    found = least(crowd)

    assert found is not None
    assert found.lag <= LAG
    assert found.nats_cores <= NATS_CORES
    assert not need(crowd, found.instances * 8 // 10).fits


def test_a_busy_loop_batches_instead_of_falling_behind() -> None:
    """A hundred times as many messages cost it a few times as much: it never sends one by one."""
    calm, busy = need(Crowd(5000, 10), 1), need(Crowd(5000, 1000), 1)

    assert calm.fits
    assert busy.fits
    assert busy.loop_cores < 5 * calm.loop_cores


def test_a_link_that_is_too_narrow_for_all_copies_is_no_fit() -> None:
    """What goes out to the clients is connections times what comes in: it is full first."""
    found = need(Crowd(connections=10_000, messages=10_000), 4)

    assert found.link_bytes > 1.25e9
    assert not found.fits


def test_one_instance_needs_no_bus() -> None:
    assert need(Crowd(connections=1000, messages=10), 1).nats_cores == 0


@untraced()
def test_the_signs_of_life_stop_a_quiet_chat_where_the_document_says() -> None:
    """They are the square of the instances, whatever is said."""
    text = " ".join((ROOT / "SCALING.md").read_text().split())

    def cores(instances: int) -> float:
        return instances * (instances - 1) * SIGNS * NATS

    huge = Crowd(10_000_000, 1)
    found = need(huge, 632)
    memory = 1126 * BASE_BYTES + huge.connections * (IDLE_BYTES + SOCKET_BYTES)
    assert found.nats_cores <= NATS_CORES < need(huge, 633).nats_cores
    assert f"{cores(116):.2f} cores at 116 instances, its {NATS_CORES:.0f} cores at 632" in text
    assert f"{cores(1126):.1f} cores at the 1,126 that 10⁷" in text
    assert f"With 632 the lag of 10⁷ is {found.lag:.2f} s at a message a second" in text
    assert f"632 instances {1000 * 631 * NATS:.0f} cores more" in text
    assert f"one in four seconds is {cores(1126) / 4:.1f} cores" in text
    assert f"{memory / 1e9:.0f} GB over 1,126 instances" in text
    assert need(Crowd(5_000_000, 1), 632).fits


def test_a_sign_of_life_is_heard_and_nothing_is_sent_for_it() -> None:
    """It costs the bus thread and a tick, no client's copy, and nobody's lag."""
    one = Instance(1000)
    play = Play([one])
    play.envelope_at(0.0, one, 0)
    play.run()

    assert 0 < one.busy_seconds < 1000 * FASTER.batch / 10
    assert not one.lags


def test_who_has_words_on_their_way_gives_no_sign() -> None:
    one = Instance(1000)
    one.outgoing = [3]
    play = Play([one])
    play.sign_at(0.0, one)
    play.run()

    assert one.published == 1
    assert not one.outgoing


def test_the_hours_are_those_of_the_benchmarks() -> None:
    """Microseconds a client for batches of 1, 100 and 500: their sources are beside the figures."""
    for sends, expected in ((FASTER, (6, 9, 21)), (SLOWER, (12, 17, 37))):
        found = [sends.batch + sends.message * messages for messages in (1, 100, 500)]
        assert [round(seconds * 1e6) for seconds in found] == list(expected)
