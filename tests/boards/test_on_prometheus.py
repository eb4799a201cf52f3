"""Every expression on a real Prometheus, with real series: an answer, and the right one.

One scene for all tests: two daemons, one restarted; both loaded equally by a client each; watched
by the probe where bpf(2) is permitted; scraped every second by every Prometheus major that is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashboards import rules
from dashboards.queries import WHOLE_SCRAPES, WITNESS_TOLERANCE
from tests.boards import checks, rig, truth
from tests.boards.asking import Answer, Prometheus, ask, faults, needs_bus, our_boards
from tests.boards.checks import EXPRESSIONS, HOME, SIDES, board, needs_probe, values
from tests.boards.witnesses import END

if TYPE_CHECKING:
    from tests.boards.rig import Scene

pytestmark = pytest.mark.system

EXTRAPOLATION = 0.08  # of increase() over some twenty samples
PART = 0.05  # by which most of a run may differ from all of it: a read may bring two messages


@pytest.fixture(params=rig.SERVERS)
def prometheus(request: pytest.FixtureRequest, scene: Scene) -> Prometheus:
    if request.param not in scene.servers:
        pytest.skip(f"{request.param} is not installed (deploy/setup.sh dev)")
    return scene.servers[request.param]


def answers(
    prometheus: Prometheus, scene: Scene, title: str = HOME, **choices: str
) -> dict[str, Answer]:
    """Return what one board gets, by panel and letter, after the runs."""
    found = ask(prometheus.url, [board(title)], [], scene.span, {**SIDES, **choices})
    return {answer.where.removeprefix(f"{title}: "): answer for answer in found}


def of_mode(answer: Answer, mode: str) -> float:
    (value,) = [values[-1] for labels, values in answer.series if labels["mode"] == mode]
    return value


def test_every_expression_is_answered_during_the_load(prometheus: Prometheus, scene: Scene) -> None:
    """An empty panel is found by the reader, in the night it was needed."""
    found = ask(prometheus.url, our_boards(), rules.expressions(), scene.during, SIDES)

    assert len(found) > 150
    there = [a for a in found if not needs_bus(a)]  # of these: tests/boards/test_instances.py
    assert faults(a for a in there if scene.has_probe or not needs_probe(a)) == []


def test_no_panel_is_empty_after_the_load(prometheus: Prometheus, scene: Scene) -> None:
    """That is when people look: what is drawn once must not be of the last seconds alone."""
    found = ask(prometheus.url, our_boards(), [], scene.span, SIDES)

    there = [a for a in found if not needs_bus(a)]
    assert faults(a for a in there if scene.has_probe or not needs_probe(a)) == []
    bars = [a for a in found if "per message, by" in a.where and "A" in a.where[-1]]
    # Connections are made before the measured phase, and nobody is behind: no epoll_ctl is in it.
    assert [max(values[-1] for _, values in one.series) > 0 for one in bars] == [True, False]


@pytest.mark.parametrize("title", truth.BOARDS)
def test_every_panel_shows_what_the_witnesses_say(
    prometheus: Prometheus, scene: Scene, title: str
) -> None:
    """Every expression of the board; one that no truth is known of has no business there."""
    assert checks.faults_of_board(prometheus, scene, title) == []


def test_variables_offer_what_there_is_to_choose(prometheus: Prometheus, scene: Scene) -> None:
    runs = {load["run_id"] for load in scene.ledgers.values()}
    there = {
        "job": {"etltd"},
        "client_job": {"loadclient"},
        "instance": set(scene.addresses["etltd"]),
        "run": runs,
        "left": runs | set(rig.MODES),
        "right": runs | set(rig.MODES),
        "probe_job": {"etlt-probe"},
        "probe_instance": set(scene.addresses["etlt-probe"]),
        "comm": {f"etltd-{mode}" for mode in rig.MODES},
    }
    found = checks.offered(prometheus, scene.span)
    if not scene.has_probe:
        found = [one for one in found if "probe" not in one[0] and one[0] != "comm"]

    assert len(found) >= 8
    assert found == [(name, there[name]) for name, _ in found]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_rule_computes_what_the_witnesses_say(
    prometheus: Prometheus, scene: Scene, name: str
) -> None:
    """Of an alert, what it compares with its limits: a wrong sum would never fire, or always."""
    assert checks.faults_of_rule(prometheus, scene, name) == []


def test_what_is_recorded_is_what_the_rule_says(prometheus: Prometheus, scene: Scene) -> None:
    """At rest, so that it does not matter at which moment of a second it was recorded."""
    found = []
    for rule in rules.RECORDINGS:
        recorded, computed = (
            values(prometheus.instant(rule.record, one, scene.span.end))
            for one in (f"{rule.record}", rule.expr)
        )
        if recorded != {k: pytest.approx(v, rel=truth.EXTRAPOLATION) for k, v in computed.items()}:
            found.append((rule.record, recorded, computed))

    assert found == []


def test_two_runs_can_be_compared_by_name(prometheus: Prometheus, scene: Scene) -> None:
    """The daemon's series know nothing of runs: they are looked up by the time of the run."""
    choices = {"left": "run-lt", "right": "run-et"}

    found = ask(prometheus.url, [board(HOME)], [], scene.during, choices)

    without = () if scene.has_probe else ("etlt_probe_",)
    asked = [a for a in found if not any(name in a.expr for name in without)]
    empty = [a for a in asked if "System calls of other threads" not in a.where]
    assert faults(empty) == []


def test_a_mode_that_is_missing_is_no_error_and_not_comparable(
    prometheus: Prometheus, scene: Scene
) -> None:
    found = ask(prometheus.url, [board(HOME)], [], scene.span, {"left": "lt", "right": "gone"})

    assert {answer.fault for answer in found} <= {"", "empty"}
    (comparable,) = [a for a in found if "Is it comparable?" in a.where]
    assert comparable.last == 0


@pytest.mark.parametrize("mode", rig.MODES)
def test_the_client_s_totals_are_the_ledger_s(
    prometheus: Prometheus, scene: Scene, mode: str
) -> None:
    found, ledger = answers(prometheus, scene), scene.ledgers[mode]

    assert of_mode(found["Runs: A"], mode) == ledger["messages_offered"]
    by_run = {"B": "messages_sent", "C": "messages_received"}
    for letter, key in by_run.items():
        (value,) = [
            values[-1]
            for labels, values in found[f"Runs: {letter}"].series
            if labels["run_id"] == f"run-{mode}"
        ]
        assert value == ledger[key]
    side = "A" if mode == "lt" else "B"
    assert found[f"Gate: delivery ratio: {side}"].last == ledger["delivery_ratio"] == 1


@pytest.mark.parametrize("mode", rig.MODES)
def test_the_daemon_s_counters_are_its_own(prometheus: Prometheus, scene: Scene, mode: str) -> None:
    """And what it delivered while it was measured is what the client received."""
    answer = prometheus.instant("", "etltd_messages_delivered_total", scene.span.end)
    ledger = scene.ledgers[mode]

    (own,) = scene.view(END).level("etltd_messages_delivered_total", mode=mode).values()

    assert of_mode(answer, mode) == own
    assert ledger["server"]["counters"]["messages_delivered_total"] == ledger["messages_received"]


def test_the_fingerprints_of_the_modes_are_on_the_board(
    prometheus: Prometheus, scene: Scene
) -> None:
    """ET pays with reads that find nothing, LT has none; swapped sides would show here."""
    found = answers(prometheus, scene)
    left, right, difference = (found[f"EAGAINs per message: {letter}"].last for letter in "ABC")
    counters = scene.spent["et"]
    eagains = sum(
        value
        for name, value in counters.items()
        if name.startswith("syscall_eagain_total") and "accept4" not in name
    )

    assert left == 0
    assert right == pytest.approx(eagains / counters["messages_delivered_total"], rel=EXTRAPOLATION)
    assert difference == right


def test_a_run_has_the_fingerprint_of_its_own_mode(prometheus: Prometheus, scene: Scene) -> None:
    """A run is looked up by its time and mode; with the wrong join both would have ET's reads."""
    found = answers(prometheus, scene, left="run-lt", right="run-et")
    counters = scene.ledgers["et"]["server"]["counters"]
    truth = counters["syscall_eagain_total"]["recvfrom"] / counters["messages_delivered_total"]

    assert found["EAGAINs per message: A"].last == 0
    assert found["EAGAINs per message: B"].last == pytest.approx(truth, rel=PART)


@pytest.mark.parametrize(("mode", "letter"), [("lt", "A"), ("et", "B")])
def test_latency_is_the_ledger_s_to_a_bucket(
    prometheus: Prometheus, scene: Scene, mode: str, letter: str
) -> None:
    """Buckets double, so a quantile within one is off by a factor of two at most."""
    value = answers(prometheus, scene)[f"Latency, p99: {letter}"].last
    truth = scene.ledgers[mode]["latency_seconds"]["p99"]

    assert truth / 2.1 <= value <= truth * 2.1


def test_equal_runs_are_comparable(prometheus: Prometheus, scene: Scene) -> None:
    """On a machine too slow to be scraped it must say no: the verdict is what the gates say."""
    found = answers(prometheus, scene)
    gates = {where: a.last for where, a in found.items() if "Gate" in where and a.series}
    offered = gates["Gate: offered load, right over left: A"]
    deliveries = [gates[f"Gate: delivery ratio: {letter}"] for letter in "AB"]
    witnesses = [value for where, value in gates.items() if "kernel count" in where]
    scrapes = [value for where, value in gates.items() if "scrape health" in where]

    assert [offered, *deliveries] == [1, 1, 1]
    assert len(witnesses) == 2 * scene.has_probe
    holds = min(scrapes) >= WHOLE_SCRAPES and all(
        abs(1 - w) <= WITNESS_TOLERANCE for w in witnesses
    )
    assert found["Is it comparable?: A"].last == holds, gates


def test_the_two_witnesses_agree(prometheus: Prometheus, scene: Scene) -> None:
    if not scene.has_probe:
        pytest.skip("bpf(2) is not permitted here")
    found = answers(prometheus, scene)

    for letter in "AB":
        ratio = found[f"Gate: kernel count over daemon count: {letter}"].last
        assert ratio == pytest.approx(1, abs=0.1)


def test_annotations_name_the_runs_and_the_restart(prometheus: Prometheus, scene: Scene) -> None:
    found = answers(prometheus, scene)

    runs = found["annotation Runs"].series
    assert {labels["run_id"] for labels, _ in runs} == {"run-lt", "run-et"}
    for _, seen in runs:  # a value per second; a new target may be scraped 5 s late at first
        assert 4 <= len(seen) <= rig.SECONDS + 2
    assert {labels["mode"] for labels, _ in found["annotation Daemon restarts"].series} == {"lt"}


def test_no_alert_fires_on_a_healthy_stack(prometheus: Prometheus, scene: Scene) -> None:
    assert {a["labels"]["alertname"] for a in scene.alerts if a["state"] == "firing"} == set()
    (group,) = [g for g in prometheus.get("rules")["groups"] if g["name"] == "etlt-alerts"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
