"""Studies without a machine: slices drawn by lot, with a known truth, judged by the same code.

What they are for: the share of A/A studies that find a difference can be counted over thousands,
an effect that was put in must come out again, and a report can be looked at in seconds. The noise
is that of a shared machine: it drifts from pair to pair, the two slices of a pair share most of it,
and now and then one has a spike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log
from random import Random
from typing import TYPE_CHECKING, Any

from loadclient.compare.analysis import analyse
from loadclient.compare.design import plan, probed, quick
from loadclient.compare.replacements import due
from loadclient.compare.study import KernelCounts, Slice, Study
from loadclient.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadclient.compare.design import Step
    from loadclient.compare.study import Arm, Cell, Design

SECONDS = 2.0  # of a slice
CPU_NS = 200.0  # per delivered message
P50_NS = 5e6
LATENCY_SAMPLES = 120
SPIKE = 0.4  # log ratio
STARTED = 1_767_225_600.0  # any moment will do; this one is 2026
BATCH = 30  # messages
NOTE = "These slices were not measured but drawn by lot: this is a simulated study."


@dataclass(frozen=True, slots=True)
class World:
    """The truth of a simulation."""

    a_over_b: Mapping[str, float] = field(default_factory=dict)  # cell name: ratio of all costs
    noise: float = 0.05  # of a slice's log, beside its pair's
    drift: float = 0.3  # of the log from pair to pair, shared by both slices
    process: float = 0.03  # of the log of what a daemon costs, as long as it lives
    spikes: float = 0.05  # share of slices that have one
    batching: float = 0.1  # of the log of a slice's batch
    batch_slope: float = 0.0  # of the log of the CPU cost against it
    batch_a_over_b: float = 1.0  # how the first arm's mode moves its batch, in every cell but A/A
    invalid: float = 0.0  # share of slices to discard
    replaced: bool = False  # whether further pairs stand in for them
    histograms: bool = True
    latencies: int = LATENCY_SAMPLES  # of a slice; they cost more to draw than everything else
    wrong_mode: str | None = None  # a cell whose arm a is not in the mode it was to be in


def simulated_slices(design: Design, world: World, seed: int = 1) -> tuple[Slice, ...]:
    """Return the slices that *design* would have measured in *world*."""
    lot = Random(seed)  # noqa: S311 - a simulation must be repeatable, not secret
    batches = Random(f"{seed} batch")  # noqa: S311 - likewise; of its own: no other draw moves
    slices: list[Slice] = []
    blocks = list(plan(design))
    for block in blocks:
        own = {arm: lot.gauss(0, world.process) for arm in "ab"}
        shared: dict[int, float] = {}
        for step in block.steps:
            shift = shared.setdefault(step.pair, lot.gauss(0, world.drift))
            batch = batches.gauss(0, world.batching)
            if step.arm == "a" and not block.cell.control:
                batch += log(world.batch_a_over_b)
            slices.append(_slice(step, block.cell, world, shift + own[step.arm], batch, lot))
        if world.replaced and block is blocks[-1]:
            blocks.extend(due(design, slices))
    return tuple(slices)


def simulated_study(
    design: Design | None = None, world: World | None = None, seed: int = 1
) -> Study:
    """Return a whole study of simulated slices."""
    design = design or quick()
    slices = simulated_slices(design, world or World(), seed)
    kernel = _kernel_counts(design, slices)
    fitness, cells = analyse(design, slices, kernel=kernel)
    return Study(
        study_id=f"simulated-{seed}",
        started=STARTED,
        finished=STARTED + 180,
        complete=True,
        command="(simulated)",
        design=design,
        environment={"kernel": "simulated", "cpu": "none", "cores": 0, "python": "simulated"},
        fitness=fitness,
        cells=cells,
        kernel=kernel,
        notes=(NOTE,),
        slices=slices,
    )


def _kernel_counts(design: Design, slices: tuple[Slice, ...]) -> tuple[KernelCounts, ...]:
    """Return what a probe would have counted: what the daemon counts."""
    first = {(one.cell, one.arm): one for one in reversed(slices)}
    heard = []
    for block in probed(design):
        for step in block.steps:
            one = first[step.cell, step.arm]
            counts = {
                "wakeups": one.syscalls["epoll_wait"],
                **{name: one.syscalls[name] for name in ("recvfrom", "sendto", "sendmsg")},
                "recvfrom that found nothing": one.eagain["recvfrom"],
                "epoll_ctl mod": one.epoll_ctl["mod"],
            }
            heard.append(
                KernelCounts(
                    cell=step.cell, arm=step.arm, messages=one.sent, kernel=counts, daemon=counts
                )
            )
    return tuple(heard)


def _slice(  # noqa: PLR0917 - a slice of a world
    step: Step, cell: Cell, world: World, shift: float, batch: float, lot: Random
) -> Slice:
    arm = cell.arms[step.arm]
    wrong = step.arm == "a" and world.wrong_mode == cell.name
    mode = {"et": "lt", "lt": "et"}[arm.mode] if wrong else arm.mode
    valid = lot.random() >= world.invalid
    sent = round((cell.shape.senders or cell.shape.conns) * cell.shape.rate * SECONDS)
    received = sent * (cell.shape.conns - 1)
    costs, latency = _costs(cell, world, lot, (shift, batch), first=step.arm == "a")
    size = min(BATCH, cell.shape.conns) * exp(batch)
    wakeups, empty = _counts(arm, sent, size, wrong=wrong)
    return Slice(
        index=step.index,
        cell=step.cell,
        pair=step.pair,
        arm=step.arm,
        started=STARTED + 2.5 * step.index,
        mode=mode,
        valid=valid,
        reasons=[] if valid else [f"the hypervisor took {lot.randint(6, 40)}% (simulated)"],
        seconds=SECONDS,
        offered=sent,
        sent=sent,
        expected=received,
        received=received,
        registered={mode: cell.shape.conns} | ({"lt": 1} if mode == "et" else {}),
        latency=latency if world.histograms else {},
        build={"version": "simulated"},
        config={"fan_out": "batch", **_config(arm)},
        conditions={"steal_share": 0.0, "cpu_pressure_seconds": 0.1, "client_cpu_share": 0.2},
        outcomes=costs | _per_message(sent, wakeups, empty) | {
            "deliveries_per_second": received / SECONDS * exp(lot.gauss(0, 0.001))
        },
        **_tables(sent, wakeups, empty),
    )  # fmt: skip


def _costs(
    cell: Cell, world: World, lot: Random, logs: tuple[float, float], *, first: bool
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return what a slice cost, and the histogram of its latencies.

    The *logs* are by how much all costs are shifted, and the batch.
    """
    shift, batch = logs
    truth = world.a_over_b.get(cell.name, 1.0) if first else 1.0

    def noisy(value: float) -> float:
        spike = SPIKE if lot.random() < world.spikes else 0.0
        return value * truth * exp(shift + lot.gauss(0, world.noise) + spike)

    middle_ns = noisy(P50_NS)
    delays = sorted(round(middle_ns * exp(lot.gauss(0, 0.4))) for _ in range(world.latencies))
    costs: dict[str, float | None] = {
        "cpu_ns_per_delivery": noisy(CPU_NS) * exp(world.batch_slope * batch),
        "latency_p50_seconds": delays[world.latencies // 2] / 1e9,
        "latency_p99_seconds": delays[-1 - world.latencies // 100] / 1e9,
    }
    return costs, _recorded(delays) if world.histograms else {}


def _counts(arm: Arm, sent: int, size: float, *, wrong: bool) -> tuple[int, int]:
    """Return wakeups, and reads that found nothing."""
    config = _config(arm)
    drains = config["drain"] == "eagain" and config["reads_per_event"] != "1"
    return max(4, round(sent / size)), sent if drains and not wrong else 0


def _per_message(sent: int, wakeups: int, empty: int) -> dict[str, float | None]:
    return {
        "wakeups_per_message": wakeups / sent,
        "syscalls_per_message": (wakeups + 2 * sent + empty) / sent,
        "eagain_reads_per_message": empty / sent,
        "mods_per_message": 0.0,
        "events_per_wakeup": sent / wakeups,
        "messages_per_batch": sent / wakeups,
    }


def _tables(sent: int, wakeups: int, empty: int) -> dict[str, Any]:
    """Return the counts by kind, and by size."""
    quarter = wakeups // 4
    return {
        "syscalls": {
            "epoll_wait": wakeups, "epoll_ctl": 0, "accept4": 0, "recvfrom": sent + empty,
            "sendto": 0, "sendmsg": sent, "close": 0,
        },
        "eagain": {"accept4": 0, "recvfrom": empty, "sendto": 0, "sendmsg": 0},
        "epoll_ctl": {"add": 0, "mod": 0, "del": 0},
        "epoll_events": {"in": sent, "out": 0, "hup": 0, "accept": 0},
        "wakeup_events": {"15": quarter, "31": wakeups // 2, "63": wakeups - 3 * quarter},
        "batch_messages": {"15": quarter, "31": wakeups - quarter},
    }  # fmt: skip


def _config(arm: Arm) -> dict[str, str]:
    chosen = {name.replace("-", "_"): value for name, value in arm.options.items()}
    reads = "1" if arm.mode == "lt" else "16"
    return {"drain": "eagain", "reads_per_event": reads} | chosen


def _recorded(delays: list[int]) -> dict[str, Any]:
    histogram = Histogram()
    for delay in delays:
        histogram.record(delay)
    return histogram.as_json()
