"""Simulated studies with a known truth: what is called better, and what must not be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from loadclient.compare.analysis import analyse, paired
from loadclient.compare.design import compared, full, quick, with_control
from loadclient.compare.fingerprint import checks, difference
from loadclient.compare.report import text
from loadclient.compare.simulation import World, simulated_slices, simulated_study
from loadclient.compare.study import (
    CONFIRMATORY,
    OUTCOMES,
    PRIMARY,
    Arm,
    CellReport,
    Design,
    Kind,
    Slice,
    Study,
)
from loadclient.compare.verdict import Court, fitness, interval, measured, percent
from tests.untraced import untraced

FIRST = quick().cells[0].name
BETTER = {Kind.A_BETTER, Kind.B_BETTER}
CONFIRMED = [outcome.name for outcome in CONFIRMATORY]
JUDGED = [outcome.name for outcome in OUTCOMES if outcome.lower_is_better is not None]
CALM = World(noise=0.003, drift=0.3, process=0.0)


def report(study: Study, cell: str) -> CellReport:
    return next(report for report in study.cells if report.cell == cell)


def primary(cell: CellReport) -> object:
    return next(effect for effect in cell.effects if effect.outcome == PRIMARY.name)


STUDIES = 100


def test_equal_daemons_are_called_different_no_more_often_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tool that always finds a winner is a random number generator with axes.

    A whole design, with processes that differ as long as they live, batches that hang on chance,
    pairs that were discarded and others that stand in for them. The A/A arm may be unfit, but not
    better. Studies with a winner are too few to tell one level from twice as much, so the single
    intervals are counted, too.
    """
    monkeypatch.setattr(
        "loadclient.compare.verdict.detectable", lambda *_: None
    )  # slow, and unused
    world = World(process=0.05, batching=0.25, batch_slope=-0.55, invalid=0.05, replaced=True,
                  histograms=False, latencies=5)  # fmt: skip
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    studies = [analyse(full(), simulated_slices(full(), world, 0))]
    with untraced():
        studies += [
            analyse(full(), simulated_slices(full(), world, seed)) for seed in range(1, STUDIES)
        ]
    for _, cells in studies:
        effects = [e for cell in cells for e in cell.effects if e.outcome in JUDGED and e.low]
        found = [effect for effect in effects if effect.verdict in BETTER]
        wrong.update({effect.outcome for effect in found})
        asked_of = [e for cell in cells[:-1] for e in cell.effects if e.outcome in CONFIRMED]
        wrong["either"] += any(e.p_holm is not None and e.p_holm <= 0.05 for e in asked_of)
        asked.update(effect.outcome for effect in effects)
        missed.update(e.outcome for e in effects if not e.low <= 1 <= e.high)
        assert not BETTER & {effect.verdict for effect in cells[-1].effects}
        assert all(effect.exploratory == (effect.outcome not in CONFIRMED) for effect in found)

    assert wrong["either"] <= 0.05 * STUDIES
    assert all(binomtest(n, STUDIES, 0.05, alternative="greater").pvalue > 0.01
               for n in wrong.values())  # fmt: skip
    for name in CONFIRMED:
        assert binomtest(missed[name], asked[name], 0.05, alternative="greater").pvalue > 0.01
        assert binomtest(2 * missed[name], asked[name], 0.05, alternative="greater").pvalue < 0.001


def test_two_equal_daemons_that_differ_are_called_different() -> None:
    """One in 25 was called better; and one that could not come out so would show nothing."""
    control = quick().cells[-1]
    study = simulated_study(world=replace(CALM, a_over_b={control.name: 0.5}, spikes=0.0))
    found = primary(study.cells[-1])

    assert (found.verdict, found.sentence) == (
        Kind.UNFIT,
        "unfit (two equal daemons came out different)",
    )
    assert {e.verdict for e in study.cells[0].effects} == {Kind.NOT_COMPARABLE, None}
    assert found.p_holm is None  # nothing is corrected of what must not differ at all


@untraced()
def test_pairs_that_share_two_processes_are_no_witnesses() -> None:
    """Ten pairs of two processes say of those ten times what they say of the modes once."""
    design = replace(quick(), pairs_per_daemon=5)
    world = World(process=0.05, histograms=False)
    outside = 0
    for seed in range(60):
        _, cells = analyse(design, simulated_slices(design, world, seed))
        control = primary(cells[-1])
        outside += not control.low <= 1 <= control.high
        assert {cell.verdict for cell in cells} == {Kind.NOT_COMPARABLE}

    assert "5 pairs share two processes" in cells[0].sentence
    assert binomtest(outside, 60, 0.05, alternative="greater").pvalue < 0.001


@pytest.mark.parametrize(("truth", "kind"), [(0.8, Kind.A_BETTER), (1.25, Kind.B_BETTER)])
@untraced()
def test_a_real_difference_is_found_with_its_sign_and_size(truth: float, kind: Kind) -> None:
    found = Counter()
    ratios = []
    world = World(a_over_b={FIRST: truth}, noise=0.03, histograms=False)
    for seed in range(20):
        study = simulated_study(world=world, seed=seed)
        effect = primary(report(study, FIRST))
        found[report(study, FIRST).verdict] += 1
        ratios.append(effect.ratio)

    assert set(found) <= {kind, Kind.INCONCLUSIVE, Kind.NOT_COMPARABLE}
    assert found[kind] >= 10
    assert sum(abs(ratio / truth - 1) < 0.15 for ratio in ratios) >= 18


@untraced()
def test_a_calm_machine_can_show_that_there_is_no_difference() -> None:
    design = replace(quick(), pairs=20)
    world = replace(CALM, noise=0.002, spikes=0.0)
    verdicts = Counter(simulated_study(design, world, seed).cells[0].verdict for seed in range(10))

    assert verdicts[Kind.EQUIVALENT] >= 8
    assert "equivalent within ±2 % (by itself, not corrected)" in {
        cell.sentence for cell in simulated_study(design, world).cells
    }


def test_a_noisy_machine_says_what_it_would_take() -> None:
    study = simulated_study(world=World(noise=0.3), seed=3)
    sentence = report(study, FIRST).sentence

    assert report(study, FIRST).verdict is Kind.INCONCLUSIVE
    assert "pairs to see 2 %" in sentence
    assert "could have seen" in sentence


def test_a_mode_that_was_not_in_force_is_not_compared() -> None:
    """Started as ET, but its counters are LT's."""
    study = simulated_study(world=World(a_over_b={FIRST: 0.5}, wrong_mode=FIRST))
    cell = report(study, FIRST)

    assert cell.verdict is Kind.NOT_COMPARABLE
    assert "was to show its metrics say mode et, but shows lt" in cell.sentence
    assert {effect.verdict for effect in cell.effects} == {Kind.NOT_COMPARABLE, None}
    assert not all(check.holds for check in cell.fingerprint)
    assert all(effect.p_holm is None for effect in cell.effects)


def changed(slices: tuple[Slice, ...], cell: str, arm: str, **changes: object) -> list[Slice]:
    return [
        replace(one, **changes) if (one.cell, one.arm) == (cell, arm) else one for one in slices
    ]


@pytest.mark.parametrize(
    ("arm", "changes", "words"),
    [
        ("a", {"epoll_ctl": {"mod": 3}}, "no epoll_ctl MOD, but shows 30 MODs"),
        ("a", {"eagain": {"recvfrom": 0}}, "about one read that finds nothing"),
        ("b", {"eagain": {"recvfrom": 5}}, "no read that finds nothing, but shows 50"),
        ("b", {"build": {"version": "other"}}, "differ in more than was asked: build version"),
        ("a", {"registered": {"lt": 101}}, "edge-triggered, but shows 0 edge-triggered, 101 level"),
        ("a", {"registered": {"et": 99, "lt": 2}}, "at least 100 connections registered, edge-"),
        ("b", {"registered": {"et": 100, "lt": 1}}, "level-triggered, but shows 100 edge"),
        ("b", {"registered": {"et": 1, "lt": 100}}, "level-triggered, but shows 1 edge"),
        ("a", {"epoll_events": {}}, "but shows not exported"),
        ("b", {"config": {}}, "no read that finds nothing, but shows not exported"),
        ("b", {"batch_messages": {}}, "every message in one, but shows 0 batches of none"),
        ("b", {"batch_messages": {"1": 9999}}, "every message in one, but shows 99990 batches"),
        ("b", {"sent": 10_200}, "every message in one"),
    ],
)
def test_counters_that_contradict_the_mode_end_the_comparison(
    arm: str, changes: dict[str, object], words: str
) -> None:
    design = quick()
    slices = changed(simulated_slices(design, World()), FIRST, arm, **changes)
    _, cells = analyse(design, slices)

    assert cells[0].verdict is Kind.NOT_COMPARABLE
    assert words in cells[0].sentence


def test_what_nobody_could_look_at_is_said_to_be_so() -> None:
    """A daemon that is not ours has no list of registrations for us: that is no failure."""
    options = {"sndbuf": "16384"}
    design = with_control(Design(cells=(compared(64, options=options),)))
    slices = [
        replace(one, registered={}, config={"reads_per_event": one.config["reads_per_event"]})
        for one in simulated_slices(design, World())
    ]
    study = simulated_study(design)
    _, cells = analyse(design, slices)
    unseen = [check for check in cells[0].fingerprint if check.holds is None]

    assert cells[0].not_comparable is None
    assert [check.measured for check in unseen] == [
        "not seen: the kernel could not be asked", "not exported",
    ] * 2  # fmt: skip
    assert "8 could not be looked at" in text(replace(study, cells=cells))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build": {"version": "next"}}, "the daemon's version is next and simulated"),
        ({"client": {"commit": "b"}}, "the load client's commit is a and b"),
    ],
)
def test_slices_of_different_builds_are_not_one_study(
    changes: dict[str, object], words: str
) -> None:
    """Gone on with after a change, both arms show the same mixture: nothing else would tell."""
    design = quick()
    slices = [replace(one, client={"commit": "a"}) for one in simulated_slices(design, World())]
    half = {one.index for one in slices if one.cell == FIRST and one.pair >= design.pairs // 2}
    _, cells = analyse(
        design, [replace(one, **changes) if one.index in half else one for one in slices]
    )

    assert cells[0].verdict is Kind.NOT_COMPARABLE
    assert f"slices come from different builds: {words}" in cells[0].sentence
    assert cells[1].not_comparable is None


@pytest.mark.parametrize(("empty", "holds"), [(0, True), (500, True), (9000, False)])
def test_a_short_read_hardly_ever_leads_to_an_empty_one(empty: int, holds: bool) -> None:  # noqa: FBT001
    design = with_control(Design(cells=(compared(64, "short-read"),)))
    slices = simulated_slices(design, World())
    slices = changed(slices, design.cells[0].name, "a", eagain={"recvfrom": empty})
    _, cells = analyse(design, slices)

    assert (cells[0].not_comparable is None) == holds


def test_an_option_that_the_daemon_does_not_confirm_is_not_in_force() -> None:
    cell = replace(compared(64), a=Arm(name="x", mode="et", options={"fan-out": "message"}))
    design = Design(cells=(cell,))
    slices = simulated_slices(design, World())
    _, cells = analyse(design, changed(slices, cell.name, "a", config={"fan_out": "batch"}))

    assert "fan-out message, but shows batch" in cells[0].sentence


def test_a_side_with_fewer_daemons_than_were_asked_for_is_not_compared() -> None:
    cell = compared(64, instances=2, listener="shared")
    design = with_control(Design(cells=(cell,)))
    slices = simulated_slices(design, World())
    both = changed(slices, cell.name, "a", config={**slices[0].config, "instances": "2"})
    both = changed(both, cell.name, "b", config={**slices[0].config, "instances": "2"})

    assert "2 instances were counted, but shows 1" in analyse(design, slices)[1][0].sentence
    assert "instances were counted" not in analyse(design, both)[1][0].sentence


def test_what_the_bus_brings_is_an_event_without_a_read() -> None:
    """Under ET the eventfd's events would else look like turns that did not drain."""
    two = Arm(name="et", mode="et", options={"listener": "shared"}, instances=2)
    events, heard = 1000.0, 400.0
    one = Slice(
        index=0, cell="c", pair=0, arm="a", started=0.0, mode="et", seconds=1.0,
        config={"instances": "2", "reads_per_event": "16", "drain": "eagain"},
        epoll_events={"in": events}, eagain={"recvfrom": events - heard},
        syscalls={"recvfrom": 2 * (events - heard)},
    )  # fmt: skip

    def drained(slices: Slice) -> list[bool | None]:
        return [check.holds for check in checks(two, [slices], 1) if "finds nothing" in check.claim]

    assert drained(one) == [False]
    assert drained(replace(one, heard_by_bus=heard)) == [True]


def test_arms_may_differ_in_the_number_of_their_daemons() -> None:
    one, two = (compared(64, instances=n, listener="shared").a for n in (1, 2))
    cell = replace(compared(64), a=two, b=one)
    alone = Slice(index=0, cell="c", pair=0, arm="b", started=0.0, config={"drain": "eagain"})
    both = replace(alone, arm="a", config={"drain": "eagain", "instances": "2"})

    assert difference(cell, [both], [alone]) is None
    assert "instances" in str(difference(compared(64), [both], [alone]))


@pytest.mark.parametrize(
    ("reads", "empty", "revisits", "holds"),
    [
        (16, 0, 0, False),  # the budget ended every turn, so none drained
        (17, 1, 1, True),  # and gave each of them another, in which there was nothing
        (15, 1, 0, True),
        (17, 0, 1, False),  # half of the turns were not ended by the budget, nor by an empty read
        (2, 0.5, 0, False),
        (2, 1.3, 0, False),  # there is no second empty read in a turn
    ],
)
def test_a_turn_that_its_budget_ended_owes_no_empty_read(
    reads: int,
    empty: float,
    revisits: int,
    holds: bool,  # noqa: FBT001
) -> None:
    design = with_control(Design(cells=(compared(64, "eagain"),)))
    slices = simulated_slices(design, World(batching=0))
    events = slices[0].epoll_events["in"]
    slices = changed(
        slices,
        design.cells[0].name,
        "b",
        syscalls={**slices[0].syscalls, "recvfrom": reads * events},
        eagain={"recvfrom": empty * events},
        revisits=revisits * events,
    )
    _, cells = analyse(design, slices)

    assert (cells[0].not_comparable is None) == holds


def test_an_unfit_machine_is_named_before_any_winner() -> None:
    """If two equal daemons differ, so may any two."""
    design = quick()
    control = design.cells[-1].name
    study = simulated_study(design, World(a_over_b={FIRST: 0.5, control: 0.7}, noise=0.02))

    assert study.fitness.fit is False
    assert PRIMARY.name in study.fitness.unfit_outcomes
    assert study.fitness.sentence.startswith("Unfit")
    assert not any(
        effect.verdict in BETTER
        for cell in study.cells[:-1]
        for effect in cell.effects
        if effect.outcome in study.fitness.unfit_outcomes
    )
    assert "the A/A arm does not bear this machine out" in report(study, FIRST).sentence


def test_without_enough_of_a_control_nothing_is_said_of_the_machine() -> None:
    design = quick()
    slices = [one for one in simulated_slices(design, World()) if not one.cell.startswith("A/A")]

    assert analyse(design, slices)[0].fit is None
    assert "shows nothing (only 0 valid pairs" in analyse(design, slices)[0].sentence
    assert fitness(None, 0.95).fit is None


def test_without_enough_of_a_control_nobody_is_called_better() -> None:
    world = World(a_over_b={FIRST: 0.5}, noise=0.01, spikes=0.0)
    everything = simulated_slices(quick(), world)
    some = [one for one in everything if not one.cell.startswith("A/A") or one.pair < 5]

    assert analyse(quick(), everything)[1][0].verdict is Kind.A_BETTER
    assert analyse(quick(), some)[1][0].sentence == (
        "not comparable (the A/A arm does not bear this machine out)"
    )


def test_a_design_without_a_control_may_still_be_judged() -> None:
    """But the report says that nothing is known of the machine."""
    design = replace(quick(), cells=quick().cells[:1])
    world = World(a_over_b={FIRST: 0.5}, noise=0.01, spikes=0.0)
    study = simulated_study(design, world)

    assert study.cells[0].verdict is Kind.A_BETTER
    assert study.fitness.sentence.startswith("There was no A/A arm")


def test_invalid_slices_are_discarded_as_pairs_and_counted() -> None:
    study = simulated_study(world=World(invalid=0.1), seed=2)
    cells = study.cells

    assert sum(cell.discarded for cell in cells) > 0
    for cell in cells:
        assert cell.pairs + cell.discarded == 10
        assert cell.a.slices == cell.b.slices == cell.pairs
        assert sum(cell.discarded_because.values()) >= bool(cell.discarded)
    assert {r for cell in cells for r in cell.discarded_because} == {
        "the hypervisor took N% (simulated)"
    }


@pytest.mark.parametrize(
    ("reason", "is_compared"),
    [("5,000 copies are missing", False), ("the hypervisor took 9% of the processors' time", True)],
)
def test_a_daemon_that_loses_is_not_compared_by_what_it_kept(
    reason: str,
    is_compared: bool,  # noqa: FBT001
) -> None:
    """It lost messages in one slice, and came out better of the others."""
    design = with_control(Design(pairs=10, cells=(compared(64),)))
    name = design.cells[0].name
    first, *others = sorted(simulated_slices(design, CALM), key=lambda one: one.cell != name)
    losing = replace(first, valid=False, reasons=[reason], lost={"unaccounted": 5000})
    _, (cell, *_) = analyse(design, [losing, *others])

    assert (cell.not_comparable is None) == is_compared
    if not is_compared:
        assert "lost 5,000 messages in a slice: 5,000 copies are missing" in cell.not_comparable


def spoilt(
    reasons: dict[str, tuple[int, str]], cell: str, slices: tuple[Slice, ...]
) -> list[Slice]:
    """Discard the first slices of a cell's arms: so many of each, and why."""
    seen: Counter[str] = Counter()
    found = []
    for one in slices:
        number, why = reasons.get(one.arm, (0, "")) if one.cell == cell else (0, "")
        seen[one.arm] += one.cell == cell
        bad = number >= seen[one.arm]
        found.append(replace(one, valid=False, reasons=why.split("; ")) if bad else one)
    return found


LOOKED = "7 of the messages looked at were"
LATE = "the client itself was the bottleneck: 1 % of its sends were late"
SATURATED = "saturated: 3 of 4 messages/s offered were sent in time"
STOLEN = "the hypervisor took 9% of the processors' time"


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ({"a": (1, f"{LOOKED} duplicated")}, f"et misbehaved in a slice: {LOOKED} duplicated"),
        ({"a": (1, f"{LOOKED} reordered")}, f"et misbehaved in a slice: {LOOKED} reordered"),
        ({"a": (1, f"{LOOKED} damaged")}, f"et misbehaved in a slice: {LOOKED} damaged"),
        ({"b": (1, f"{STOLEN}; 7 of the messages looked at were damaged")}, "lt misbehaved"),
        ({"a": (1, SATURATED)}, "et could not keep up in 1 discarded slices, lt in 0"),
        ({"b": (3, "not stationary: latency grew")}, "lt could not keep up in 3 discarded slices"),
        ({"a": (7, SATURATED), "b": (2, SATURATED)}, "et could not keep up in 7 discarded slices"),
        ({"a": (1, SATURATED), "b": (5, SATURATED)}, "lt could not keep up in 5 discarded slices"),
        ({"a": (4, SATURATED), "b": (4, "not stationary: latency grew")}, ""),
        ({"a": (1, f"{SATURATED}; {STOLEN}")}, ""),
        ({"a": (1, f"{SATURATED}; {LATE}")}, ""),
        ({"a": (8, LATE)}, "et made the client late in 8 discarded slices"),
        ({"a": (5, LATE)}, ""),
        ({"a": (5, f"{LATE}; {STOLEN}")}, ""),
        ({"a": (8, f"{LATE}; {STOLEN}")}, "et was held up by the machine in 8 discarded slices"),
        ({"b": (8, STOLEN), "a": (1, STOLEN)}, "lt was held up by the machine in 8 discarded"),
        ({"b": (8, STOLEN), "a": (7, STOLEN)}, ""),
    ],
)  # fmt: skip
def test_bad_slices_are_not_left_out_in_the_culprits_favour(
    reasons: dict[str, tuple[int, str]], words: str
) -> None:
    """39 of 40 studies called a daemon better that had sent messages twice in three slices."""
    design = with_control(Design(pairs=20, cells=(compared(64),)))
    name = design.cells[0].name
    slices = simulated_slices(design, CALM)
    _, cells = analyse(design, spoilt(reasons, name, slices))

    assert (cells[0].not_comparable or "")[: len(words)] == words
    assert bool(cells[0].not_comparable) == bool(words)


def test_equal_daemons_have_no_favourite_among_their_slices() -> None:
    """One strained slice of the A/A arm would leave the whole study without a verdict."""
    design = with_control(Design(pairs=10, cells=(compared(64),)))
    slices = simulated_slices(design, CALM)
    strained = analyse(design, spoilt({"a": (1, SATURATED)}, design.cells[1].name, slices))[1][1]
    wrong = analyse(design, spoilt({"a": (1, "it lost one")}, design.cells[1].name, slices))[1][1]

    assert strained.not_comparable is None
    assert wrong.not_comparable == "lt again misbehaved in a slice: it lost one"


def test_too_few_valid_pairs_are_not_compared() -> None:
    study = simulated_study(world=World(invalid=0.6))

    assert report(study, FIRST).verdict is Kind.NOT_COMPARABLE
    assert "valid pairs" in report(study, FIRST).sentence


def test_nothing_measured_is_no_answer() -> None:
    fit, cells = analyse(quick(), [])

    assert fit.fit is None
    assert {cell.verdict for cell in cells} == {Kind.NOT_COMPARABLE}
    assert cells[0].a.outcomes == {}
    assert cells[0].a.latency_curve == []


def test_an_outcome_that_was_not_measured_is_not_compared_and_the_others_are() -> None:
    """Messages too short to carry their due time have no latency, but they have a cost."""
    slices = [
        replace(one, outcomes={**one.outcomes, "latency_p99_seconds": None})
        for one in simulated_slices(quick(), World())
    ]
    cell = analyse(quick(), slices)[1][0]
    verdicts = {effect.outcome: effect for effect in cell.effects}

    assert verdicts["latency_p99_seconds"].verdict is Kind.NOT_COMPARABLE
    assert verdicts["latency_p99_seconds"].sentence == (
        "not comparable (too few pairs for a ratio with an interval)"
    )
    assert cell.not_comparable is None


def test_half_a_pair_is_no_pair() -> None:
    slices = simulated_slices(quick(), World())
    mine = [one for one in slices if one.cell == FIRST]
    pairs, because, discarded = paired(mine[:-1])

    assert (len(pairs), because, discarded) == (9, {}, 0)


@untraced()
def test_significance_does_not_survive_many_cells() -> None:
    """One cell in twenty looks different by chance; Holm knows how many were looked at."""
    lonely = with_control(Design(pairs=10, cells=(compared(64),)))
    crowd = with_control(
        Design(pairs=10, cells=tuple(compared(size) for size in range(64, 64 + 19)))
    )
    world = World(a_over_b={compared(64).name: 0.93}, noise=0.04, histograms=False)
    seeds = range(15)
    alone = sum(simulated_study(lonely, world, s).cells[0].verdict in BETTER for s in seeds)
    among = [simulated_study(crowd, world, seed).cells[0] for seed in seeds]

    assert sum(cell.verdict in BETTER for cell in among) < alone
    assert any("correction for the number of verdicts" in cell.sentence for cell in among)


def test_where_too_many_pairs_were_discarded_nothing_is_said_to_have_been_visible() -> None:
    """The plan had enough for the correction; what is left of it has not."""
    cells = tuple(compared(size) for size in range(64, 64 + 19))
    study = simulated_study(Design(pairs=8, cells=cells), World(noise=0.04, histograms=False))

    assert study.cells[0].verdict is Kind.INCONCLUSIVE
    assert "with so few nothing could have been seen" in study.cells[0].sentence


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([(0.0, 0.0)] * 8, "none in either"),
        ([(0.0, 1.0)] * 8, "none in one of the two: a ratio says nothing"),
        ([(0.0, 1.0), (1.0, 1.0)] * 4, "not in every pair: a ratio says nothing"),
        ([(1.0, 1.0)] * 3, "too few pairs for a ratio with an interval"),
        ([], "too few pairs for a ratio with an interval"),
    ],
)
def test_a_ratio_that_cannot_be_taken_says_why(
    pairs: list[tuple[float, float]], sentence: str
) -> None:
    effect = measured(PRIMARY, pairs, Court(quick(), 3))

    assert effect.ratio is None
    assert effect.sentence == sentence
    assert interval(effect) == "-"


@pytest.mark.parametrize(
    ("share", "text"), [(0.02, "2 %"), (0.125, "12 %"), (0.0042, "0.42 %"), (1.5, "150 %")]
)
def test_percentages_are_readable(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_study_comes_back_as_it_was_stored() -> None:
    study = simulated_study(world=World(invalid=0.1, wrong_mode=FIRST))

    assert Study.from_json(study.to_json()) == study
    assert set(JUDGED) == {e.outcome for e in study.cells[0].effects if e.verdict is not None}


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "etlt.run/1"}'])
def test_another_file_is_not_taken_for_a_study(text: str) -> None:
    with pytest.raises(ValueError, match=r"etlt\.comparison/1"):
        Study.from_json(text)
