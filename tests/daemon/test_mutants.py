"""A mutant whose text is not there is never tried, and says nothing until somebody runs it."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, TRAPS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_every_mutant_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert (ROOT / mutant.tests.split("::")[0]).exists()


def test_every_trap_is_a_mutant() -> None:
    assert {mutant.name for mutant in MUTANTS} >= TRAPS
