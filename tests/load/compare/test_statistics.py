"""The exact interval against an oracle, and the promises that a verdict rests on."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, wilcoxon

from loadclient.compare.statistics import (
    LEAST_PAIRS,
    Estimate,
    _lowest_walsh,
    detectable,
    estimate,
    holm,
    least_pairs,
    log_ratios,
    pairs_needed,
    signed_rank_counts,
)

numbers = st.floats(-1, 1, allow_nan=False).filter(lambda x: abs(x) > 1e-6)
samples = st.lists(numbers, min_size=LEAST_PAIRS, max_size=14, unique_by=lambda x: round(abs(x), 6))


def oracle_p(differences: list[float]) -> float:
    return wilcoxon(differences, mode="exact").pvalue


@given(samples)
def test_p_is_that_of_the_exact_signed_rank_test(differences: list[float]) -> None:
    assert estimate(differences, 0.95).p == pytest.approx(oracle_p(differences))


@settings(max_examples=25)
@given(samples)
def test_the_interval_is_what_the_oracle_does_not_reject(differences: list[float]) -> None:
    """Just inside both ends a shift is accepted, just outside it is rejected."""
    found = estimate(differences, 0.95)
    hair = 1e-9

    def p_of(shift: float) -> float:
        return oracle_p([x - shift for x in differences])

    assert p_of(found.low - hair) <= 0.05
    assert p_of(found.high + hair) <= 0.05
    walsh = sorted({(x + y) / 2 for x in differences for y in differences})
    inside = [
        (x + y) / 2 for x, y in itertools.pairwise(walsh) if found.low <= x and y <= found.high
    ]
    assert all(p_of(shift) > 0.05 for shift in inside if min(abs(shift - w) for w in walsh) > 1e-7)


@given(samples)
def test_the_estimate_is_the_median_of_all_means_of_two(differences: list[float]) -> None:
    pairs = itertools.combinations_with_replacement(differences, 2)

    assert estimate(differences, 0.95).middle == median((x + y) / 2 for x, y in pairs)


@given(samples, st.floats(0.1, 10))
def test_turning_the_arms_round_turns_the_answer_round(
    differences: list[float], scale: float
) -> None:
    """Which arm is called a must not matter."""
    found = estimate([scale * x for x in differences], 0.95)
    turned = estimate([-scale * x for x in differences], 0.95)

    assert (turned.low, turned.high) == (-found.high, -found.low)
    assert turned.middle == pytest.approx(-found.middle, abs=1e-12)
    assert turned.p == found.p


@pytest.mark.parametrize("pairs", range(6))
def test_too_few_pairs_have_no_interval(pairs: int) -> None:
    assert estimate([0.1 * n for n in range(1, pairs + 1)], 0.95) is None


def test_six_pairs_have_one() -> None:
    """The hard floor of the design."""
    found = estimate([1, 2, 3, 4, 5, 6], 0.95)

    assert (found.low, found.high, found.p) == (1, 6, 2 / 64)


def test_pairs_without_any_difference_show_none() -> None:
    assert estimate([0.0] * 10, 0.95) == Estimate(0, 0, 0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_every_choice_of_signs_is_counted_once(n: int) -> None:
    counts = signed_rank_counts(n)

    assert sum(counts) == 2**n
    assert counts == counts[::-1]
    assert len(counts) == n * (n + 1) // 2 + 1


def test_a_ratio_with_nought_has_no_logarithm() -> None:
    assert log_ratios([(1.0, 2.0), (0.0, 2.0)]) is None
    assert log_ratios([(1.0, 0.0)]) is None
    assert log_ratios([(2.0, 1.0)]) == [math.log(2)]


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_definition_rejects(ps: dict[str, float]) -> None:
    """Step down: the smallest p against alpha/k, the next against alpha/(k-1), until one fails."""
    adjusted = holm(ps)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for left, (name, p) in zip(
            range(len(ps), 0, -1), sorted(ps.items(), key=lambda item: item[1]), strict=True
        ):
            if p * left > alpha:
                break
            rejected.add(name)
        assert {name for name, p in adjusted.items() if p <= alpha} == rejected


def test_holm_of_one_changes_nothing() -> None:
    assert holm({"only": 0.03}) == {"only": 0.03}


@pytest.mark.parametrize("comparisons", [1, 2, 4, 19, 100])
def test_the_least_pairs_are_the_fewest_that_could_show_anything(comparisons: int) -> None:
    least = least_pairs(comparisons, 0.95)
    most_extreme = estimate(list(range(1, least + 1)), 0.95).p

    assert comparisons * most_extreme <= 0.05
    assert least == LEAST_PAIRS or 2 * most_extreme * comparisons > 0.05


def drawn(lot: random.Random, pairs: int, *, spiky: bool, shift: float = 0.0) -> list[float]:
    """Return the differences of one study of noise, moved by *shift*."""
    return [
        shift
        + lot.gauss(0, 0.1)
        + (lot.choice((-1, 1)) * 0.8 if spiky and lot.random() < 0.1 else 0)
        for _ in range(pairs)
    ]


def test_more_pairs_or_fewer_cells_see_smaller_effects() -> None:
    few = [0.01 * (-1) ** n * n for n in range(1, 11)]
    found = estimate(few, 0.95)

    assert detectable(few * 2, 1, 0.95) < detectable(few, 1, 0.95) < detectable(few, 10, 0.95)
    assert pairs_needed(found, 10, 0.02, 1, 0.95) < pairs_needed(found, 10, 0.01, 1, 0.95)
    assert pairs_needed(Estimate(0, 0, 0, 1), 10, 0.02, 1, 0.95) == LEAST_PAIRS


def test_pairs_too_few_for_the_correction_could_have_seen_nothing() -> None:
    """Eight of eight on one side are p = 0.008: of twenty questions none is answered by that."""
    assert detectable([0.1 * n for n in range(1, 9)], 20, 0.95) is None
    assert detectable([0.1 * n for n in range(1, 9)], 1, 0.95) is not None


def test_without_any_scatter_every_difference_could_have_been_seen() -> None:
    assert detectable([0.3] * 10, 4, 0.95) == 0


@settings(max_examples=30)
@given(samples, st.integers(1, 8))
def test_only_places_that_can_be_lowest_are_looked_at(differences: list[float], cut: int) -> None:
    ordered = sorted(differences)
    every = sorted(x + y for x, y in itertools.combinations_with_replacement(ordered, 2))
    some = sorted(ordered[i] + ordered[j] for i, j in _lowest_walsh(len(ordered), cut))

    assert some[cut - 1] == every[cut - 1]


@pytest.mark.parametrize(("pairs", "cells"), [(6, 1), (10, 4), (10, 20), (20, 20)])
@pytest.mark.parametrize("spiky", [False, True])
def test_what_could_have_been_seen_is_seen_as_often_as_promised(
    pairs: int,
    cells: int,
    spiky: bool,  # noqa: FBT001
) -> None:
    """Four times out of five, over many simulated studies, with few pairs and many cells, too.

    A normal approximation promised so, and kept it 44 times in 100 at 10 pairs and 20 cells.
    """
    lot = random.Random(5)  # noqa: S311
    confidence = 1 - 0.05 / cells
    ends = sorted(
        -estimate(drawn(lot, pairs, spiky=spiky), confidence).low for _ in range(2000)
    )  # what each study would have to be moved by to be found
    kept = []
    for _ in range(120):
        promised = math.log1p(detectable(drawn(lot, pairs, spiky=spiky), cells, 0.95))
        kept.append(bisect.bisect_right(ends, promised) / len(ends))

    assert 0.68 < mean(kept) < 0.9


@pytest.mark.parametrize("n", [6, 10])
@pytest.mark.parametrize("spiky", [False, True])
def test_the_interval_holds_its_level(n: int, spiky: bool) -> None:  # noqa: FBT001
    """Out of many studies at most one in twenty may miss the truth, spikes or not."""
    lot = random.Random(11)  # noqa: S311
    studies = 2000
    missed = 0
    for _ in range(studies):
        differences = [
            lot.gauss(0, 0.05)
            + (lot.choice((-1, 1)) * 0.6 if spiky and lot.random() < 0.1 else 0.0)
            for _ in range(n)
        ]
        found = estimate(differences, 0.95)
        missed += not found.low <= 0 <= found.high

    assert binomtest(missed, studies, 0.05, alternative="greater").pvalue > 0.001
