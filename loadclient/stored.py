"""Records read back from JSON that anybody may have edited: every field of the type it says.

Pure: the text is somebody else's to read.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
# Not bool, which is an int to isinstance; and nobody counts further: 1e400 reads as infinity.
NUMBERS: dict[Any, set[type]] = {int: {int}, float: {int, float}}
MOST: dict[Any, float] = {int: 1 << 63, float: sys.float_info.max}


def record(kind: type[T], stored: Any, **nested: Any) -> T:
    """Build a *kind* from what was stored, with its records in records already built.

    Raises ValueError for what is no such record, and TypeError if something is missing.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"{_shortly(stored)} is no {kind.__name__}")  # noqa: TRY004 - bad data
    hints = _hints(kind)  # type: ignore[arg-type]  # a class can be hashed
    plain = {key: value for key, value in stored.items() if key in hints and key not in nested}
    for key, value in plain.items():
        if not _fits(value, hints[key]):
            raise ValueError(f"{kind.__name__}: {key} cannot be {_shortly(value)}")
    return kind(**plain | nested)


def no_constant(word: str) -> float:
    """Refuse NaN and the infinities, which are not JSON: for json.loads. Raises ValueError."""
    raise ValueError(f"{word} is no number")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of the type that *hint* says."""
    origin, within = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in within)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, within[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, within[1]) for one in value.values())
    if hint in MOST:
        return type(value) in NUMBERS[hint] and abs(value) <= MOST[hint]
    return type(value) is hint


def _shortly(value: Any) -> str:
    return f"{json.dumps(value):.40}"
