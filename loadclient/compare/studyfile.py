"""A study as somebody wrote it down in TOML. Pure: tables in, a design out.

    pairs = 12
    slice-seconds = 1.5
    netem = "delay=20ms,loss=1%"   # as --netem has it; needs root

    [[cell]]                       # ET against LT
    msg-bytes = 512
    drain = "short-read"
    conns = 200
    server = { sndbuf = 16384 }    # for both daemons

    [[cell]]                       # senders that differ: senders x messages/s x bytes
    conns = 50
    mix = "5x100x32,45x2x1024"

    [[cell]]                       # each side is four daemons on one port, and one chat
    instances = 4
    listener = "exclusive"

    [[cell]]                       # anything against anything
    name = "one write per message against one per tick"
    msg-bytes = 64
    a = { name = "message", mode = "lt", fan-out = "message" }
    b = { name = "batch", mode = "lt" }

Rule: a key that means nothing here is refused, because somebody meant something by it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from loadclient.compare.design import (
    ALL_TALK,
    DRAINS,
    LISTENERS,
    MODES,
    MOST_INSTANCES,
    compared,
    longest,
    with_control,
)
from loadclient.compare.study import Arm, Cell, Design, Shape
from loadclient.network.conditions import parse
from loadclient.options import UsageError
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Mapping

BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63),
    "pairs": (1, 1000),
    "slice_seconds": (0.5, 3600),
    "settle_seconds": (0, 600),
    "confidence": (0.8, 0.999),
    "margin": (0.001, 0.5),
    "msg_bytes": (32, 1 << 20),
    "conns": (2, 100_000),
    "rate": (0.001, 100_000),
    "senders": (1, 100_000),
    "slow_readers": (0, 100_000),
    "slow_reader_rate": (1, 1 << 40),
    "never_readers": (0, 100_000),
    "churn": (0, 10_000),
    "rcvbuf": (0, 1 << 30),
    "procs": (1, 256),
    "instances": (1, MOST_INSTANCES),
}
FRACTIONAL = {"slice_seconds", "settle_seconds", "confidence", "margin", "rate", "churn"}
STUDY_KEYS = {"seed", "pairs", "slice_seconds", "settle_seconds", "confidence", "margin"}
SHAPE_KEYS = {f.name for f in fields(Shape)} - {"name"}
MIX_SAYS = {"rate", "senders", "msg_bytes"}
PORT_KEYS = {"instances", "listener"}
CELL_KEYS = {"name", "msg_bytes", "drain", "shape", "server", "a", "b"} | SHAPE_KEYS | PORT_KEYS


def design_of(tables: Mapping[str, Any], name: str) -> Design:
    """Return the design that the *tables* of the study *name* describe, with its A/A arm.

    Raises UsageError.
    """
    keys = _keys(tables, STUDY_KEYS | {"cell", "netem"}, "the study")
    rows = keys.pop("cell", None)
    netem = _netem(keys.pop("netem", ""))
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError("the study: it needs at least one [[cell]].")
    numbers = {key: _number(key, value, "the study") for key, value in keys.items()}
    cells = tuple(_cell(row, f"cell {number}") for number, row in enumerate(rows, 1))
    return with_control(Design(preset=name, cells=cells, netem=netem, **numbers))


def _netem(value: object) -> str:
    """Return the conditions in their usual spelling."""
    if value == "":
        return ""
    text = _text("netem", value, "the study")
    try:
        return str(parse(text))
    except ValueError as error:
        raise UsageError(f"the study: netem = {error}.") from error


def _cell(row: Mapping[str, Any], where: str) -> Cell:
    keys = _keys(row, CELL_KEYS, where)
    shape = _shape(keys, where)
    size = longest(shape) if shape.mix else _number("msg_bytes", keys.get("msg_bytes", 64), where)
    both = _options(keys.get("server", {}), f"{where}, server")
    drain = keys.get("drain", "usual")
    if ("a" in keys) != ("b" in keys):
        raise UsageError(f"{where}: give both a and b, or neither.")
    if "a" in keys:
        for key in sorted({"drain", *PORT_KEYS} & keys.keys()):
            raise UsageError(f"{where}: with a and b, {key} is an option of theirs.")
        a, b = (_arm(keys[key], both, f"{where}, {key}") for key in "ab")
        if a.name == b.name:
            raise UsageError(f'{where}: a and b are both named "{a.name}".')
        name = f"{size} B, {shape.name}, {a.name} against {b.name}"
        cell = Cell(name=name, msg_bytes=size, drain="own", shape=shape, a=a, b=b)
    elif drain in DRAINS:
        instances, listener = _port(keys, where)
        cell = compared(size, drain, shape, both, instances=instances, listener=listener)
    else:
        raise UsageError(f'{where}: drain = "{drain}"; it must be one of {", ".join(DRAINS)}.')
    return _named(cell, keys.get("name"), where)


def _named(cell: Cell, name: object, where: str) -> Cell:
    return cell if name is None else replace(cell, name=_text("name", name, where))


def _shape(keys: Mapping[str, Any], where: str) -> Shape:
    given = {key: keys[key] for key in SHAPE_KEYS - {"burst", "mix"} if key in keys}
    burst = keys.get("burst", True)
    if not isinstance(burst, bool):
        raise UsageError(f"{where}: burst = {burst!r}; it must be true or false.")
    numbers = {key: _number(key, value, where) for key, value in sorted(given.items())}
    spelt = [f"{key.replace('_', '-')} {value}" for key, value in numbers.items()]
    spelt += [] if burst else ["staggered"]
    mix = _mix(keys, where)
    spelt += [mix] if mix else []
    name = _text("shape", keys.get("shape", ", ".join(spelt) or ALL_TALK.name), where)
    whole = {"conns": ALL_TALK.conns, "rate": ALL_TALK.rate} | numbers
    return Shape(name=name, burst=burst, mix=mix, **whole)


def _mix(keys: Mapping[str, Any], where: str) -> str:
    """Return the mix in its usual spelling, if there is one."""
    if "mix" not in keys:
        return ""
    for key in sorted(MIX_SAYS & keys.keys()):
        raise UsageError(f"{where}: {key.replace('_', '-')}: the mix says it; leave it out.")
    try:
        voices = Voices.parse(_text("mix", keys["mix"], where))
    except ValueError as error:
        raise UsageError(f"{where}: mix = {error}.") from error
    _number("msg_bytes", voices.sizes[0], where)
    return str(voices)


def _arm(table: object, both: dict[str, str], where: str) -> Arm:
    if not isinstance(table, dict):
        raise UsageError(f'{where}: it must be a table, such as {{ mode = "lt" }}.')
    options = dict(table)
    mode = options.pop("mode", None)
    if mode not in MODES:
        raise UsageError(f"{where}: mode must be one of {', '.join(MODES)}.")
    instances, _ = _port(both | options, where)
    spoken = {"name", "instances"}
    own = _options({key: value for key, value in options.items() if key not in spoken}, where)
    words = [mode, *own.values(), *([f"x {instances}"] if "instances" in options else [])]
    name = _text("name", options.get("name", " ".join(words)), where)
    return Arm(name=name, mode=mode, options=both | own, instances=instances)


def _port(keys: Mapping[str, Any], where: str) -> tuple[int, str]:
    """Return how many daemons share a port, and how; "" is a port of one's own."""
    instances = _number("instances", keys.get("instances", 1), where)
    listener = keys.get("listener", "")
    if (listener or instances > 1) and listener not in LISTENERS:
        raise UsageError(
            f'{where}: listener = "{listener}"; it must be one of {", ".join(LISTENERS)}.'
        )
    return instances, listener


def _options(table: object, where: str) -> dict[str, str]:
    """Return daemon options by their long names; the daemon itself says what it allows."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: it must be a table, such as {{ sndbuf = 16384 }}.")
    return {key.replace("_", "-"): str(value) for key, value in table.items()}


def _keys(table: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    keys = {key.replace("-", "_"): value for key, value in table.items()}
    for key in sorted(keys.keys() - known):
        raise UsageError(f'{where}: there is no key "{key}".')
    return keys


def _number(key: str, value: object, where: str) -> Any:
    least, most = BOUNDS[key]
    whole = key not in FRACTIONAL
    kinds = (int,) if whole else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
    if not good:
        what = "a whole number" if whole else "a number"
        raise UsageError(
            f"{where}: {key.replace('_', '-')} = {value!r}; it must be {what} "
            f"from {least:g} to {most:g}."
        )
    return value


def _text(key: str, value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key} = {value!r}; it must be a word or more in quotes.")
    return value
