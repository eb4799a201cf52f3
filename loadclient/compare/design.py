"""What is asked, and in which order: cells, presets, randomised pairs. Pure.

Rule: everything here is decided before the first slice, from the design and its seed alone, so an
interrupted study goes on exactly as it would have.

A mode and a read policy are two things. `usual` compares the modes as each is usually run (LT one
read per event, ET until EAGAIN), `eagain` and `short-read` give both the same policy, so that what
is left is the mode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from random import Random
from typing import TYPE_CHECKING

from loadclient.compare.statistics import LEAST_PAIRS, least_pairs
from loadclient.compare.study import Arm, Cell, Design, Shape
from loadclient.network.conditions import parse
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DRAINS = ("usual", "eagain", "short-read")
MODES = ("et", "lt")
LISTENERS = ("reuseport", "exclusive", "shared")
MOST_INSTANCES = 64
DRAINING_READS = "16"  # of one turn, in both modes, when the read policy is the same
SIZES = (64, 128, 256, 512)
SLICE_OVERHEAD_SECONDS = (
    1.05  # connect, hello, two drains, quiet readings: measured, 100 connections
)
PROBED_OVERHEAD_SECONDS = 2.5  # the same, and the probe is compiled: measured
DAEMONS_SECONDS = 0.8  # to start two and stop them: measured

ALL_TALK = Shape(name="all talk", conns=100, rate=50)
SHAPES = (
    Shape(name="staggered", conns=40, rate=40, burst=False),
    Shape(name="one talker", conns=200, rate=40, senders=1),
    Shape(name="few of many talk", conns=300, rate=20, senders=10),
)
CHURN = Shape(name="40 a second come and go", conns=60, rate=20, churn=40)
MIX = replace(ALL_TALK, name="5 shout, 45 murmur", mix="5x100x32,45x5x1024")
FAN_IN = Shape(name="5 of 100 read", conns=100, rate=20, never_readers=95)
SLOW_SHARES = (0, 1, 10, 50)  # per cent of the connections; 0 has the same small buffers
SLOW_READER_RATE = 200_000  # bytes per second, a little less than a reader is owed
SMALL_BUFFERS = "16384"  # so that a slow reader is felt by the daemon and not only by the kernel
BACKLOG = Shape(name="backlog of 14 reads", conns=20, rate=20)
BACKLOG_BYTES = 7000  # and one that finds nothing: within the reads of a turn, or no turn drains
BACKLOG_RECV_BYTES = "512"


@dataclass(frozen=True, slots=True)
class Step:
    """One slice to come."""

    index: int
    cell: str
    pair: int
    arm: str


@dataclass(frozen=True, slots=True)
class Block:
    """The steps that one cell's two daemons live for: a pair, as a rule."""

    cell: Cell
    steps: tuple[Step, ...]


def plan(design: Design) -> tuple[Block, ...]:
    """Return all slices in their order.

    Each round takes the cells in an order drawn by lot; two successive pairs of a cell are ABBA or
    BAAB, by lot too, so that a drift over minutes favours nobody. Every pair has daemons of its
    own: two processes of one program differ by some per cent as long as they live (where their
    memory lies, how they hash), and only pairs that do not share them are independent.
    """
    lot = Random(design.seed)  # noqa: S311 - a design must be repeatable, not secret
    orders = {cell.name: _orders(design.pairs, lot) for cell in design.cells}
    blocks: list[Block] = []
    index = 0
    for first in range(0, design.pairs, design.pairs_per_daemon):
        cells = sorted(design.cells, key=lambda _: lot.random())
        for cell in cells:
            steps = []
            for pair in range(first, min(first + design.pairs_per_daemon, design.pairs)):
                for arm in orders[cell.name][pair]:
                    steps.append(Step(index, cell.name, pair, arm))
                    index += 1
            blocks.append(Block(cell, tuple(steps)))
    return tuple(blocks)


def _orders(pairs: int, lot: Random) -> list[str]:
    orders: list[str] = []
    while len(orders) < pairs:
        orders += ["ab", "ba"] if lot.random() < 0.5 else ["ba", "ab"]
    return orders[:pairs]


def probing_seconds(design: Design) -> float:
    """Return how long asking the kernel should take."""
    each = design.slice_seconds + PROBED_OVERHEAD_SECONDS
    return comparisons(design) * (2 * each + DAEMONS_SECONDS)


def expected_seconds(design: Design) -> float:
    """Return how long the timed slices should take."""
    slices = 2 * design.pairs * len(design.cells)
    blocks = ceil(design.pairs / design.pairs_per_daemon) * len(design.cells)
    each = design.slice_seconds + design.settle_seconds + SLICE_OVERHEAD_SECONDS
    return slices * each + blocks * DAEMONS_SECONDS


def probed(design: Design) -> tuple[Block, ...]:
    """Return one more slice for each arm of each question, for the kernel's probe.

    They come last: what the probe costs must not touch what is timed.
    """
    index = 2 * design.pairs * len(design.cells)
    blocks = []
    for cell in design.cells:
        if not cell.control:
            steps = tuple(
                Step(index + n, cell.name, design.pairs, arm) for n, arm in enumerate("ab")
            )
            index += len(steps)
            blocks.append(Block(cell, steps))
    return tuple(blocks)


def comparisons(design: Design) -> int:
    """Return how many cells ask a question: Holm's correction is for each of its outcomes."""
    return sum(not cell.control for cell in design.cells)


def doubts(design: Design) -> Iterable[str]:
    """Say in sentences why this design could show nothing."""
    if not comparisons(design):
        yield "a study needs at least one cell."
    names = [cell.name for cell in design.cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield f'two cells are named "{twice[0]}": give one of them another name.'
    loses = design.netem and parse(design.netem).loss
    if loses and any(cell.shape.churn for cell in design.cells):
        yield (
            f'--netem "{design.netem}": it loses frames, and a cell with churn cannot be '
            "accounted for where a reset may be lost."
        )
    if design.pairs < LEAST_PAIRS:
        yield (
            f"--pairs {design.pairs}: at least {LEAST_PAIRS}, because fewer have no finite "
            f"{design.confidence:.0%} interval."
        )
        return
    # The effects at equal batch are in Holm's family, too, but not counted here: they may all stand
    # before, or not be there, and then he corrects the total effects for each other alone.
    least = least_pairs(max(1, comparisons(design)), design.confidence)
    if design.pairs < least:
        yield (
            f"--pairs {design.pairs}: with {comparisons(design)} cells at least {least}, because "
            "Holm's correction would let no total effect stand, however large."
        )


def compared(
    msg_bytes: int,
    drain: str = "usual",
    shape: Shape = ALL_TALK,
    options: Mapping[str, str] | None = None,
    *,
    instances: int = 1,
    listener: str = "",
) -> Cell:
    """Return the cell that compares ET with LT; *options* are both daemons'.

    With a *listener* each side is so many *instances* on one port.
    """
    both = dict(options or {}) | ({"listener": listener} if listener else {})
    if drain != "usual":
        both |= {"drain": drain, "reads-per-event": DRAINING_READS}
    lengths = "/".join(map(str, Voices.parse(shape.mix).sizes)) if shape.mix else msg_bytes
    return Cell(
        name=f"{lengths} B, {shape.name}, {drain}{_loops(instances, listener)}",
        msg_bytes=msg_bytes,
        drain=drain,
        shape=shape,
        a=Arm(name="et", mode="et", options=both, instances=instances),
        b=Arm(name="lt", mode="lt", options=both, instances=instances),
    )


def _loops(instances: int, listener: str) -> str:
    if not listener:
        return ""
    return f", {instances} loop{'s' * (instances > 1)} by {listener}"


def one_read_more(msg_bytes: int) -> Cell:
    """Return the cell in which one trigger reads in both ways, so that only the reads differ.

    It is the positive control of a doubled read, and what ET's read costs without ET.
    """
    draining = {"drain": "eagain", "reads-per-event": DRAINING_READS}
    return Cell(
        name=f"{msg_bytes} B, {ALL_TALK.name}, lt with one read more",
        msg_bytes=msg_bytes,
        drain="own",
        shape=ALL_TALK,
        a=Arm(name="lt, draining", mode="lt", options=draining),
        b=Arm(name="lt", mode="lt"),
    )


def control(cell: Cell) -> Cell:
    """Return the A/A arm under the load of *cell*: its second daemon, twice."""
    again = replace(cell.b, name=f"{cell.b.name} again")
    return replace(cell, name=f"A/A: {cell.b.name} twice", a=again, control=True)


def with_control(design: Design) -> Design:
    """Return the design with its A/A arm at the end."""
    asked = [cell for cell in design.cells if not cell.control]
    return replace(design, cells=(*asked, *map(control, asked[:1])))


def quick() -> Design:
    """Return the design of about three minutes: two sizes, and one of them at equal policy."""
    cells = (compared(64), compared(512), compared(64, "eagain"))
    return with_control(
        Design(preset="quick", pairs=10, slice_seconds=0.5, settle_seconds=0.25, cells=cells)
    )


def full() -> Design:
    """Return the design that varies one thing after the other.

    Many short pairs, because it is pairs that power comes from: of 12 all must agree, or Holm's
    correction for two verdicts in each of 26 cells lets no total effect stand before the others; of
    13 a small one need not.
    """
    by_size = [compared(size, drain) for drain in DRAINS for size in SIZES]
    small = {"sndbuf": SMALL_BUFFERS}
    slow = [compared(64, "usual", _slow(share), small) for share in SLOW_SHARES]
    by_shape = [compared(64, "usual", shape) for shape in SHAPES]
    fan_in = replace(FAN_IN, rcvbuf=int(SMALL_BUFFERS))
    by_traffic = [compared(64, "usual", fan_in, small), compared(64, "usual", CHURN)]
    by_traffic.append(compared(longest(MIX), "usual", MIX))
    backlog = [
        compared(BACKLOG_BYTES, drain, BACKLOG, {"recv-bytes": BACKLOG_RECV_BYTES})
        for drain in ("usual", "eagain")
    ]
    more = [one_read_more(size) for size in SIZES[:2]]
    cells = (*by_size, *more, *by_shape, *by_traffic, *slow, *backlog)
    return with_control(Design(pairs=13, slice_seconds=0.8, settle_seconds=0.25, cells=cells))


def longest(shape: Shape) -> int:
    """Return the length of the longest message of a mix: a cell needs one to stand for it."""
    return Voices.parse(shape.mix).sizes[-1]


def _slow(share: int) -> Shape:
    shape = replace(ALL_TALK, name=f"{share} % read slowly", rcvbuf=int(SMALL_BUFFERS))
    if not share:  # a rate that nobody reads at is refused
        return shape
    slow_readers = ALL_TALK.conns * share // 100
    return replace(shape, slow_readers=slow_readers, slow_reader_rate=SLOW_READER_RATE)


def without_churn(design: Design) -> Design:
    """Return the design for a network that loses frames.

    A reset that is lost leaves its connection at the server, so those who came and went could not
    be counted.
    """
    return replace(design, cells=tuple(cell for cell in design.cells if not cell.shape.churn))


def factorial(
    sizes: Iterable[int],
    drains: Iterable[str],
    shape: Shape,
    ports: Iterable[tuple[int, str]] = ((1, ""),),
) -> tuple[Cell, ...]:
    """Return a cell for each size, read policy and (instances, listener) under one shape."""
    return tuple(
        compared(size, drain, shape, instances=instances, listener=listener)
        for instances, listener in ports
        for drain in drains
        for size in sizes
    )
