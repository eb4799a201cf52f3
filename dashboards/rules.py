"""Recording rules and alerts, and the text of their files.

Names are ``level:metric:operation``; the level is the labels that are left. The jobs' names are
those of the README: ``etltd``, ``etlt-probe``, ``loadclient``. Divisors of nought are left out, so
a rule yields a number or nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.queries import OFFERED_TOLERANCE, WHOLE_DELIVERY, WITNESS_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

RUNBOOK = "dashboards/RUNBOOK.md"
LONGEST_LAG_SECONDS = 1  # a chat is no chat then; and more than hosts' clocks differ by
NEAR_LIMIT = 0.9  # of a limit: what is left is time to act
# A client tells its totals once a second: a rate over 30 s may be wrong by 3 % on either side.
LIVE_TOLERANCE = 0.1
ANSWERS = 0.7  # least share of scrapes: one that fails every other time is down, too
ONE_OUTAGE = 2  # changes: it went and came back; more of them within the window are flapping
UNREAD = 0.4  # of the bytes sent: all those of one daemon of two, which is half
STEADY_SECONDS = 30  # of both loads, before they are compared: many runs last a minute
HEAD = "# Made by `etlt-dashboards build`; edit dashboards/rules.py instead.\n"


@dataclass(frozen=True, slots=True)
class Recording:
    """A quantity that is asked for often."""

    record: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a human should look at, and what to do about it."""

    alert: str
    expr: str
    hold: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Return where it says what to do."""
        return f"{RUNBOOK}#{self.alert.lower()}"


def _by_mode(series: str) -> str:
    return f"sum by (mode) (rate({series}[1m]))"


def _per_delivered(series: str) -> str:
    delivered = _by_mode('etltd_messages_delivered_total{job="etltd"}')
    return f"{_by_mode(series)}\n/ ({delivered} > 0)"


_MISSED = 'etltd_bus_lost_messages_total{job="etltd"}'
_HEARD = 'etltd_bus_received_messages_total{job="etltd"}'

RECORDINGS = (
    Recording(
        "mode:etltd_messages_delivered:rate1m",
        _by_mode('etltd_messages_delivered_total{job="etltd"}'),
    ),
    Recording(
        "mode:etltd_wakeups_per_delivered:ratio_rate1m",
        _per_delivered('etltd_epoll_wakeups_total{job="etltd"}'),
    ),
    Recording(
        "mode:etltd_syscalls_per_delivered:ratio_rate1m",
        _per_delivered('etltd_syscalls_total{job="etltd"}'),
    ),
    Recording(
        "mode:etltd_cpu_seconds_per_delivered:ratio_rate1m",
        _per_delivered('etltd_cpu_seconds_total{job="etltd"}'),
    ),
    Recording(
        "mode:etltd_eagains_per_delivered:ratio_rate1m",
        _per_delivered('etltd_syscall_eagain_total{job="etltd", syscall!="accept4"}'),
    ),
    Recording(
        "mode:etltd_events_per_wakeup:ratio_rate1m",
        _by_mode('etltd_wakeup_events_sum{job="etltd"}')
        + "\n/ ("
        + _by_mode('etltd_wakeup_events_count{job="etltd"}')
        + " > 0)",
    ),
    Recording(
        "mode:etlt_load_messages_offered:rate1m",
        _by_mode('etlt_load_messages_offered_total{job="loadclient"}'),
    ),
    Recording(
        "mode:etlt_load_delivery_latency_seconds:p99_rate1m",
        "histogram_quantile(0.99, sum by (mode, le) (\n"
        '  rate(etlt_load_delivery_latency_seconds_bucket{job="loadclient"}[1m])\n'
        ")) >= 0",
    ),
    Recording(
        "mode:etlt_load_delivery:ratio",
        'sum by (mode) (etlt_load_messages_received_total{job="loadclient"})\n'
        '/ ((sum by (mode) (etlt_load_messages_received_total{job="loadclient"})\n'
        '  + sum by (mode) (etlt_load_messages_lost_total{job="loadclient"})) > 0)',
    ),
    Recording(
        f"mode:etlt_load_steady:last{STEADY_SECONDS}s",
        "max by (mode) (\n"
        '  (etlt_load_phase{job="loadclient", phase="measure"} == 1)\n'
        '  and (etlt_load_phase{job="loadclient", phase="measure"}'
        f" offset {STEADY_SECONDS}s == 1)\n"
        ")",
    ),
    Recording(
        "mode:etlt_probe_waits_per_daemon_wait:ratio_rate1m",
        _by_mode('etlt_probe_epoll_waits_total{job="etlt-probe"}')
        + "\n/ ("
        + _by_mode('etltd_epoll_waits_total{job="etltd"}')
        + " > 0)",
    ),
    Recording(
        "mode:etltd_bus_lag_seconds:p99_rate1m",
        "histogram_quantile(0.99, sum by (mode, le) (\n"
        '  rate(etltd_bus_lag_seconds_bucket{job="etltd"}[1m])\n'
        ")) >= 0",
    ),
    Recording(
        "mode:etltd_bus_missed:ratio_rate1m",
        f"{_by_mode(_MISSED)}\n/ (({_by_mode(_HEARD)}\n  + {_by_mode(_MISSED)}) > 0)",
    ),
)


_STEADY = f"mode:etlt_load_steady:last{STEADY_SECONDS}s"
_LOST = "mode:etlt_load_delivery:ratio"
_OFFERED = "etlt_load_messages_offered_total"


def _load(metric: str, mode: str) -> str:
    return f'{metric}{{job="loadclient", mode="{mode}"}}'


def _steady_rate(series: str) -> str:
    return f"rate({series}[{STEADY_SECONDS}s])"


def _differs(of: Callable[[str], str], tolerance: float = OFFERED_TOLERANCE) -> str:
    """Return by how much the ET side's load differs from the LT side's, if it does."""
    et, lt = of("et"), of("lt")
    return f"abs(1 - {et}\n    / ({lt} > 0)) > {tolerance}"


def _mean_bytes(mode: str) -> str:
    total, messages = (
        f"sum({_load(metric, mode)})"
        for metric in ("etlt_load_sent_bytes_total", "etlt_load_messages_sent_total")
    )
    return f"({total} / ({messages} > 0))"


def _both(series: str) -> str:
    """Return a condition: *series* are there for both modes."""
    return f"\n  and on () count({series}) == 2"


_SCRAPED = 'count by (mode) (etltd_build_info{job="etltd"})'
_PROBED = 'etlt_probe_target_up{job="etlt-probe"}'
_WATCHED = f"(sum by (mode) ({_PROBED}) or on (mode) 0 * {_SCRAPED})"  # a mode may have no series
_BY_PROBE = _steady_rate('etlt_probe_epoll_waits_total{job="etlt-probe"}')
_BY_DAEMON = _steady_rate('etltd_epoll_waits_total{job="etltd"}')

_OFFERED_LATELY = _differs(
    lambda mode: f"sum({_steady_rate(_load(_OFFERED, mode))})", LIVE_TOLERANCE
)
_OFFERED_AT_LAST = _differs(lambda mode: f"sum({_load(_OFFERED, mode)})")
_LINGERING = 'count by (mode) (etlt_load_phase{job="loadclient", phase="linger"} == 1)'

# Each by itself yields a number, for the alert's text, or nothing. Rates are compared when both
# loads have been steady for as long as the rates look back, so that what came before is in neither;
# totals are exact, and compared when both runs are over.
INVALID_BECAUSE = {
    "offered_load_differs": f"(({_OFFERED_LATELY}{_both(_STEADY)})\n"
    f"  or ({_OFFERED_AT_LAST}{_both(_LINGERING)}))",
    "connections_differ": _differs(lambda mode: f"sum({_load('etlt_load_connections', mode)})")
    + _both(_STEADY),
    "message_sizes_differ": _differs(_mean_bytes) + _both(_STEADY),
    "messages_lost": f"1 - min({_LOST}) > {1 - WHOLE_DELIVERY:.3g}" + _both(_LOST),
    "witnesses_disagree": f"max(abs(1 - sum by (mode) ({_BY_PROBE})"
    f"\n  / (sum by (mode) ({_BY_DAEMON}) > 0)"
    f"\n  and on (mode) ({_WATCHED} == on (mode) {_SCRAPED}))) > {WITNESS_TOLERANCE}"
    + _both(_STEADY),
    "other_processes_watched": f"max(abs({_WATCHED} - on (mode) {_SCRAPED})) > 0"
    f"\n  and on () count({_PROBED}) > 0" + _both(_STEADY),
}


def comparison_invalid(reasons: Iterable[str] = tuple(INVALID_BECAUSE)) -> str:
    """Return the expression of the alert for *reasons*."""
    return "\nor ".join(
        f'label_replace(\n  {INVALID_BECAUSE[reason]},\n  "reason", "{reason}", "", "")'
        for reason in reasons
    )


def _unanswered(job: str) -> str:
    """Return a condition: a target of *job* does not answer, or comes and goes.

    The share of answers alone would stay low for minutes after a slow start or an outage, and where
    the target was taken out of the configuration.
    """
    up = f'up{{job="{job}"}}'
    return (
        f"{up} == 0\nor (avg_over_time({up}[5m]) < {ANSWERS}\n"
        f"  and changes({up}[5m]) > {ONE_OUTAGE} and {up})"
    )


_RECEIVED = 'etltd_received_bytes_total{job="etltd"}'
# A client that was not told whom it loads says `unknown`.
_SENT = _by_mode('etlt_load_sent_bytes_total{job="loadclient", mode=~"et|lt"}')

ALERTS = (
    Alert(
        "EtltdDown",
        f'{_unanswered("etltd")}\nor absent(up{{job="etltd"}})',
        "1m",
        "critical",
        "etltd{{ with $labels.instance }} {{ . }}{{ end }} cannot be scraped",
        "For a minute Prometheus has had few answers or none from"
        ' {{ or $labels.instance "any daemon" }}, or knows no target of the job etltd at all. Its '
        "clients may still be served: see whether the process lives.",
    ),
    Alert(
        "EtltProbeDown",
        _unanswered("etlt-probe"),
        "1m",
        "warning",
        "etlt-probe {{ $labels.instance }} cannot be scraped",
        "For a minute Prometheus has had few answers or none from it. The daemons are not touched; "
        "the kernel's counts are missing, and no comparison is checked by them.",
    ),
    Alert(
        "EtltdLoopStalled",
        'rate(etltd_epoll_waits_total{job="etltd"}[1m]) == 0',
        "30s",
        "critical",
        "The loop of etltd {{ $labels.instance }} ({{ $labels.mode }}) does not tick",
        "A healthy loop calls epoll_wait at least once a second, even when idle; this one has not "
        "for more than a minute, while its scrape thread still answers. What its peers send waits "
        "unread.",
    ),
    Alert(
        "EtltdInputUnread",
        f"({_SENT}\n- on (mode)\n{_by_mode(_RECEIVED)})\n> on (mode) {UNREAD} * {_SENT}",
        "1m",  # a load has begun, and its daemon was not scraped since
        "critical",
        "Clients send to {{ $labels.mode }} daemons, and they do not read it",
        "{{ $value | humanize }}B/s of what the load client sends are not read: they wait in a "
        "daemon's sockets. In mode et this is how a lost edge looks.",
    ),
    Alert(
        "EtltdOutputStuck",
        '(min_over_time(etltd_outbox_bytes{job="etltd"}[1m]) > 0)\n'
        'and (rate(etltd_sent_bytes_total{job="etltd"}[1m]) == 0)',
        "30s",
        "warning",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) owes bytes and sends none",
        "At least {{ $value | humanize1024 }}B have waited in outboxes for more than a minute, and "
        "nothing was sent meanwhile: every peer that is owed bytes has stopped reading, or the "
        "loop was not told that it reads again.",
    ),
    Alert(
        "EtltdNotReady",
        'etltd_ready{job="etltd"} == 0',
        "1m",
        "warning",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) takes no new connections",
        "Its /readyz has said no for a minute: it is stopping, out of descriptors, or its loop "
        "does not tick. /readyz says which.",
    ),
    Alert(
        "EtltdSlowConsumersDropping",
        "sum by (instance, mode) (\n"
        '  rate(etltd_messages_dropped_total{job="etltd", reason=~"slow_consumer|evicted"}[5m])\n'
        ") > 0",
        "1m",
        "warning",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) drops messages for slow consumers",
        "{{ $value | humanize }} copies per second are withheld from peers that read more slowly "
        "than others write; each such peer is told how many it missed.",
    ),
    Alert(
        "EtltdConnectionsNearLimit",
        'etltd_connections{job="etltd"}'
        f' / (etltd_max_connections{{job="etltd"}} > 0) > {NEAR_LIMIT}',
        "2m",
        "warning",
        "etltd {{ $labels.instance }} has {{ $value | humanizePercentage }} of its connections",
        "At the limit new peers are told so and turned away.",
    ),
    Alert(
        "EtltdDescriptorsNearLimit",
        f'etltd_open_fds{{job="etltd"}} / (etltd_max_fds{{job="etltd"}} > 0) > {NEAR_LIMIT}',
        "2m",
        "warning",
        "etltd {{ $labels.instance }} uses {{ $value | humanizePercentage }} of its descriptors",
        "Without descriptors it pauses accepting, and new peers wait in the backlog.",
    ),
    Alert(
        "EtltdBusDown",
        'etltd_bus_connected{job="etltd"} == 0',
        "30s",
        "critical",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) has no way to NATS",
        "Its clients hear each other and nobody else. What they say waits for the bus until "
        "--bus-buffer-bytes are full; what is given up is announced to the others' clients.",
    ),
    Alert(
        "EtltdBusMissing",
        'sum by (instance, mode) (rate(etltd_bus_lost_messages_total{job="etltd"}[5m])) > 0',
        "30s",
        "warning",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) misses what other instances say",
        "{{ $value | humanize }} messages per second of other instances never came; each of its "
        "clients is told how many.",
    ),
    Alert(
        "EtltdBusLagging",
        "histogram_quantile(0.99, sum by (instance, mode, le) (\n"
        '  rate(etltd_bus_lag_seconds_bucket{job="etltd"}[1m])\n'
        f")) > {LONGEST_LAG_SECONDS}",
        "1m",
        "warning",
        "etltd {{ $labels.instance }} ({{ $labels.mode }}) hears the others late",
        "A hundredth of what other instances say comes after {{ $value | humanizeDuration }} or "
        "more, by two hosts' clocks.",
    ),
    Alert(
        "EtltdBusStrangers",
        "sum by (instance, mode) (\n"
        '  increase(etltd_bus_foreign_envelopes_total{job="etltd"}[5m])\n'
        ") > 0",
        "0s",
        "warning",
        "Somebody who is no etltd publishes on the bus of {{ $labels.instance }}",
        "{{ $value | humanize }} messages that came over the subject in five minutes are no "
        "envelopes of this version. Nobody hears them.",
    ),
    Alert(
        "EtltProbeLosingEvents",
        'sum by (instance) (increase(etlt_probe_missed_runs_total{job="etlt-probe"}[5m])) > 0\n'
        "or sum by (instance)"
        ' (increase(etlt_probe_untracked_calls_total{job="etlt-probe"}[5m])) > 0\n'
        'or sum by (instance) (etlt_probe_targets_unwatched{job="etlt-probe"}) > 0',
        "1m",
        "warning",
        "etlt-probe {{ $labels.instance }} counts too few events",
        "The kernel skipped its programs, its tables are full, or there are more matching "
        "processes than it has room for ({{ $value | humanize }}). What it exports is too low; "
        "believe the daemon's counts meanwhile.",
    ),
    Alert(
        "EtltComparisonInvalid",
        comparison_invalid(),
        "5s",
        "info",
        "ET and LT are not comparable now: {{ $labels.reason }}",
        "The two modes are offered different loads, messages are lost, or the kernel counts other "
        'epoll waits than the daemon (by how much: {{ $value | printf "%.3g" }}). A difference '
        "between the modes that is seen meanwhile shows nothing.",
    ),
)


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (name, expression) of every rule and alert."""
    for rule in RECORDINGS:
        yield rule.record, rule.expr
    for alert in ALERTS:
        yield alert.alert, alert.expr


def recording_text() -> str:
    """Return the text of ``recording.yaml``."""
    lines = [_group("etlt-recording")]
    for rule in RECORDINGS:
        lines += [f"      - record: {rule.record}\n", _expr(rule.expr)]
    return HEAD + "".join(lines)


def alerts_text() -> str:
    """Return the text of ``alerts.yaml``."""
    lines = [_group("etlt-alerts")]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.alert}\n",
            _expr(alert.expr),
            f"        for: {alert.hold}\n",
            *_mapping("labels", {"severity": alert.severity}),
            *_mapping(
                "annotations",
                {
                    "summary": alert.summary,
                    "description": alert.description,
                    "runbook_url": alert.runbook,
                },
            ),
        ]
    return HEAD + "".join(lines)


def _group(name: str) -> str:
    return f"groups:\n  - name: {name}\n    rules:\n"


def _expr(expr: str) -> str:
    """Return an expression as a block, so that it reads as it was written."""
    return "        expr: |-\n" + "".join(f"          {line}\n" for line in expr.splitlines())


def _mapping(key: str, values: dict[str, str]) -> Sequence[str]:
    """Return a mapping of strings; a string of JSON is one of YAML."""
    return [f"        {key}:\n", *(f"          {k}: {json.dumps(v)}\n" for k, v in values.items())]
