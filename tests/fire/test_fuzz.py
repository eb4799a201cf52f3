"""The fuzzer's corpus, replayed without the fuzzer; and a few inputs of Hypothesis's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fire.targets import TARGETS
from tests.untraced import untraced

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
@untraced()
def test_nothing_in_the_corpus_breaks_it(target: str) -> None:
    """Each file once reached code that no other did, or was a finding."""
    stored = sorted((CORPUS / target).iterdir())
    assert stored, "no corpus"
    for path in stored:
        try:
            TARGETS[target](path.read_bytes())
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_hypothesis_thinks_of_breaks_it(target: str) -> None:
    @given(st.binary(max_size=200))
    @example(bytes(range(256)))
    @settings(max_examples=100)
    def play(data: bytes) -> None:
        TARGETS[target](data)

    play()
