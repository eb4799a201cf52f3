"""Instances on a bus, on a real Prometheus: each is shown by itself and all of a mode together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashboards.cli import main
from dashboards.render.command import GENERATED
from tests.boards import rig, truth
from tests.boards.asking import ask, faults, over_all_of_it
from tests.boards.checks import EXPRESSIONS, HOME, SIDES, board, parts, values
from tests.boards.instances import instances
from tests.boards.witnesses import DURING, END, TROUBLE
from tests.system.nats import needs_nats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.boards.asking import Answer
    from tests.boards.instances import Instances
    from tests.boards.truth import Truth

pytestmark = [needs_nats, pytest.mark.system]

BUS = "etlt / Bus"
MOMENTS = (END, DURING, TROUBLE)
EXTRAPOLATION = 0.3  # of some eight samples; what is summed wrongly is wrong by a half at least
OF_DAEMONS = (
    "Wakeups per message",
    "System calls per message",
    "CPU time per message",
    "EAGAINs per message",
    "Messages delivered",
    "CPU",
    "Wakeups",
    "Events per wakeup",
    "Messages per batch",
    "epoll_ctl per message, by operation",
    "Reads that found nothing",
    "Tick duration, p99",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instances]:
    if not rig.available():
        pytest.skip("no Prometheus here (deploy/setup.sh dev unpacks it)")
    with instances(tmp_path_factory.mktemp("instances")) as made:
        yield made


def shown(made: Instances, title: str, moment: str, **choices: str) -> dict[str, Answer]:
    """Return what a board gets at a moment, by panel and letter."""
    span = made.spans[moment].at_a_glance()
    found = ask(made.prometheus.url, [board(title)], [], span, {**SIDES, **choices})
    return {answer.where.removeprefix(f"{title}: "): answer for answer in found}


def wrong(made: Instances, wanted: Truth, answer: Answer) -> list[str]:
    tolerant = replace(wanted, rel=max(wanted.rel, EXTRAPOLATION) if wanted.rel else 0)
    found = tolerant.faults(made.view(wanted.at), values(answer))
    return [f"{answer.where}: {fault}: {answer.expr}" for fault in found]


def faults_of(made: Instances, title: str, panels: dict[str, list[Truth]]) -> list[str]:
    found = {moment: shown(made, title, moment) for moment in MOMENTS}
    return [
        fault
        for panel, truths in panels.items()
        for letter, one in zip("ABCDEF", truths, strict=False)
        for fault in wrong(made, one, found[one.at][f"{panel}: {letter}"])
    ]


def test_the_bus_is_shown_as_the_instances_tell_it(made: Instances) -> None:
    assert faults_of(made, BUS, truth.BUS) == []


def test_nothing_of_the_bus_is_empty(made: Instances) -> None:
    """What there is of nothing agrees with everything."""
    there = shown(made, BUS, END)
    assert faults(a for where, a in there.items() if "annotation" not in where) == []
    lossy = ("Missed: A", "Missed: B", "Gaps: A", "Gaps: B")
    for answer in (*lossy, "Given up, by reason: A", "Late messages, strangers: B"):
        assert any(values(there[answer]).values())
    assert any(values(shown(made, BUS, TROUBLE)["Bytes waiting: A"]).values())


def test_sides_are_the_sums_of_their_instances(made: Instances) -> None:
    """What ET costs in two loops is what both loops cost, over what both delivered."""
    known = {panel: truths for panel, truths in truth.HOME.items() if panel in OF_DAEMONS}

    assert len(known) >= len(OF_DAEMONS) / 2, "the board has other panels now"
    assert faults_of(made, HOME, known) == []


def test_one_instance_can_be_chosen_of_many(made: Instances) -> None:
    chosen = made.daemons["et a"].scrape_address

    answer = shown(made, HOME, END, instance=chosen)["Messages delivered: B"]

    assert wrong(made, truth.rate(truth.DELIVERED, mode="et", instance=chosen), answer) == []
    assert values(shown(made, HOME, END, instance=chosen)["Messages delivered: A"]) == {}


@pytest.mark.parametrize("name", [n for n in EXPRESSIONS if "etlt_" not in EXPRESSIONS[n]])
def test_rules_compute_what_many_instances_tell(made: Instances, name: str) -> None:
    found = []
    for part, wanted in parts(name, EXPRESSIONS[name]):
        span = made.spans[wanted.at]
        asked = over_all_of_it(part, span)
        found += wrong(made, wanted, made.prometheus.instant(name, asked, span.end))

    assert found == []


@pytest.mark.browser
def test_the_board_of_the_bus_is_drawn(made: Instances, page: Path, tmp_path: Path) -> None:
    assert page
    span = made.spans[END]
    status = main(
        [
            *("render", "--prometheus", made.prometheus.url, "--out", str(tmp_path)),
            *("--board", str(GENERATED / "bus.json"), "--theme", "dark", "--width", "1440"),
            *(f"--from={span.start:.0f}", f"--to={span.end:.0f}", "--scrape-interval=1"),
        ]
    )
    (report,) = json.loads((tmp_path / "report.json").read_text())

    assert status == 0, report["problems"]
    assert {panel["state"] for panel in report["panels"]} == {"ok"}
