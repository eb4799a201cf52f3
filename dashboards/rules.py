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
    from collections.abc import Iterator, Sequence

RUNBOOK = "dashboards/RUNBOOK.md"
NEAR_LIMIT = 0.9  # of a limit: what is left is time to act
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
        "mode:etlt_probe_waits_per_daemon_wait:ratio_rate1m",
        _by_mode('etlt_probe_epoll_waits_total{job="etlt-probe"}')
        + "\n/ ("
        + _by_mode('etltd_epoll_waits_total{job="etltd"}')
        + " > 0)",
    ),
)


def _invalid_because(reason: str, expr: str) -> str:
    return f'label_replace({expr}, "reason", "{reason}", "", "")'


_OFFERED = "mode:etlt_load_messages_offered:rate1m"
_COMPARISON_INVALID = "\nor ".join(
    (
        _invalid_because(
            "offered_load_differs",
            f'abs(1 - sum({_OFFERED}{{mode="et"}}) / (sum({_OFFERED}{{mode="lt"}}) > 0))'
            f" > {OFFERED_TOLERANCE}",
        ),
        _invalid_because("messages_lost", f"min(mode:etlt_load_delivery:ratio) < {WHOLE_DELIVERY}"),
        _invalid_because(
            "witnesses_disagree",
            "max(abs(1 - mode:etlt_probe_waits_per_daemon_wait:ratio_rate1m"
            f" and on (mode) {_OFFERED} > 0)) > {WITNESS_TOLERANCE}",
        ),
    )
)

ALERTS = (
    Alert(
        "EtltdDown",
        'up{job="etltd"} == 0 or absent(up{job="etltd"})',
        "1m",
        "critical",
        "etltd {{ $labels.instance }} cannot be scraped",
        "Prometheus has had no answer from {{ $labels.instance }} for a minute, or knows no target "
        "of the job etltd at all. Its clients may still be served: see whether the process lives.",
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
        '(sum by (mode) (rate(etlt_load_sent_bytes_total{job="loadclient"}[1m])) > 0)\n'
        "unless on (mode)\n"
        '(sum by (mode) (rate(etltd_received_bytes_total{job="etltd"}[1m])) > 0)',
        "30s",
        "critical",
        "Clients send to the {{ $labels.mode }} daemon, and it reads nothing",
        "The load client's bytes leave it at {{ $value | humanize }}B/s, and the daemon's count of "
        "bytes received stands still: they wait in its sockets. In mode et this is how a lost edge "
        "looks.",
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
        _COMPARISON_INVALID,
        "2m",
        "info",
        "ET and LT are not comparable now: {{ $labels.reason }}",
        "The two modes are offered different loads, messages are lost, or the kernel's count of "
        'epoll waits is not the daemon\'s ({{ $value | printf "%.3g" }}). A difference between the '
        "modes that is seen meanwhile shows nothing.",
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
