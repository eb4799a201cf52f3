"""The stack as people start it: everything up, load on both, and Prometheus has the truth."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.boards import truth
from tests.boards.asking import Answer, ask, faults, needs_bus, our_boards
from tests.boards.checks import (
    EXPRESSIONS,
    HOME,
    SIDES,
    board,
    faults_of_board,
    faults_of_rule,
    offered,
)
from tests.boards.witnesses import DURING, END, TROUBLE
from tests.deploy.containers.recording import TARGETS
from tests.deploy.containers.stack import LOAD
from tests.probes.test_daemon import read_samples, total
from tests.waiting import until

if TYPE_CHECKING:
    from tests.deploy.containers.recording import Recording
    from tests.deploy.containers.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("recording")]

MODES = ["lt", "et"]
PATIENCE_SECONDS = 60
SINCE_THE_RUN = "[30m]"


def only(found: list[tuple[dict[str, str], float]]) -> float:
    ((_, value),) = found
    return value


def test_every_service_is_up_and_scraped(stack: Stack) -> None:
    """A board is empty, and says nothing of it, when one of its sources is not scraped."""
    states = {service: stack.container(service).health for service in stack.services}
    up = {by["instance"]: value for by, value in stack.query('up{job!="loadclient"}')}
    clients = {
        by["instance"]: value
        for by, value in stack.query(f'max_over_time(up{{job="loadclient"}}{SINCE_THE_RUN})')
    }

    assert set(states.values()) == {"healthy"}
    targets = ("etltd-lt:9700", "etltd-et:9700", "etlt-probe:9701", "localhost:9090")
    assert up == dict.fromkeys(targets, 1)
    assert clients == dict.fromkeys(("loadclient-lt:9702", "loadclient-et:9702"), 1)


def test_both_daemons_get_the_same_load_at_the_same_time(stack: Stack) -> None:
    """What the boards put side by side must have been side by side."""
    lt, et = (stack.results[mode] for mode in MODES)
    spans = [run["phases"]["measure"] for run in (lt, et)]
    together = min(s["stop"] for s in spans) - max(s["start"] for s in spans)

    for run, mode in ((lt, "lt"), (et, "et")):
        assert (run["valid"], run["invalid_reasons"]) == (True, [])
        assert (run["mode"], run["run_id"]) == (mode, f"test-{mode}")
        assert run["delivery_ratio"] == 1
    for same in ("messages_offered", "messages_sent", "messages_expected", "bytes_sent"):
        assert lt[same] == et[same]
    assert together > 0.5 * lt["elapsed_seconds"]


@pytest.mark.parametrize("mode", MODES)
def test_what_prometheus_has_is_what_the_ledger_says(stack: Stack, mode: str) -> None:
    """The client's settled figures, the daemon's own counters, and what was stored of both."""
    run = stack.results[mode]
    counters = run["server"]["counters"]
    daemon = f'etltd_messages_delivered_total{{mode="{mode}"}}'
    labels = f'{{mode="{mode}",run_id="test-{mode}"}}'
    samples = read_samples(f"http://{stack.address(f'etltd-{mode}', 9700)}/metrics")
    delivered = total(samples, "etltd_messages_delivered_total")

    until(lambda: only(stack.query(daemon)) == delivered, PATIENCE_SECONDS)
    received, sent = (
        only(stack.query(f"last_over_time(etlt_load_messages_{what}_total{labels}{SINCE_THE_RUN})"))
        for what in ("received", "sent")
    )

    assert received == run["messages_received"] == counters["messages_delivered_total"]
    assert sent == run["messages_sent"] == counters["messages_received_total"]
    assert run["messages_received"] == run["messages_expected"] > 0
    # All that it delivered before the measured phase: one hello of each, and the warm-up.
    connections, rate, warmup = (int(LOAD[name]) for name in ("CONNS", "RATE", "WARMUP"))
    before = (connections + connections * rate * warmup) * (connections - 1)
    assert delivered == before + run["messages_received"]


@pytest.mark.parametrize("mode", MODES)
def test_the_probe_counts_the_same_as_the_daemon(stack: Stack, mode: str) -> None:
    """Seen through Prometheus, from the shared pid namespace: no other process is in the count."""
    calls = ("recvfrom", "sendto", "sendmsg")
    for call in calls:
        own = only(stack.query(f'etltd_syscalls_total{{mode="{mode}",syscall="{call}"}}'))
        seen = stack.query(f'etlt_probe_syscalls_total{{mode="{mode}",syscall="{call}"}}')

        assert sum(value for _, value in seen) == own
    assert only(stack.query(f'etlt_probe_target_up{{mode="{mode}"}}')) == 1
    assert all(value == 0 for _, value in stack.query("etlt_probe_missed_runs_total"))


def test_no_label_was_renamed_by_prometheus(stack: Stack) -> None:
    """A target label that a series has, too, becomes exported_…, and every panel loses it."""
    assert stack.query('{exported_mode!=""}') == []
    assert stack.query('{exported_run_id!=""}') == []


@pytest.fixture(scope="module")
def troubled(recording: Recording) -> Recording:
    """Return the recording after trouble, of which much on the boards is about."""
    recording.trouble()
    return recording


@pytest.mark.parametrize("title", truth.BOARDS)
def test_every_panel_shows_what_the_witnesses_say(troubled: Recording, title: str) -> None:
    """A panel may be filled, and with the other mode's figures, or another job's."""
    assert faults_of_board(troubled.prometheus, troubled, title) == []


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_rule_computes_what_the_witnesses_say(troubled: Recording, name: str) -> None:
    """The jobs' names in the rules are those of the stack's Prometheus, or nothing ever fires."""
    assert faults_of_rule(troubled.prometheus, troubled, name) == []


def test_variables_offer_what_there_is_to_choose(troubled: Recording) -> None:
    runs = {f"test-{mode}" for mode in MODES}
    there = {
        "job": {"etltd"},
        "client_job": {"loadclient"},
        "instance": set(TARGETS["etltd"]),
        "run": runs,
        "left": {*runs, *MODES},
        "right": {*runs, *MODES},
        "probe_job": {"etlt-probe"},
        "probe_instance": set(TARGETS["etlt-probe"]),
        "comm": {f"etltd-{mode}" for mode in MODES},
    }
    found = offered(troubled.prometheus, troubled.spans[END])

    assert {name for name, _ in found} == set(there)
    assert found == [(name, there[name]) for name, _ in found]


@pytest.mark.parametrize("mode", MODES)
def test_a_daemon_restarts_alone_and_is_found_again(stack: Stack, mode: str) -> None:
    """Its neighbour in the pid namespace goes on; the probe and Prometheus follow."""
    service, neighbour = f"etltd-{mode}", f"etltd-{'et' if mode == 'lt' else 'lt'}"
    others = [stack.container(name) for name in (neighbour, "etlt-probe", "pids")]
    since = [other.state["StartedAt"] for other in others]
    (((_, born)),) = stack.query(f'etltd_start_time_seconds{{mode="{mode}"}}')
    stack.command("compose", "restart", service)
    container = stack.container(service)

    until(lambda: container.health == "healthy", PATIENCE_SECONDS)
    until(
        lambda: [v for _, v in stack.query(f'etltd_start_time_seconds{{mode="{mode}"}}')] > [born],
        PATIENCE_SECONDS,
    )
    until(
        lambda: [v for _, v in stack.query(f'etlt_probe_target_up{{mode="{mode}"}}')] == [1],
        PATIENCE_SECONDS,
    )
    assert container.logs().count("stopped ") >= 1
    assert [other.state["StartedAt"] for other in others] == since


def test_every_expression_of_boards_and_rules_is_answered(
    stack: Stack, recording: Recording
) -> None:
    """Panels, variables, annotations, rules and alerts; a daemon has been restarted by now."""
    during = recording.spans[DURING]
    asked = (stack.prometheus_url, our_boards())
    found = [
        *(one for one in ask(*asked, EXPRESSIONS.items(), during, SIDES) if not is_note(one)),
        *(one for one in ask(*asked, [], replace(during, end=time.time()), SIDES) if is_note(one)),
    ]
    without_stats = [a for a in found if "bpf_run" in a.expr and not recording.has_stats]
    without_bus = [one for one in found if needs_bus(one)]

    assert len(found) > 150
    assert faults(one for one in found if one not in (*without_stats, *without_bus)) == []


def is_note(answer: Answer) -> bool:
    return ": annotation " in answer.where


def test_annotations_name_the_runs_and_the_restarts(stack: Stack, recording: Recording) -> None:
    span = replace(recording.spans[END], end=time.time())
    (runs, restarts) = (
        one for one in ask(stack.prometheus_url, [board(HOME)], [], span, SIDES) if is_note(one)
    )

    assert {by["run_id"] for by, _ in runs.series} == {f"test-{mode}" for mode in MODES}
    assert {by["mode"] for by, _ in restarts.series} == set(MODES)


def test_the_board_shows_what_the_ledgers_say(stack: Stack, recording: Recording) -> None:
    """Looked at after the load, as people do: no client is there any more, and nothing is empty."""
    span = replace(recording.spans[END], end=recording.spans[TROUBLE].end)
    found = {
        one.where.removeprefix(f"{HOME}: "): one
        for one in ask(stack.prometheus_url, [board(HOME)], [], span, SIDES)
    }

    without_stats = [a for a in found.values() if "bpf_run" in a.expr and not recording.has_stats]
    assert faults(a for a in found.values() if a not in without_stats and not is_note(a)) == []
    for letter, key in {"B": "messages_sent", "C": "messages_received"}.items():
        shown = {by["run_id"]: values[-1] for by, values in found[f"Runs: {letter}"].series}
        assert shown == {f"test-{mode}": stack.results[mode][key] for mode in MODES}
    for letter in "AB":
        assert found[f"Gate: delivery ratio: {letter}"].last == 1
    for letter in "ABC":
        assert found[f"Gate: offered load, right over left: {letter}"].last == 1
