"""Every field of a stored record is of the type that it says, or the record is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.result import RunResult
from loadclient.stored import no_constant, record


@dataclass(frozen=True)
class Sample:
    """A record with a field of each kind."""

    name: str
    count: int = 0
    seconds: float | None = None
    words: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    right: bool = False
    anything: Any = None


@pytest.mark.parametrize(
    "stored",
    [
        {"name": "x"},
        {"name": "x", "count": 3, "seconds": 2, "words": ["a"], "rates": {"a": 1, "b": 0.5}},
        {"name": "x", "seconds": None, "right": True, "anything": {"of": ["any", 1]}},
        {"name": "x", "later": "a field that a later version added"},
    ],
)
def test_what_fits_is_taken_and_what_is_not_known_is_passed_over(stored: dict[str, Any]) -> None:
    built = record(Sample, stored)

    assert all(getattr(built, key) == value for key, value in stored.items() if key != "later")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5), ("count", 1.5), ("count", True), ("count", "3"), ("count", 10**400),
        ("seconds", "1"), ("seconds", True), ("seconds", float("inf")), ("seconds", 10**400),
        ("words", "ab"), ("words", [1]), ("rates", [1]), ("rates", {"a": None}), ("right", 1),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Sample: {key} cannot be "):
        record(Sample, {"name": "x", key: value})


@pytest.mark.parametrize("stored", [None, 5, "x", [{}]])
def test_what_is_no_record_is_shown(stored: object) -> None:
    with pytest.raises(ValueError, match=" is no Sample"):
        record(Sample, stored)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_in_json_is_none_here(word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} is no number"):
        json.loads(word, parse_constant=no_constant)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(RunResult.__dataclass_fields__)), JSON)
def test_a_run_with_any_value_anywhere_is_read_or_refused(name: str, value: object) -> None:
    stored = {"schema": "etlt.run/1", "run_id": "a", name: value}
    with suppress(TypeError, ValueError):
        read = RunResult.from_json(json.dumps(stored))
        assert RunResult.from_json(read.to_json()) == read
