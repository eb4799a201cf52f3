"""A minute of load on both modes, as Prometheus would store it, for promtool's tests of the alert.

Series are written as the stack scrapes them, every two seconds. A run warms up, is measured for a
minute and lingers for ten seconds; then its client is gone. Times are those of the first run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

STEP = 2  # seconds, of scrapes and evaluations
IDLE, WARMUP, MEASURE, LINGER = 20, 4, 60, 10
END = IDLE + WARMUP + MEASURE + LINGER
FIRST_SECONDS = IDLE + WARMUP + 16
LAST_SECONDS = IDLE + WARMUP + MEASURE - STEP
LINGER_SECONDS = LAST_SECONDS + STEP + 8
WAITS = 50  # per second and daemon
ALERT = "EtltComparisonInvalid"
FIRING = f'ALERTS{{alertname="{ALERT}", alertstate="firing"}}'
SAYS = "ET and LT are not comparable now: offered_load_differs"
TELLS = (
    "The two modes are offered different loads, messages are lost, or the kernel counts other "
    "epoll waits than the daemon (by how much: 0.2). A difference between the modes that is seen "
    "meanwhile shows nothing."
)
LEADS = "dashboards/RUNBOOK.md#etltcomparisoninvalid"


@dataclass(frozen=True)
class Side:
    """One mode's load and its three witnesses."""

    mode: str
    late: int = 0  # seconds after the other
    connections: int = 100
    rate: int = 1000  # messages per second, all connections together
    message_bytes: int = 64
    lost: float = 0  # share of the copies owed that is announced as dropped
    kernel: float = 1  # share of the daemon's waits that the probe counts
    watched: int | None = 1  # processes; None: there is no probe
    hosts: int = 1

    def series(self) -> dict[str, str]:
        """Return the values by series."""
        return {**self._load(), **self._daemons()}

    def _load(self) -> dict[str, str]:
        labels = f'job="loadclient", mode="{self.mode}", run_id="{self.mode}1"'
        received = self.rate * (1 - self.lost)
        return {
            f'etlt_load_phase{{{labels}, phase="measure"}}': self._phase(measure=1, linger=0),
            f'etlt_load_phase{{{labels}, phase="linger"}}': self._phase(measure=0, linger=1),
            f"etlt_load_connections{{{labels}}}": self._while_there(self.connections),
            f"etlt_load_messages_offered_total{{{labels}}}": self._counted(self.rate),
            f"etlt_load_messages_sent_total{{{labels}}}": self._counted(self.rate),
            f"etlt_load_sent_bytes_total{{{labels}}}": self._counted(
                self.rate * self.message_bytes
            ),
            f"etlt_load_messages_received_total{{{labels}}}": self._counted(received),
            f'etlt_load_messages_lost_total{{{labels}, reason="announced"}}': self._counted(
                self.rate - received
            ),
        }

    def _daemons(self) -> dict[str, str]:
        found = {}
        for host in "abc"[: self.hosts]:
            labels = f'mode="{self.mode}", instance="{host}-{self.mode}:9700", job="etltd"'
            found[f"etltd_build_info{{{labels}}}"] = f"1x{END // STEP}"
            found[f"etltd_epoll_waits_total{{{labels}}}"] = self._waits(1)
        for host in "abc"[: self.watched or 0]:
            labels = (
                f'mode="{self.mode}", comm="etltd-{self.mode}", instance="{host}:9701",'
                ' job="etlt-probe"'
            )
            found[f"etlt_probe_target_up{{{labels}}}"] = f"1x{END // STEP}"
            found[f'etlt_probe_epoll_waits_total{{{labels}, outcome="ready"}}'] = self._waits(
                self.kernel
            )
        return found

    def _start(self) -> str:
        return f"_x{(IDLE + self.late) // STEP}"

    def _phase(self, measure: int, linger: int) -> str:
        return (
            f"{self._start()} 0x{WARMUP // STEP - 1} {measure}x{MEASURE // STEP - 1} "
            f"{linger}x{LINGER // STEP - 1} stale"
        )

    def _while_there(self, value: float) -> str:
        return f"{self._start()} {value}x{(WARMUP + MEASURE + LINGER) // STEP - 1} stale"

    def _counted(self, rate: float) -> str:
        """Return a counter that rises while the run is measured."""
        step = rate * STEP
        return (
            f"{self._start()} 0x{WARMUP // STEP - 1} {step}+{step}x{MEASURE // STEP - 1} "
            f"{rate * MEASURE}x{LINGER // STEP - 1} stale"
        )

    def _waits(self, share: float) -> str:
        """Return a counter that rises slowly when idle and fast under load."""
        idle, busy = STEP * share, WAITS * STEP * share
        first = (IDLE + self.late) // STEP
        return f"0+{idle}x{first} {idle * first + busy}+{busy}x{(WARMUP + MEASURE) // STEP}"


LT, ET = Side("lt"), Side("et")
# While most of the load is to come, while both are steady, and when both are over.
NEVER, STEADILY, THEN_TOO, ALWAYS, AT_LAST = (0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1), (0, 0, 1)
CASES: dict[str, tuple[tuple[Side, ...], str, tuple[int, int, int]]] = {
    "a fair comparison": ((LT, ET), "", NEVER),
    "one starts two seconds later": ((LT, replace(ET, late=2)), "", NEVER),
    "without a probe": ((replace(LT, watched=None), replace(ET, watched=None)), "", NEVER),
    "one mode alone": ((replace(LT, lost=0.5),), "", NEVER),
    "several hosts, each with its probe": (
        (replace(LT, hosts=2, watched=2), replace(ET, hosts=2, watched=2)),
        "",
        NEVER,
    ),
    "one after the other": ((LT, replace(ET, late=60, rate=500, connections=50)), "", NEVER),
    "more messages on one side": ((LT, replace(ET, rate=1200)), "offered_load_differs", THEN_TOO),
    "a little more on one side": (
        (LT, replace(ET, rate=1050)),
        "offered_load_differs",
        AT_LAST,
    ),
    "as many messages from half the connections": (
        (replace(LT, connections=50), ET),
        "connections_differ",
        STEADILY,
    ),
    "as many messages of another size": (
        (replace(LT, message_bytes=256), ET),
        "message_sizes_differ",
        STEADILY,
    ),
    "one side loses messages": ((LT, replace(ET, lost=0.25)), "messages_lost", ALWAYS),
    "the kernel counted something else": (
        (LT, replace(ET, kernel=0.8)),
        "witnesses_disagree",
        STEADILY,
    ),
    "a host without a probe": ((LT, replace(ET, hosts=2)), "other_processes_watched", STEADILY),
    "a probe that sees one mode only": (
        (LT, replace(ET, watched=None)),
        "other_processes_watched",
        STEADILY,
    ),
    "a probe that watches somebody else": (
        (replace(LT, watched=2), ET),
        "other_processes_watched",
        STEADILY,
    ),
}


def text(files: list[str], reason: str | None = None) -> str:
    """Return a file of promtool's tests, of all or those of one reason; JSON is YAML."""
    cases = [
        _case(name, sides, why, when)
        for name, (sides, why, when) in CASES.items()
        if reason is None or why == reason
    ]
    return json.dumps(
        {"rule_files": files, "evaluation_interval": f"{STEP}s", "tests": cases}, indent=1
    )


def _case(
    name: str, sides: tuple[Side, ...], reason: str, when: tuple[int, int, int]
) -> dict[str, Any]:
    """Return one test: quiet before and after, and meanwhile what is wrong, when it is."""
    series = {series: values for side in sides for series, values in side.series().items()}
    labels = f'{{alertname="{ALERT}", alertstate="firing", reason="{reason}", severity="info"}}'
    firing = [{"labels": f"ALERTS{labels}", "value": 1}] if reason else []
    moments = {IDLE: [], END + STEP: []} | {
        at: firing * fires
        for at, fires in zip((FIRST_SECONDS, LAST_SECONDS, LINGER_SECONDS), when, strict=True)
    }
    told = {
        "eval_time": f"{LAST_SECONDS}s",
        "alertname": ALERT,
        "exp_alerts": [
            {
                "exp_labels": {"severity": "info", "reason": reason},
                "exp_annotations": {"summary": SAYS, "description": TELLS, "runbook_url": LEADS},
            }
        ],
    }
    return {
        "alert_rule_test": [told] if when == THEN_TOO else [],
        "name": name,
        "interval": f"{STEP}s",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {"expr": FIRING, "eval_time": f"{at}s", "exp_samples": samples}
            for at, samples in moments.items()
        ],
    }
