"""The raw slices on disk: JSON lines, one appended and synced after every slice.

Rule: the file alone is enough to go on after an interruption, and to judge again. Its first line is
the design; a last line that was cut off is passed over. Of two slices with one index the later is
the pair's, and the earlier stays as evidence: an interruption excuses no fault that was seen.
"""

from __future__ import annotations

import json
import lzma
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import TYPE_CHECKING, Any

from loadclient.compare.study import (
    Design,
    Link,
    Slice,
    design_from,
    link_from,
)
from loadclient.options import UsageError
from loadclient.stored import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = "etlt.slices/1"
XZ = b"\xfd7zXZ"
BAD_DATA = (
    *(ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError),
    lzma.LZMAError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line: what the slices are slices of."""

    schema: str = SCHEMA
    study_id: str
    started: float  # unix time
    command: str
    design: Design
    link: Link | None = None
    probe: bool = False  # whether the kernel is asked too, in slices of its own
    addresses: list[list[str]] = field(default_factory=list)  # given daemons: chat, metrics


@dataclass(frozen=True, slots=True)
class Raw:
    """What a file holds."""

    header: Header
    slices: dict[int, Slice]  # by index
    superseded: tuple[Slice, ...] = ()  # measured again, because their pair was broken off


def begin(path: Path, header: Header) -> None:
    """Write a new file with its first line.

    Raises UsageError if there is one already: nobody's slices are overwritten.
    """
    try:
        with path.open("x") as file:
            _write(file, asdict(header))
    except FileExistsError:
        raise UsageError(
            f'--raw "{path}": the file exists; go on with it by --resume, or name another.'
        ) from None


def append(path: Path, one: Slice) -> None:
    """Add a slice; after this returns, a crash does not lose it."""
    with path.open("a") as file:
        _write(file, asdict(one))


def mend(path: Path) -> None:
    """Cut off a last line that was not finished, so that the next one begins on its own."""
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)


def read(path: Path) -> Raw:
    """Read a file of slices.

    Raises UsageError if it is not one.
    """
    try:
        first, *rest = path.read_text().split("\n")
        stored = json.loads(first)
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            raise ValueError(f'its first line is not of "schema": "{SCHEMA}"')
        header = record(
            Header,
            stored,
            design=design_from(stored["design"]),
            link=link_from(stored.get("link")),
        )
        _check_header(header)
        slices = [record(Slice, json.loads(line)) for line in rest[:-1]]
    except (OSError, *BAD_DATA) as error:
        hint = "; slices are in the .jsonl that --raw named" if path.suffix == ".json" else ""
        raise UsageError(f'"{path}" is not a file of slices: {why(error)}{hint}.') from error
    last = {one.index: one for one in slices}
    return Raw(header, last, tuple(one for one in slices if last[one.index] is not one))


def _check_header(header: Header) -> None:
    """Refuse what could not be gone on with. Raises ValueError."""
    if not header.design.cells:
        raise ValueError("it has no cells")
    if header.addresses and [len(one) for one in header.addresses] != [2, 2]:
        raise ValueError("its addresses are not those of two daemons and their metrics")


def plain(path: Path) -> str:
    """Return the text of a file that may be compressed by xz. Raises OSError and BAD_DATA."""
    stored = path.read_bytes()
    return (lzma.decompress(stored) if stored.startswith(XZ) else stored).decode()


def why(error: Exception) -> str:
    """Say in words why data are bad."""
    if isinstance(error, RecursionError):
        return "it is nested without end"
    if isinstance(error, (KeyError, TypeError, AttributeError)):
        return f"a part of it is missing or of another kind ({error})"
    return str(getattr(error, "strerror", None) or error)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep others from going on with the same file meanwhile.

    Raises UsageError if somebody else is at it.
    """
    with path.open("a") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f'"{path}": another comparison is writing to it; wait for it, or end it.'
            ) from None
        yield


def _write(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()
    os.fsync(file.fileno())
