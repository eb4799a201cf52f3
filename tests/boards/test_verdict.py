"""The home board's verdict and its bars, of series as a Prometheus would have stored them.

What the live scene cannot have: a probe that sees one mode only, scrapes that fail (by promtool, on
every Prometheus major that is here); a day's range, and a client that is long gone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashboards import queries
from dashboards.lint import interpolate
from tests.boards import comparison
from tests.boards.asking import Prometheus
from tests.boards.comparison import ET, LT, STEP
from tests.boards.drawing import missing, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.boards.asking import Answer
    from tests.boards.comparison import Side

LENGTH = comparison.END // STEP
CHOSEN = {
    **dict.fromkeys(("job", "instance", "probe_job", "probe_instance", "client_job", "run"), ".+"),
    "left": "lt",
    "right": "et",
    "__range": f"{comparison.END}s",
    "__interval": "2s",
    "__rate_interval": "8s",
}
HALF = "1 0 " * (LENGTH // 2)
UNWATCHED = replace(ET, watched=None)
DAY = {"__range": "86400s", "__interval": "216s", "__rate_interval": "218s"}
QUARTER = {"__range": "900s"}
EXACT = 0.01
Samples = dict[str, float]


@pytest.fixture(params=["promtool", "promtool-3"])
def command(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed (deploy/setup.sh dev)")
    return str(request.param)


def faults(
    folder: Path, command: str, series: dict[str, str], asked: list[tuple[str, int, Samples]]
) -> str:
    """Return what promtool has against the answers: (expression, second, samples)."""
    case = {
        "interval": f"{STEP}s",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{at}s",
                "exp_samples": [{"labels": k, "value": v} for k, v in wanted.items()],
            }
            for expr, at, wanted in asked
        ],
    }
    file = folder / "tests.yaml"
    file.write_text(json.dumps({"evaluation_interval": f"{STEP}s", "tests": [case]}))
    done = subprocess.run(
        [command, "test", "rules", file], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert bool(done.returncode) == ("FAILED" in said), said
    return said if done.returncode else ""


def scraped(*sides: Side, daemons: str = "", probe: str = "") -> dict[str, str]:
    """Return all series of a minute of load; *daemons* and *probe* are their `up`."""
    always = f"1x{LENGTH}"
    found = {series: values for side in sides for series, values in side.series().items()}
    for side in sides:
        found[f'up{{job="etltd", instance="a-{side.mode}:9700"}}'] = daemons or always
    if any(side.watched is not None for side in sides):
        labels = '{job="etlt-probe", instance="a:9701"}'
        found |= {f"up{labels}": probe or always, f"etlt_probe_collect_seconds{labels}": always}
    return found


@pytest.mark.parametrize(
    ("series", "comparable"),
    [
        pytest.param(scraped(LT, ET), 1, id="equal"),
        pytest.param(
            scraped(replace(LT, watched=None), UNWATCHED), 1, id="no probe: no second witness"
        ),
        pytest.param(scraped(LT, UNWATCHED), 0, id="a probe that sees one mode"),
        pytest.param(scraped(LT, ET, probe=HALF), 0, id="every other scrape of the probe fails"),
        pytest.param(scraped(LT, ET, daemons=HALF), 0, id="every other scrape of daemons fails"),
        pytest.param(scraped(LT, replace(ET, kernel=0.9)), 0, id="witnesses disagree"),
        pytest.param(scraped(LT, replace(ET, rate=1050)), 0, id="more messages"),
        pytest.param(scraped(LT, replace(ET, connections=97)), 0, id="fewer connections"),
        pytest.param(scraped(LT, replace(ET, message_bytes=128)), 0, id="larger messages"),
        pytest.param(scraped(LT, replace(ET, lost=0.01)), 0, id="messages lost"),
        pytest.param(scraped(LT), 0, id="one side"),
    ],
)
def test_equal_loads_are_comparable_and_no_others(
    command: str, tmp_path: Path, series: dict[str, str], comparable: float
) -> None:
    """A verdict of green beside a red gate is believed."""
    asked = interpolate(queries.is_comparable(), CHOSEN)
    moment = comparison.LINGER_SECONDS

    assert faults(tmp_path, command, series, [(asked, moment, {"{}": comparable})]) == ""


@pytest.mark.parametrize(("away", "marks"), [(1, [24, 26]), (10, [42, 44])])
def test_a_restart_is_marked_however_long_it_took(
    command: str, tmp_path: Path, away: int, marks: list[int]
) -> None:
    """A daemon that was away for longer than a rate looks back has restarted all the more."""
    labels = 'job="etltd", instance="a:9700", mode="et"'
    series = {f"etltd_start_time_seconds{{{labels}}}": f"100x9 {'_ ' * away}{122}x40"}
    asked = interpolate(queries.restarted(), CHOSEN)
    shown = {f"etltd_start_time_seconds{{{labels}}}": 122.0}

    looks = [(asked, at, shown if at in marks else {}) for at in (16, *marks, 60)]
    assert faults(tmp_path, command, series, looks) == ""


BEGIN = 1_760_000_000
IDLE, LOAD, REST = 4000, 60, 600  # seconds
END = BEGIN + IDLE + LOAD
SHORT = 10  # seconds, of loads that begin at all moments of a step
LATER = 0.7  # each than the last
LOADS = {"r1": (IDLE, LOAD)} | {f"s{i}": (300 + (300 + LATER) * i, SHORT) for i in range(10)}
# Seconds at which Prometheus scrapes a daemon and its client: just after each other, either first.
PHASES = {"lt": (0.1, 0.0), "et": (1.9, 0.1)}
RESTARTED = LOADS["s5"][0] + SHORT / 2  # ET's daemon, in the midst of a load
SPENT = {  # per second, idle and under load
    "etltd_messages_delivered_total{%s}": (0, 1000),
    'etltd_syscalls_total{%s,syscall="sendto"}': (150, 500),
    'etltd_epoll_ctl_total{%s,op="mod"}': (60, 200),
}


def an_afternoon() -> str:
    """Return loads between long times of none, as OpenMetrics: counters and the runs' phases.

    Under load a copy costs half a call, and a fifth of a modification. Idle, there are three tenths
    as many calls, and nothing to divide them by.
    """
    lines = []
    for series, (idle, busy) in SPENT.items():
        lines.append(f"# TYPE {series.partition('_total')[0]} counter")
        for mode, (phase, _) in PHASES.items():
            named = series % f'job="etltd",instance="{mode}:9700",mode="{mode}"'
            for tick in range(0, IDLE + LOAD + REST, STEP):
                at = tick + phase
                lost = RESTARTED if mode == "et" and at > RESTARTED else 0
                count = _spent(at, idle, busy) - _spent(lost, idle, busy)
                lines.append(f"{named} {count} {BEGIN + at}")
    lines.append("# TYPE etlt_load_phase gauge")
    for mode, (_, phase) in PHASES.items():
        for run, (begin, length) in LOADS.items():
            client = f'job="loadclient",mode="{mode}",run_id="{mode}-{run}",phase="measure"'
            for second in range(int(begin) - 2, int(begin) + length + 10):
                measures = int(begin <= second + phase < begin + length)
                lines.append(f"etlt_load_phase{{{client}}} {measures} {BEGIN + second + phase}")
    return "\n".join([*lines, "# EOF", ""])


def _spent(at: float, idle: float, busy: float) -> float:
    loaded = sum(min(max(at - begin, 0), length) for begin, length in LOADS.values())
    return (at - loaded) * idle + loaded * busy


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if "prometheus" in missing() or "promtool" in missing():
        pytest.skip("no Prometheus here (deploy/setup.sh dev unpacks it)")
    with prometheus(tmp_path_factory.mktemp("afternoon"), an_afternoon()) as address:
        yield Prometheus(address)


def cost(server: Prometheus, metric: str, at: int, by: str = "", **choices: str) -> Answer:
    expr = interpolate(queries.LEFT.per_delivered(metric, by), {**CHOSEN, **choices})
    return server.instant(metric, expr, at)


@pytest.mark.parametrize("later", [15, 31, 57])
@pytest.mark.parametrize("look", [QUARTER, DAY], ids=["a quarter of an hour", "a day"])
@pytest.mark.parametrize("side", ["lt", "lt-r1"])
def test_what_a_message_cost_is_not_mixed_with_what_idling_costs(
    afternoon: Prometheus, side: str, look: dict[str, str], later: int
) -> None:
    """Whenever it is looked at afterwards, and however long the range: the load was a minute."""
    choices, at = {**look, "left": side}, END + later

    calls = cost(afternoon, "etltd_syscalls_total", at, **choices)
    (of_kind,) = cost(afternoon, "etltd_syscalls_total", at, "syscall", **choices).series
    (of_operation,) = cost(afternoon, "etltd_epoll_ctl_total", at, "op", **choices).series

    assert calls.last == pytest.approx(0.5, rel=EXACT)
    assert of_kind == ({"syscall": "sendto"}, [calls.last])
    assert of_operation == ({"op": "mod"}, [pytest.approx(0.2, rel=EXACT)])


@pytest.mark.parametrize("mode", PHASES)
@pytest.mark.parametrize("run", [run for run, (_, length) in LOADS.items() if length == SHORT])
def test_nothing_from_beside_a_short_load_is_in_what_its_messages_cost(
    afternoon: Prometheus, run: str, mode: str
) -> None:
    """An idle second on either side would be a sixteenth of the cost of ten under load."""
    begin, length = LOADS[run]
    at = BEGIN + int(begin + length) + 20

    costs = [
        cost(afternoon, "etltd_syscalls_total", at, left=side, __range="60s").last
        for side in (mode, f"{mode}-{run}")
    ]

    assert costs == [pytest.approx(0.5, rel=EXACT)] * 2


def test_without_a_client_s_word_it_is_what_was_spent_in_the_range(afternoon: Prometheus) -> None:
    """Other clients load a daemon, too, and they have no phases."""
    choices = {"client_job": "none", "__range": "120s"}
    busy, idle = 500 * LOAD, 150 * (120 - LOAD)

    calls = cost(afternoon, "etltd_syscalls_total", END, **choices)
    (of_kind,) = cost(afternoon, "etltd_syscalls_total", END, "syscall", **choices).series

    assert calls.last == pytest.approx((busy + idle) / (1000 * LOAD), rel=0.05)
    assert of_kind == ({"syscall": "sendto"}, [calls.last])
