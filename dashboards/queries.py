"""PromQL: every expression of the boards is put together here, out of a few forms. Text only.

Rule 1: an expression yields a number or nothing, never NaN: a quotient leaves out divisors of
nought (`over`), and a quantile of nothing is left out (`quantile`).

Rule 2: no literal `le` is ever selected. What an exporter writes as ``le="1"`` is stored as "1" by
Prometheus 2 and as "1.0" by Prometheus 3.

A *side* of a comparison is a mode (``et``) or one run's ``run_id``. The client's series carry both;
the daemon's and the probe's carry the mode alone. A run is therefore looked up twice: as a mode,
and, if no series has that mode, as the time during which the client says that the run is in its
measured phase (`Side.rate`, `Side.total`). Two runs at different times can be compared that way.
What a mode spent is bounded by the same phase where a client says when it was: else the calls and
the CPU time of an idle daemon would pull every ratio towards 1. It is told by differences there, as
a rate knows no bounds: it takes in what was before and after (`Side.total`).
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = "$__rate_interval"
RANGE = "$__range"
STEP = "$__interval"
# A run lasts a minute, Grafana's step over a day is longer. It takes scrapes every 10 s at least.
RUN_RATE, RUN_STEP = "20s", "5s"
# Seconds between two looks at a run's counters. With scrapes no further apart than that, nothing
# from outside the measured phase is taken in; else at most what is between two scrapes.
PACE = 2

DAEMON = 'job=~"$job", instance=~"$instance"'
PROBE = 'job=~"$probe_job", instance=~"$probe_instance"'
CLIENT = 'job=~"$client_job"'
PROBES = "etlt_probe_collect_seconds"  # every probe has this series, whatever it watches
RUNS = f'{CLIENT}, run_id=~"$run"'

OFFERED_TOLERANCE = 0.02  # of the ratio of offered loads: beyond it the work was not the same
WITNESS_TOLERANCE = 0.05  # of probe count over daemon count, scraped at different moments
WHOLE_DELIVERY = 0.999  # least share of the copies owed that must have arrived
WHOLE_SCRAPES = 0.95  # least share of the scrapes that must have worked


def over(numerator: str, denominator: str) -> str:
    """Return the quotient where there is something to divide by."""
    return f"{numerator} / ({denominator} > 0)"


def of_daemons(metric: str) -> str:
    """Return the series of a *metric* of the daemons that were chosen, without its ``etltd_``.

    It may bring matchers of its own.
    """
    return _with(f"etltd_{metric}", DAEMON)


def gauge(metric: str, by: str) -> str:
    """Return a gauge of the daemons that were chosen, summed *by* labels."""
    return f"sum by ({by}) ({of_daemons(metric)})"


def rate(series: str, by: str = "", window: str = RATE) -> str:
    """Return the rate per second of a counter, summed *by* labels."""
    return f"sum{_by(by)}(rate({series}[{window}]))"


def mean_run_seconds(matchers: str) -> str:
    """Return the mean time of the probe's programs, as far as the kernel was asked to measure it.

    That is for one second in thirty, so a rate would mostly be of nothing; but the counters begin
    at nought with the probe, so the quotient of the totals is a mean.
    """
    seconds, runs = (
        f"sum by (program) (max_over_time(etlt_probe_bpf_{name}_total{{{matchers}}}[{RANGE}]))"
        for name in ("run_seconds", "runs")
    )
    return over(seconds, runs)


def quantile(q: float, series: str, by: str = "") -> str:
    """Return a quantile of a histogram, given its `_bucket` series, by the recent rate."""
    labels = f"{by}, le" if by else "le"
    value = f"histogram_quantile({q}, sum by ({labels}) (rate({series}[{RATE}])))"
    return f"{value} >= 0"


def mean(histogram: str, matchers: str, by: str = "") -> str:
    """Return the mean of what a histogram counted recently; *histogram* without suffix."""
    total = rate(f"{histogram}_sum{{{matchers}}}", by)
    return over(total, rate(f"{histogram}_count{{{matchers}}}", by))


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the value of a variable that holds a mode or a run_id."""

    variable: str

    @property
    def name(self) -> str:
        """Return the variable as it is written in a legend."""
        return f"${self.variable}"

    def rate(self, metric: str, matchers: str = DAEMON, by: str = "") -> str:
        """Return the rate of a counter of the daemon or the probe."""
        labels = f"mode, {by}" if by else "mode"
        as_run = f"{rate(_with(metric, matchers), labels)}{self._while_measured(by)}"
        return f"{rate(self._of_mode(metric, matchers), by)} or sum{_by(by)}({as_run})"

    def total(self, metric: str, matchers: str = DAEMON, by: str = "") -> str:
        """Return how much a counter of the daemon rose while the side was measured.

        That is most of the phase, the same of all counters that are scraped together: good for
        quotients of two totals of one side, which is what it is for. Without a client, a mode's is
        what it rose by in the range.
        """
        measured = self._risen_while_measured(metric, matchers, by)
        as_mode = f"sum{_by(by)}(increase({self._of_mode(metric, matchers)}[{RANGE}]))"
        if by:  # a kind that was not there while it was measured is of another unit
            as_mode = f"({as_mode} unless on () {measured})"
        return f"({measured} or {as_mode})"

    def client_rate(self, metric: str) -> str:
        """Return the rate of a counter of the client."""
        return f"{rate(self._of_mode(metric, CLIENT))} or {rate(self._of_run(metric))}"

    def client_total(self, metric: str) -> str:
        """Return a counter of the client at the end of its run, summed over the runs in the range.

        A run's counters begin at nought and end with the process: their highest value is exact,
        while `increase` extrapolates. Of a gauge it is the most there was.
        """
        as_mode = f"sum(max_over_time({self._of_mode(metric, CLIENT)}[{RANGE}]))"
        as_run = f"sum(max_over_time({self._of_run(metric)}[{RANGE}]))"
        return f"({as_mode} or {as_run})"

    def message_bytes(self) -> str:
        """Return the mean size of the messages that the client sent, in the range."""
        return over(
            self.client_total("etlt_load_sent_bytes_total"),
            self.client_total("etlt_load_messages_sent_total"),
        )

    def client_quantile(self, q: float, histogram: str) -> str:
        """Return a quantile of a histogram of the client, by the recent rate."""
        bucket = f"{histogram}_bucket"
        return (
            f"{quantile(q, self._of_mode(bucket, CLIENT))} or {quantile(q, self._of_run(bucket))}"
        )

    def client_total_quantile(self, q: float, histogram: str) -> str:
        """Return a quantile of a histogram of the client over the runs in the range."""
        bucket = f"{histogram}_bucket"
        found = [
            f"histogram_quantile({q}, sum by (le) (max_over_time({series}[{RANGE}]))) >= 0"
            for series in (self._of_mode(bucket, CLIENT), self._of_run(bucket))
        ]
        return f"({' or '.join(found)})"

    def quantile(self, q: float, histogram: str) -> str:
        """Return a quantile of a histogram of the daemon, by the recent rate."""
        bucket = f"{histogram}_bucket"
        as_run = f"{rate(f'{bucket}{{{DAEMON}}}', 'mode, le')}{self._while_measured('le')}"
        return (
            f"{quantile(q, self._of_mode(bucket, DAEMON))} or "
            f"histogram_quantile({q}, sum by (le) ({as_run})) >= 0"
        )

    def per_delivered(self, metric: str, by: str = "") -> str:
        """Return what a delivered copy cost in *metric*, over the range."""
        spent, delivered = self.total(metric, by=by), self.total("etltd_messages_delivered_total")
        join = "on () group_left () " if by else ""
        return f"{spent} / {join}({delivered} > 0)"

    def recent_mean(self, histogram: str, matchers: str = DAEMON) -> str:
        """Return the mean of what a histogram counted recently."""
        return over(
            f"({self.rate(f'{histogram}_sum', matchers)})",
            f"({self.rate(f'{histogram}_count', matchers)})",
        )

    def delivery_ratio(self) -> str:
        """Return the share of the copies owed that the client received."""
        received = self.client_total("etlt_load_messages_received_total")
        return over(
            received, f"({received} + {self.client_total('etlt_load_messages_lost_total')})"
        )

    def witness_ratio(self) -> str:
        """Return the probes' count of epoll waits over the daemons'.

        Both are summed over all instances that the board's reader chose: the probes must be those
        of the daemons' hosts, and watch no other daemon of the mode.

        The two are scraped at different moments, so `increase` would extrapolate them by different
        factors, five per cent apart with twenty samples; rates at common moments have no such bias.
        """
        by_probe = self._sampled("etlt_probe_epoll_waits_total", PROBE)
        return over(by_probe, self._sampled("etltd_epoll_waits_total", DAEMON))

    def _sampled(self, metric: str, matchers: str) -> str:
        """Return the sum of the rates at each step of the range, in no unit.

        Of a run, while it was in its measured phase and for one window longer: then every moment of
        the phase is in as many windows as any other, and what is scraped a second later has risen
        by as much in the end.
        """
        as_mode = _at_each_step(rate(self._of_mode(metric, matchers)), STEP)
        phase = f"max_over_time({self._measured('run_id')}[{RUN_RATE}])"
        as_run = f"{rate(_with(metric, matchers), 'mode', RUN_RATE)}{_where(f'{phase} == 1')}"
        return f"({as_mode} or sum({_at_each_step(as_run, RUN_STEP)}))"

    def _risen_while_measured(self, metric: str, matchers: str, by: str) -> str:
        """Return by how much a counter rose between looks that are well within the phase.

        A sample is up to one scrape older than a look. So it is counted up to a pace ago, if the
        client says now that it measures, and said so a pace before the counted time began, too.
        """
        series = _with(metric, matchers)
        risen = f"({series} offset {PACE}s - {series} offset {2 * PACE}s) >= 0"  # else: a restart
        phases = (
            f"({phase} == 1 and {phase} offset {3 * PACE}s == 1)"
            for phase in map(self._measured, ("mode", "run_id"))
        )
        labels = f"mode, {by}" if by else "mode"
        while_measured = _where(" or ".join(phases), by)
        expression = f"sum by ({labels}) ({risen}){while_measured}"
        return f"sum{_by(by)}({_at_each_step(expression, f'{PACE}s')})"

    def _of_mode(self, metric: str, matchers: str) -> str:
        return _with(metric, f'{matchers}, mode="{self.name}"')

    def _of_run(self, metric: str) -> str:
        return _with(metric, f'{CLIENT}, run_id="{self.name}"')

    def _while_measured(self, by: str = "") -> str:
        """Return a factor of 1, by mode, while the run of this name is in its measured phase."""
        return _where(f"{self._measured('run_id')} == 1", by)

    def _measured(self, label: str) -> str:
        """Return a series of the client: whether a run is in its measured phase."""
        return f'etlt_load_phase{{{CLIENT}, {label}="{self.name}", phase="measure"}}'


def _where(condition: str, by: str = "") -> str:
    """Return a factor of 1, by mode, where a mode's *condition* holds; *by* what else there is."""
    join = "* on (mode) group_left ()" if by else "* on (mode)"
    return f" {join} max by (mode) ({condition})"


def _at_each_step(expression: str, step: str) -> str:
    return f"sum_over_time(({expression})[{RANGE}:{step}])"


def _with(metric: str, matchers: str) -> str:
    """Return a selector; *metric* may bring matchers of its own: ``name{a="b"}``."""
    name, brace, own = metric.partition("{")
    return f"{name}{{{own.rstrip('}')}, {matchers}}}" if brace else f"{name}{{{matchers}}}"


LEFT, RIGHT = Side("left"), Side("right")


def right_over_left(left: str, right: str) -> str:
    """Return the ratio: below 1, the right side needs less."""
    return over(f"({right})", f"({left})")


def restarted() -> str:
    """Return the start of each daemon that has lately been seen with another one than before.

    `changes` would need samples of both within its window, and a restart may take longer.
    """
    started = f"etltd_start_time_seconds{{{DAEMON}}}"
    return f"{started} != last_over_time({started}[1h] offset {RATE})"


def of_targets(expression: str, metric: str, matchers: str) -> str:
    """Return *expression*, of series that Prometheus makes itself, for the targets of *metric*.

    All jobs are ``.+``, and these series every target has. A target that is down counts while it
    was up at some time in the range.
    """
    here = f"last_over_time({metric}{{{matchers}}}[{RANGE}])"
    return f"{expression} and on (job, instance) {here}"


def scrapes(metric: str, matchers: str) -> str:
    """Return the lowest share of working scrapes in the range among the targets of *metric*."""
    return f"min({of_targets(f'avg_over_time(up{{{matchers}}}[{RANGE}])', metric, matchers)})"


def offered_ratios() -> dict[str, str]:
    """Return the right side's load over the left side's, by what it is made of.

    The messages alone do not do: half the connections at twice the rate, or ten times the size,
    are as many messages and another work.
    """
    return {
        "messages": _right_over_left_total("etlt_load_messages_offered_total"),
        "connections": _right_over_left_total("etlt_load_connections"),
        "bytes per message": right_over_left(LEFT.message_bytes(), RIGHT.message_bytes()),
    }


def _right_over_left_total(metric: str) -> str:
    return right_over_left(LEFT.client_total(metric), RIGHT.client_total(metric))


def is_comparable() -> str:
    """Return 1 if every gate holds, else 0; also 0 if a side is missing.

    Without any probe there is no second witness, which is shown beside it and does not fail it. One
    that sees a single side, or is not scraped, does. The client's scrapes are no gate: its totals
    are exact whenever they are scraped last, and without that the offered loads differ.
    """
    unless_probed = f" or (vector(1) unless on () last_over_time({PROBES}{{{PROBE}}}[{RANGE}]))"
    gates = (
        *(_within(ratio, OFFERED_TOLERANCE) for ratio in offered_ratios().values()),
        f"(({LEFT.delivery_ratio()}) >= bool {WHOLE_DELIVERY})",
        f"(({RIGHT.delivery_ratio()}) >= bool {WHOLE_DELIVERY})",
        f"({scrapes('etltd_build_info', DAEMON)} >= bool {WHOLE_SCRAPES})",
        f"({_within(LEFT.witness_ratio(), WITNESS_TOLERANCE)}{unless_probed})",
        f"({_within(RIGHT.witness_ratio(), WITNESS_TOLERANCE)}{unless_probed})",
        f"(({scrapes(PROBES, PROBE)} >= bool {WHOLE_SCRAPES}){unless_probed})",
    )
    return f"({' * '.join(gates)}) or vector(0)"


def _within(ratio: str, tolerance: float) -> str:
    return f"(abs({ratio} - 1) <= bool {tolerance})"
