"""What `loadclient compare` can be told, and the design that follows from it."""

from __future__ import annotations

import secrets
import shlex
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from loadclient.compare import design as designs
from loadclient.compare.bench import mode_of
from loadclient.compare.study import Arm, Design, Shape
from loadclient.compare.studyfile import design_of
from loadclient.daemon import Daemon
from loadclient.network.conditions import Conditions, parse
from loadclient.options import File, Url, UsageError, integer, real
from loadclient.runner import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cyclopts import Token

    from loadclient.compare.study import Cell

SEEDS = 2**31
NUMBERS = ("pairs", "slice_seconds", "settle_seconds", "seed")  # that may be changed in any design


def sizes(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read message sizes, separated by commas. Raises ValueError."""
    return _whole_numbers(tokens[0].value, 32, 1 << 20)


def drains(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Read read policies, separated by commas. Raises ValueError."""
    return _words(tokens[0].value, designs.DRAINS)


def counts(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read numbers of instances, separated by commas. Raises ValueError."""
    return _whole_numbers(tokens[0].value, 1, designs.MOST_INSTANCES)


def listeners(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Read ways to share a port, separated by commas. Raises ValueError."""
    return _words(tokens[0].value, designs.LISTENERS)


def modes(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Read two modes, separated by a comma. Raises ValueError."""
    words = _words(tokens[0].value, designs.MODES)
    if len(words) != 2:
        raise ValueError(f'"{tokens[0].value}" is not two different modes, such as et,lt')
    return words


def address(_type: Any, tokens: Sequence[Token]) -> str:
    """Check the spelling of an address. Raises ValueError."""
    text = tokens[0].value
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f'"{text}" is not HOST:PORT')
    return text


def conditions(_type: Any, tokens: Sequence[Token]) -> Conditions:
    """Read what a network does. Raises ValueError."""
    return parse(tokens[0].value)


def _whole_numbers(text: str, least: int, most: int) -> tuple[int, ...]:
    found = []
    for word in text.split(","):
        if not word.strip().isdecimal() or not least <= int(word) <= most:
            raise ValueError(f'"{word}" is not a whole number from {least} to {most}')
        found.append(int(word))
    return tuple(dict.fromkeys(found))


def _words(text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in known:
            raise ValueError(f'"{word}" is not one of {", ".join(known)}')
    return tuple(dict.fromkeys(words))


def _list(converter: Callable[[Any, Sequence[Token]], tuple[Any, ...]]) -> Parameter:
    """Take one word with commas in it, also from the environment, where spaces would split it."""
    return Parameter(converter=converter, n_tokens=1, negative="", env_var_split=_one_word)


def _one_word(_type: Any, text: str, *, delimiter: str | None) -> list[str]:
    return [text] if delimiter is None else text.split(delimiter)


Address = Annotated[str | None, Parameter(converter=address, n_tokens=1)]
Netem = Annotated[
    Conditions | None,
    Parameter(converter=conditions, n_tokens=1, accepts_keys=False, env_var_split=_one_word),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared, how often, and where the results go."""

    preset: Literal["quick", "full", "original"] = "full"
    """quick: three questions, about three minutes. full: 26 questions, 33 minutes, and more where
    pairs have to be measured again. original: the original's load and score, and what they hide,
    about eight minutes."""
    quick: Annotated[bool, Parameter(negative="")] = False
    """The same as --preset quick."""
    study: File = None
    """Take the cells from this TOML file instead of a preset."""
    resume: File = None
    """Go on with the study whose raw slices are in this file."""
    modes: Annotated[tuple[str, ...], _list(modes)] = designs.MODES
    """Which mode over which."""
    msg_bytes: Annotated[tuple[int, ...] | None, _list(sizes)] = None
    """Message sizes, as in 64,512: one cell for each size and read policy instead of a preset's."""
    drain: Annotated[tuple[str, ...] | None, _list(drains)] = None
    """Read policies: usual, each mode's own; eagain or short-read, the same for both."""
    conns: Annotated[int | None, integer(2, 100_000)] = None
    """Connections of such cells; all of them talk and listen. Default: 100."""
    rate: Annotated[float | None, real(0.001, 100_000)] = None
    """Messages per second of each of them. Default: 50."""
    instances: Annotated[tuple[int, ...] | None, _list(counts)] = None
    """Numbers of loops, as in 1,2,4: each side is so many daemons on one port, which are one chat
    over a NATS server (package nats-server) if they are several; one cell for each number."""
    listener: Annotated[tuple[str, ...] | None, _list(listeners)] = None
    """How they share the port: reuseport (the default), exclusive, shared; one cell for each."""
    pairs: Annotated[int | None, integer(1, 1000)] = None
    """Pairs of slices in each cell. Default: the preset's, or 10 for a study of yours."""
    slice_seconds: Annotated[float | None, real(0.5, 3600)] = None
    """Seconds measured in each slice. Default: the preset's."""
    settle_seconds: Annotated[float | None, real(0, 600)] = None
    """Seconds of load before that, which are not counted. Default: the preset's."""
    seed: Annotated[int | None, integer(0, 2**63)] = None
    """Decides the order of everything. Default: drawn, and reported."""
    netem: Netem = None
    """As root: put client and daemons into two network namespaces. veth adds nothing to the link
    between them; delay=20ms,jitter=2ms,loss=1%,rate=50mbit (or some of these) hold each way."""
    probe: bool = True
    """Ask the kernel too, in slices of their own at the end, where etlt-probe can run."""
    a: Address = None
    """HOST:PORT of a daemon of yours, to compare instead of starting any; needs the other three."""
    a_metrics: Url = None
    """URL of its /metrics."""
    b: Address = None
    """HOST:PORT of the other one."""
    b_metrics: Url = None
    """URL of its /metrics."""
    raw: File = None
    """File for the raw slices as JSON lines. Default: report/compare-TIME.jsonl."""
    json: File = None
    """File for the study as JSON. Default: like the raw slices', ending in .json."""
    html: File = None
    """File for the report as one HTML page."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Print no progress and no report."""


DEFAULTS = CompareOptions()


def decided(options: CompareOptions, given: list[list[str]]) -> Design:
    """Return the design that the options describe.

    Raises UsageError.
    """
    design = _of_study(options, given) if options.study else _of_preset(options, given)
    numbers = {name: getattr(options, name) for name in NUMBERS}
    design = replace(design, **{k: v for k, v in numbers.items() if v is not None})
    if options.netem is not None:
        design = replace(design, netem=str(options.netem))
        if options.netem.loss and options.study is None:
            design = designs.without_churn(design)
    design = designs.with_control(design)
    return _of_given(design, given) if given else design


def _of_study(options: CompareOptions, given: list[list[str]]) -> Design:
    """Return the design of a file; the options may change its numbers, not its cells."""
    assert options.study is not None  # noqa: S101 - that is why we are here
    default = CompareOptions()
    own = ("quick", "preset", "modes", "msg_bytes", "drain", "conns", "rate")
    for name in (*own, "instances", "listener"):
        if getattr(options, name) != getattr(default, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: the cells are in the --study file; leave it out."
            )
    if given:
        raise UsageError("--a: the cells are in the --study file; leave the addresses out.")
    tables = _tables(options.study)
    design = design_of(tables, options.study.stem)
    return design if "seed" in tables else replace(design, seed=_drawn_seed())


def _of_preset(options: CompareOptions, given: list[list[str]]) -> Design:
    """Return a preset's design, or its numbers with the cells that the options name."""
    is_quick = options.quick or options.preset == "quick"
    design = replace(designs.quick() if is_quick else designs.full(), seed=_drawn_seed())
    asked = (options.msg_bytes, options.drain, options.conns, options.rate, options.instances)
    if options.listener is not None and options.instances is None:
        raise UsageError("--listener: it means nothing without --instances.")
    if given or any(value is not None for value in asked):
        design = replace(design, cells=_cells(options), preset=f"{design.preset}, own cells")
    if options.modes != designs.MODES:
        turned = [replace(c, a=c.b, b=c.a) for c in design.cells if not c.control]
        design = replace(design, cells=tuple(turned))
    return design


def _drawn_seed() -> int:
    return secrets.randbelow(SEEDS)


def _cells(options: CompareOptions) -> tuple[Cell, ...]:
    talk = designs.ALL_TALK
    conns, rate = options.conns or talk.conns, options.rate or talk.rate
    shape = talk
    if (conns, rate) != (talk.conns, talk.rate):
        shape = Shape(name=f"{conns} x {rate:g}/s", conns=conns, rate=rate)
    ports: list[tuple[int, str]] = [(1, "")]
    if options.instances:
        ways = options.listener or designs.LISTENERS[:1]
        ports = [(count, way) for way in ways for count in options.instances]
    return designs.factorial(options.msg_bytes or (64,), options.drain or ("usual",), shape, ports)


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f'--study "{path}": {reason}.') from error


# Daemons of somebody else.


def given(options: CompareOptions) -> list[list[str]]:
    """Return the addresses and metrics of the two daemons, if any are given."""
    values = (options.a, options.a_metrics, options.b, options.b_metrics)
    if not any(values):
        return []
    a, a_metrics, b, b_metrics = values
    if not (a and a_metrics and b and b_metrics):
        raise UsageError("--a, --a-metrics, --b, --b-metrics: give all four, or none.")
    if options.drain is not None or options.modes != designs.MODES:
        raise UsageError("--drain, --modes: a daemon of yours decides them itself; leave them out.")
    if options.instances is not None or options.listener is not None:
        raise UsageError(
            "--instances, --listener: daemons of yours are what they are; leave it out."
        )
    if options.netem is not None:
        raise UsageError("--netem: daemons of yours are where they are; leave it out.")
    return [[a, a_metrics], [b, b_metrics]]


def _of_given(design: Design, given: list[list[str]]) -> Design:
    """Return the design with arms named by what the daemons say they are.

    All pairs share their two processes, so there are ratios, and no winner.
    """
    found = [mode_of(daemon) for daemon in reached(given)]
    names = found if found[0] != found[1] else [f"a ({found[0]})", f"b ({found[1]})"]
    a, b = (Arm(name=name, mode=mode) for name, mode in zip(names, found, strict=True))
    cells = [
        replace(cell, name=cell.name.removesuffix(", usual"), drain="own", a=a, b=b)
        for cell in design.cells
        if not cell.control
    ]
    return designs.with_control(replace(design, cells=tuple(cells), pairs_per_daemon=design.pairs))


def reached(given: list[list[str]]) -> list[Daemon]:
    """Return the daemons at these addresses.

    Raises CannotRunError if there is no such host.
    """
    daemons = []
    for address, metrics in given:
        host, _, port = address.rpartition(":")
        daemons.append(Daemon(0, resolve(host.strip("[]"), int(port)), metrics))
    return daemons


def spelt(options: CompareOptions, seed: int | None) -> str:
    """Return the command that would do the same again."""
    words = ["loadclient", "compare"]
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in {"raw", "json", "html", "quiet", "seed"} or value == f.default:
            continue
        words.append(f"--{f.name.replace('_', '-')}")
        if value is False:
            words[-1] = f"--no-{f.name.replace('_', '-')}"
        elif value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join([*words, *([] if seed is None else ["--seed", str(seed)])])
