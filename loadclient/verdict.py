"""Judges the evidence of a run: the figures, and every reason not to believe them. Pure."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from loadclient import server
from loadclient.histogram import Histogram
from loadclient.ledger import (
    REFUSALS,
    Account,
    Churned,
    Closed,
    Deliveries,
    Profile,
    Traffic,
    join_reasons,
    owed_to_churned,
    settle_deliveries,
)
from loadclient.merge import Part
from loadclient.payload import SAMPLE_BYTES, SEQUENCE_BYTES
from loadclient.protocol import Latencies, Snapshot
from loadclient.result import RunResult, judge, quantiles
from loadclient.stationarity import Windows, shift
from loadclient.totals import Rest, all_lag, merged_latencies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadclient.ledger import ServerSide
    from loadclient.options import Options
    from loadclient.result import Threshold
    from loadclient.runner import Evidence

LEAST_ACHIEVED = 0.99  # of the offered rate
LEAST_ON_TIME = 0.99  # of the offered messages, sent by us when they were due
BUSY_SHARE = 0.85  # of a core: above, the client's own work may show in the latencies
BACKLOGGED_SHARE = 0.5  # of a busy worker's readers, with bytes that it had not read
STEAL_SHARE = 0.05
PRESSED_SHARE = 0.2  # of the run's length, by the kernel's pressure stall information


class Verdict:
    """One run's result in the making."""

    def __init__(self, options: Options, evidence: Evidence) -> None:
        self._options = options
        self._evidence = evidence
        self._voices = voices = options.voices
        counted = evidence.drained is not None
        self._accounts: list[Account] = [
            account for worker in evidence.settled for account in worker.accounts
        ]
        self._latencies = (
            merged_latencies([worker.latencies for worker in evidence.settled])
            if counted and evidence.settled
            else Latencies(Histogram(), Histogram(), Histogram(), Histogram())
        )
        self._deliveries = (
            settle_deliveries(
                [*self._accounts, *_others(options, evidence)],
                evidence.prefix_bytes,
                voices,
                waited_seconds=(
                    evidence.drain_limit_seconds
                    if evidence.rest in {Rest.OVERDUE, Rest.MOVING}
                    else None
                ),
            )
            if counted
            else Deliveries()
        )
        self._counters: server.Counters | None = (
            evidence.after.since(evidence.before) if evidence.before and evidence.after else None
        )
        self._total = evidence.drained or Snapshot()
        self._sent_in_time = min(
            self._total.sent - sum(account.sent_late for account in self._accounts),
            evidence.stopped.sent if evidence.stopped else 0,
        )
        # What was due to connections that the server ended has no socket to be sent to.
        self._stranded_bytes = 0
        self._stranded = dict.fromkeys(Profile, 0)  # messages
        for account in self._accounts:
            if account.closed and account.sender is not None:
                size = voices.size(account.sender)
                octets = max(0, account.due * size - account.sent_bytes)
                self._stranded_bytes += octets
                self._stranded[account.profile] += -(-octets // size)

    def result(self) -> RunResult:
        """Return the finished record."""
        evidence, total, deliveries = self._evidence, self._total, self._deliveries
        elapsed = self._elapsed()
        drain = self._drain_seconds()
        reasons = list(dict.fromkeys(self._reasons()))
        span = elapsed + (drain or 0.0)
        return RunResult(
            run_id=evidence.run_id,
            mode=evidence.before.mode if evidence.before else "unknown",
            valid=not reasons,
            invalid_reasons=reasons,
            warnings=list(self._warnings()),
            interrupted=evidence.interrupted_in is not None,
            thresholds=list(self._thresholds()),
            phases=evidence.phases,
            messages_offered=total.offered,
            messages_sent=total.sent,
            bytes_sent=total.sent_bytes,
            bytes_unsent=total.unsent_bytes + self._stranded_bytes,
            elapsed_seconds=elapsed,
            offered_rate=self._offered_rate(),
            message_rate=self._achieved_rate(),
            bytes_per_second=self._achieved_rate() * self._voices.mean_bytes,
            saturated=self._is_saturated(),
            messages_expected=deliveries.expected,
            messages_received=deliveries.received,
            bytes_received=total.received_bytes,
            deliveries_per_second=deliveries.received / span if span else 0.0,
            delivery_ratio=self._delivery_ratio(),
            lost=sum(deliveries.lost.values()),
            lost_by_reason=deliveries.lost,
            duplicated=self._sum("duplicated"),
            reordered=self._sum("reordered"),
            damaged=self._sum("damaged"),
            verify=self._options.verify,
            drain_seconds=drain,
            latency_seconds=quantiles(self._latencies.corrected),
            latency_uncorrected_seconds=quantiles(self._latencies.uncorrected),
            latency_samples=self._latencies.corrected.count,
            latency_censored=self._censored(),
            latency_absent_because=self._latency_absent(),
            latency_windows_seconds=self._windows(),
            schedule_lag_seconds=quantiles(all_lag(self._latencies)),
            schedule_lag_own_seconds=quantiles(self._latencies.lag),
            connect_seconds=quantiles(evidence.connect_latency),
            connections=evidence.connections,
            connections_closed_by_server=self._closed(),
            part=self._part(),
            churn=self._churn(),
            client=self._client(),
            config=self._config(),
            environment=evidence.environment,
            server=self._server(),
            histograms=self._histograms(),
        )

    # Figures.

    def _elapsed(self) -> float:
        """Return how long the schedule ran, or would have run but for Ctrl-C."""
        schedule, ended_ns = self._evidence.schedule, self._evidence.ended_ns
        if schedule is None or not ended_ns:
            return 0.0
        return max(0, min(schedule.end_ns, ended_ns) - schedule.start_ns) / 1e9

    def _offered_rate(self) -> float:
        elapsed = self._elapsed()
        return (self._total.offered + self._total.overdue) / elapsed if elapsed else 0.0

    def _achieved_rate(self) -> float:
        """Return the rate of what was sent by the end of the schedule.

        All of it is sent in the end, by a drain that is long enough: that would call every input
        an achievement.
        """
        elapsed = self._elapsed()
        return self._sent_in_time / elapsed if elapsed else 0.0

    def _is_saturated(self) -> bool:
        return self._achieved_rate() < LEAST_ACHIEVED * self._offered_rate()

    def _drain_seconds(self) -> float | None:
        """Return how long after the last interval the last byte came."""
        if self._evidence.drained is None or not self._options.recv:
            return None
        return max(0.0, (self._total.last_received_ns - self._evidence.ended_ns) / 1e9)

    def _delivery_ratio(self) -> float | None:
        expected = self._deliveries.expected
        return self._deliveries.received / expected if expected else None

    def _sum(self, name: str) -> int:
        if self._evidence.drained is None:
            return 0
        return sum(getattr(worker, name) for worker in self._evidence.settled)

    def _censored(self) -> dict[str, float | None]:
        due = [
            worker.oldest_missing_due_ns
            for worker in self._evidence.settled
            if worker.oldest_missing_due_ns is not None
        ]
        age = (self._total.now_ns - min(due)) / 1e9 if due else None
        return {"samples": self._sum("marks_missing"), "oldest_age_seconds": age}

    def _latency_absent(self) -> str | None:
        if self._latencies.corrected.count:
            return None
        if not self._options.recv:
            return "receiving is off"
        if self._voices.sizes[0] < SAMPLE_BYTES:
            return f"a message of less than {SAMPLE_BYTES} bytes cannot carry its due time"
        return "no marked message arrived"

    def _windows(self) -> list[float | None]:
        """Return the mean latency of each stretch of the phase."""
        if self._evidence.drained is None or self._evidence.interrupted_in:
            return []
        return Windows.means([worker.windows for worker in self._evidence.settled])

    def _closed(self) -> dict[str, int]:
        return {
            how.value: sum(account.closed is how for account in self._accounts) for how in Closed
        }

    def _client(self) -> dict[str, Any]:
        """Return our own cost, so that nobody takes our limit for the server's."""
        cpu = [ns / 1e9 for ns in self._evidence.worker_cpu_ns]
        elapsed = self._elapsed()
        share = max(cpu, default=0.0) / elapsed if elapsed else None
        stopped = self._evidence.stopped
        return {
            "procs": self._options.procs,
            "cpu_seconds": sum(cpu),
            "busiest_cpu_share": share,
            "overdue_at_end": stopped.overdue if stopped and self._options.duration else 0,
            "marking_interval": self._evidence.interval,
        }

    def _config(self) -> dict[str, Any]:
        config = {"address": self._evidence.address, **asdict(self._options)}
        return {
            key: value if isinstance(value, (int, float, str, type(None))) else str(value)
            for key, value in config.items()
        }

    def _server(self) -> dict[str, Any] | None:
        before = self._evidence.before
        if before is None or self._counters is None:
            return None
        return {
            "mode": before.mode,
            "build": before.build,
            "config": before.config,
            "counters": self._counters,
            "gauges": self._evidence.after.gauges if self._evidence.after else {},
            "unread_bytes": self._evidence.unread_at_server,
        }

    def _histograms(self) -> dict[str, Any]:
        return {
            "latency": self._latencies.corrected.as_json(),
            "latency_uncorrected": self._latencies.uncorrected.as_json(),
            "schedule_lag_own": self._latencies.lag.as_json(),
            "schedule_lag_blocked": self._latencies.lag_blocked.as_json(),
            "connect": self._evidence.connect_latency.as_json(),
        }

    # Doubts.

    def _reasons(self) -> Iterator[str]:
        evidence = self._evidence
        if evidence.interrupted_in:
            yield f"interrupted during {evidence.interrupted_in}"
        if evidence.no_evidence:
            yield evidence.no_evidence
        if evidence.drained is None:
            return
        yield from self._server_reasons()
        yield from self._delivery_reasons()
        yield from self._own_reasons()

    def _server_reasons(self) -> Iterator[str]:
        evidence = self._evidence
        lost = [a for a in self._accounts if a.closed and a.profile is Profile.READER]
        if lost:
            reset = sum(account.closed is Closed.RESET for account in lost)
            yield (
                f"{len(lost)} of {evidence.connections} connections were ended by the server "
                f"({reset} reset, {len(lost) - reset} closed){self._farewell()}"
            )
        if evidence.server_failure:
            yield evidence.server_failure
        if not self._options.recv and self._counters is None:
            yield (
                "receiving was off and the server's counters were not joined: "
                "nothing shows that the server processed anything"
            )
        if evidence.before and evidence.after and evidence.after.restarted_after(evidence.before):
            yield "the server was restarted during the run"

    def _farewell(self) -> str:
        """Quote the server's last words, unless they were about refused messages."""
        notice = self._total.notice
        if not notice or any(words in notice for words in REFUSALS):
            return ""
        return f', saying "{notice}"'

    def _delivery_reasons(self) -> Iterator[str]:
        yield from self._deliveries.reasons
        if self._counters is not None and self._options.part is None:  # else the merge joins them
            side = self._server_side(self._counters)
            churn = (self._churned(), self._traffic()) if self._options.churn else None
            yield from join_reasons(side, self._accounts, self._deliveries, self._voices, churn)
        if self._total.unsent_bytes and not self._evidence.interrupted_in:
            yield (
                f"the server's side took no more: {self._unsent()} of "
                f"{self._total.offered} messages could not be sent within the drain time"
            )
        if stranded := self._stranded[Profile.READER]:
            yield (
                f"{stranded} of {self._total.offered} messages could not be sent, "
                f"because the server had ended their connections"
            )
        for name in ("duplicated", "reordered", "damaged"):
            if number := self._sum(name):
                yield f"{number} of the messages looked at were {name}"
        unannounced = self._sum("lost")
        refused = any(account.refused for account in self._accounts)  # numbers that nobody gets
        if unannounced and not refused and not any(self._deliveries.lost.values()):
            yield f"{unannounced} of the messages looked at never came, though the bytes add up"
        if self._evidence.rest is Rest.MOVING:
            yield "messages were still arriving when the drain time was over"

    def _unsent(self) -> int:
        """Return how many messages a full socket kept back; of a mix, about so many."""
        return ceil(self._total.unsent_bytes / self._voices.mean_bytes)

    def _server_side(self, counters: server.Counters) -> ServerSide:
        side = server.side(counters, self._evidence.unread_at_server)
        first, after = self._evidence.first, self._evidence.after
        if first is None or after is None:
            return side
        return replace(side, evicted=server.side(after.since(first), None).evicted)  # warm-up's too

    def _part(self) -> dict[str, Any] | None:
        o = self._options
        clock, prefixes = self._evidence.clock, self._evidence.prefix_bytes
        if clock is None or o.start_at is None:
            return None
        return Part(o.number, o.parts, o.start_at, clock, prefixes, self._accounts).as_json()

    def _churned(self) -> Churned:
        return sum((worker.churned for worker in self._evidence.settled), Churned())

    def _traffic(self) -> Traffic:
        """Return what there was to hear for those who came and went.

        Owing lags behind sending by no more than the slowest message took, as far as samples show
        it: one more message than the slowest sampled may have come between two samples.
        """
        schedule, rate = self._evidence.schedule, self._offered_rate()
        slowest_ns = self._latencies.corrected.percentile(1.0)
        slack = None
        if schedule is not None and slowest_ns is not None and rate:
            between = max(schedule.interval_ns / 1e9, self._evidence.interval / rate)
            slack = slowest_ns / 1e9 + between
        return Traffic(self._total.offered, rate, self._options.speakers, slack)

    def _churn(self) -> dict[str, Any] | None:
        """Return the account of those who came and went; what they left is the server's word."""
        if not self._options.churn or self._evidence.drained is None:
            return None
        churned = self._churned()
        known = asdict(churned)
        if self._counters is None:
            return known
        side = self._server_side(self._counters)
        owed = owed_to_churned(side, self._accounts, self._voices)
        return known | {
            "owed": owed,
            "owed_at_most": self._traffic().most_owed(churned),
            "left_behind": owed - churned.received - churned.announced,
        }

    def _own_reasons(self) -> Iterator[str]:
        schedule, stopped = self._evidence.schedule, self._evidence.stopped
        if schedule is None or stopped is None:
            return
        p99 = self._latencies.lag.percentile(0.99) or 0
        if p99 > schedule.interval_ns:
            yield (
                f"the client itself was the bottleneck: 1 % of its sends were more than "
                f"{p99 / 1e6:.1f} ms late though their sockets had room, and the interval is "
                f"{schedule.interval_ns / 1e6:.1f} ms"
            )
        yield from self._backlog_reasons()
        if self._evidence.interrupted_in or not self._options.duration:
            return  # the schedule did not end, it was cut
        own = self._options.own_senders  # of a mix, each has its own number of messages
        messages = sum(self._voices.messages(number, schedule.rounds) for number in own)
        on_time = messages - stopped.overdue
        if on_time < LEAST_ON_TIME * messages:
            yield (
                f"the client itself was the bottleneck: when the schedule ended it had come to "
                f"{on_time} of {messages} messages"
            )

    def _backlog_reasons(self) -> Iterator[str]:
        """Say which workers could not keep up with reading: what waits with us is not slow there.

        Being busy alone proves nothing, nor do bytes that have just come; both together do.
        """
        elapsed = self._elapsed()
        cpu = self._evidence.worker_cpu_ns
        for worker, cpu_ns in zip(self._evidence.settled, cpu, strict=True):
            looks = sum(account.looks for account in worker.accounts)
            share = cpu_ns / 1e9 / elapsed if elapsed else 0.0
            unread = sum(account.unread_looks for account in worker.accounts)
            if share <= BUSY_SHARE or not looks or unread < BACKLOGGED_SHARE * looks:
                continue
            times = max(account.looks for account in worker.accounts)
            waiting = sum(account.unread_look_bytes for account in worker.accounts) / times
            yield (
                f"the client itself was the bottleneck: a worker used {share:.0%} of a core, and "
                f"whenever it was looked at {unread / looks:.0%} of its connections had bytes that "
                f"it had not read ({waiting / 1e6:,.1f} MB in all): the latencies are its own"
            )

    def _warnings(self) -> Iterator[str]:
        if self._is_saturated():
            yield (
                f"saturated: achieved {self._achieved_rate():,.1f} of "
                f"{self._offered_rate():,.1f} messages/s offered"
            )
        if stranded := sum(self._stranded.values()) - self._stranded[Profile.READER]:
            yield (
                f"{stranded} messages of slow and never-readers "
                f"could not be sent, because the server had ended their connections"
            )
        share = self._client()["busiest_cpu_share"]
        if share is not None and share > BUSY_SHARE:
            yield (
                f"a worker of the client used {share:.0%} of a core: its own work may show in "
                f"the latencies (more --procs, or less load)"
            )
        steal = self._evidence.environment.get("steal_share")
        if isinstance(steal, float) and steal > STEAL_SHARE:
            yield f"the hypervisor took {steal:.0%} of the processors' time"
        pressure = self._evidence.environment.get("cpu_pressure_seconds")
        elapsed = self._elapsed()
        if isinstance(pressure, float) and elapsed and pressure > PRESSED_SHARE * elapsed:
            yield f"the machine is too busy: for {pressure:.1f} s some task waited for a processor"
        if sentence := not_stationary(self._windows()):
            yield sentence
        if self._options.recv and (shortest := self._voices.sizes[0]) < SAMPLE_BYTES:
            yield (
                f"no latency: a message of {shortest} bytes cannot carry its due time, "
                f"{SAMPLE_BYTES} or more can"
            )
            if shortest < SEQUENCE_BYTES:
                yield (
                    f"no message was looked at: one of {shortest} bytes cannot carry its number, "
                    f"{SEQUENCE_BYTES} or more can; what was delivered is counted by bytes"
                )
        censored = self._censored()["samples"]
        if censored:
            yield f"{censored} latency samples had not arrived at the end: they have only an age"

    def _thresholds(self) -> Iterator[Threshold]:
        latency = quantiles(self._latencies.corrected)
        for name in ("max_p99", "min_delivery_ratio"):
            limit = getattr(self._options, name)
            if limit is not None:
                yield judge(name, limit, latency, self._delivery_ratio())


def _others(options: Options, evidence: Evidence) -> list[Account]:
    """Return the senders of other parts as if they had sent what they were to send.

    A part cannot know better; `loadclient merge` does.
    """
    if evidence.schedule is None:
        return []
    sent_bytes = evidence.schedule.rounds * options.msg_bytes
    return [
        Account(profile=Profile.NEVER, sender=number, sent_bytes=sent_bytes)
        for number in range(options.all_speakers)
        if number not in options.own_senders
    ]


def not_stationary(windows: Sequence[float | None]) -> str:
    """Return a sentence if the server was not in the same state throughout."""
    ratio = shift(windows)
    if ratio is None:
        return ""
    return (
        f"not stationary: latency in the second half of the phase was {ratio:.2g} times that in "
        "the first, so its figures describe no one state"
    )
