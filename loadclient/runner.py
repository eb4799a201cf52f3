"""One run: connect, hello, warm up, measure, drain, settle.

Rule: the parent carries no load. It decides when phases begin and end, and asks.

The warm-up is sent *and drained* before anything is counted, so the measured phase begins at rest:
its ledger is exact, and the server's counters, read at the two moments of rest, differ by exactly
this phase. The price is that a run measures a load that starts from nothing, once.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

from loadclient import queues, server
from loadclient.addresses import first_answering
from loadclient.clocks import Clock, this_clock, time_of_day_ns
from loadclient.crew import Crew
from loadclient.environment import Contention, describe
from loadclient.hello import Echo, exchange, exchange_with_others
from loadclient.histogram import Histogram, merged
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.pacing import Schedule, marking_interval
from loadclient.payload import Payloads
from loadclient.protocol import (
    Begin,
    Connect,
    Connected,
    Look,
    Plan,
    Settle,
    Settled,
    Snapshot,
    StopSending,
)
from loadclient.totals import Frames, Rest, combined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.options import Options

LEAD_NS = 100_000_000  # from deciding on a phase to its first message: every worker knows by then
LOOK_NS = 1_000_000_000
SLICE_SECONDS = 0.05  # longest sleep between two looks at the signals
REST_SECONDS = 0.06  # two equal readings, at least 50 ms apart, are rest
STALL_SECONDS = 2.0  # owed bytes that do not move for so long: ask a witness whether they will
SETTLE_SECONDS = 2e-6  # of patience for each pair of sender and receiver: a tenth of it is usual
ACCEPT_SECONDS = 5.0
QUIET_SECONDS = 2.0  # before the start of a run in parts: nobody says hello any more
INTERRUPTED_DRAIN_SECONDS = 2.0


class CannotRunError(Exception):
    """The run did not begin: nobody answers at the address, or there is no such address."""


class NoEvidenceError(Exception):
    """The server took the connections but shows no sign of work; the message is the reason."""


class Observer(Protocol):
    """Somebody who watches a run: the live line, the metrics endpoint."""

    def begin(self, run_id: str) -> None:
        """Take note of the run's name."""

    def enter(self, phase: str, seconds: float | None) -> None:
        """Take note that *phase* begins; it should last *seconds*, if that is known."""

    def look(self, total: Snapshot, frames: Frames) -> None:
        """Take note of the totals so far."""


@dataclass
class Evidence:
    """Everything that a run found out, for `verdict` to judge."""

    run_id: str
    address: str = ""
    interrupted_in: str | None = None
    no_evidence: str | None = None
    rest: Rest = Rest.COMPLETE
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    schedule: Schedule | None = None
    interval: int = 0
    prefix_bytes: dict[int, int] = field(default_factory=dict)
    connections: int = 0
    connect_latency: Histogram = field(default_factory=Histogram)
    snapshots: list[tuple[float, Snapshot]] = field(default_factory=list)  # unix time, totals
    stopped: Snapshot | None = None  # the moment the schedule ended
    drained: Snapshot | None = None
    worker_cpu_ns: list[int] = field(default_factory=list)
    ended_ns: int = 0
    drain_limit_seconds: float = 0.0
    settled: list[Settled] = field(default_factory=list)
    unread_at_server: int | None = None
    first: server.Reading | None = None  # before the warm-up
    before: server.Reading | None = None
    after: server.Reading | None = None
    server_failure: str | None = None
    environment: dict[str, object] = field(default_factory=dict)
    clock: Clock | None = None  # of this host, if that matters to others


class Run:
    """One run against one address."""

    def __init__(
        self, options: Options, address: tuple[str, int] | str, observers: list[Observer]
    ) -> None:
        self._options = options
        self._address = address
        self._observers = observers
        self._interrupts = Interrupts()
        self._phase = "start"
        self._contention = Contention.now()
        self._voices = options.voices
        self._frames = Frames.of({}, self._voices)
        run_id = options.run_id or f"{time.time():.0f}-{os.getpid()}"
        self.evidence = Evidence(run_id, spell(address))
        self._clock_ns = 0
        if options.part:
            self._clock_ns, self.evidence.clock = time_of_day_ns(), this_clock()

    def execute(self) -> Evidence:
        """Go through all phases and return what was found out.

        Raises CannotRunError, WorkerDiedError, ServerUnreadableError, KeyboardInterrupt.
        """
        evidence = self.evidence
        for observer in self._observers:
            observer.begin(evidence.run_id)
        with self._interrupts, Crew(self._options.procs, between=self._heed) as crew:
            try:
                self._load(crew)
            except InterruptedRunError:
                evidence.interrupted_in = self._phase
                if self._phase in {"measure", "drain"}:
                    self._drain(crew, cut=True, seconds=INTERRUPTED_DRAIN_SECONDS)
            except NoEvidenceError as error:
                evidence.no_evidence = str(error)
            if self._phase not in {"start", "connect"}:
                self._settle(crew)
        self._leave()
        evidence.environment = describe(self._contention)
        return evidence

    def _load(self, crew: Crew) -> None:
        self._connect(crew)
        self._hello(crew)
        self.evidence.first = self.evidence.before = self._read_server(0)
        if self._options.warmup and self._options.part is None:
            self._warm_up(crew)
        self._measure(crew)

    # Phases, in order.

    def _connect(self, crew: Crew) -> None:
        options = self._options
        if options.server_metrics:
            server.read(options.server_metrics)  # fail now rather than after the load
        self._enter("connect", None)
        plans = list(self._plans())
        questions = [Connect(plan, options.connect_timeout) for plan in plans]
        answers = crew.ask_each(questions, Connected, options.connect_timeout)
        self.evidence.connections = sum(answer.connections for answer in answers)
        self.evidence.connect_latency = merged([answer.latency for answer in answers])
        for answer in answers:
            if answer.failure is not None:
                raise CannotRunError(
                    f"cannot connect to {spell(self._address)}: {answer.failure} "
                    f"({self.evidence.connections} of {options.conns} connections were opened)"
                )

    def _plans(self) -> Iterator[Plan]:
        o = self._options
        places = o.places()
        if Payloads(self._voices).has_samples and o.recv:
            self.evidence.interval = marking_interval(
                rate=float(self._voices.messages_per_second / o.all_speakers),
                senders=o.all_speakers,
                receivers=o.readers,
            )
        for worker in range(o.procs):
            yield Plan(
                address=self._address,
                places=tuple(places[worker :: o.procs]),
                voices=self._voices,
                marking_interval=self.evidence.interval,
                verify_full=o.verify == "full",
                connect_rate=o.connect_rate / o.procs,
                slow_reader_rate=o.slow_reader_rate,
                sndbuf=o.sndbuf,
                rcvbuf=o.rcvbuf,
                clock_ns=self._clock_ns,
                churn=o.churn / o.procs,
            )

    def _hello(self, crew: Crew) -> None:
        """Learn each sender's prefix, and that the server knows every connection."""
        self._enter("hello", None)
        if not self._options.recv:
            self._await_accepted()
            return
        echo = self._exchange(crew)
        if not echo.complete and self._options.part and not echo.closed:
            raise NoEvidenceError(
                f"{QUIET_SECONDS:g} s before the start only {len(echo.prefix_bytes)} of "
                f"{echo.senders} senders of all parts had been heard: is every part there?"
            )
        if not echo.complete:
            unread = self._unread_at_server(crew.ask(Settle(), Settled))
            total = self._look(crew)
            raise NoEvidenceError(echo.why_not(self.evidence.connections, total, unread))
        self.evidence.prefix_bytes = echo.prefix_bytes
        self._frames = Frames.of(echo.prefix_bytes, self._voices)
        self._rest(crew, seconds=self._options.drain_timeout)

    def _exchange(self, crew: Crew) -> Echo:
        o = self._options
        if o.start_at is None:
            return exchange(crew, o.speakers, self._pause)
        until = o.start_at - QUIET_SECONDS
        if time.time() > until:
            raise NoEvidenceError("it was not connected in time for --start-at")
        return exchange_with_others(crew, o.own_senders, o.all_speakers, until, self._pause)

    def _await_accepted(self) -> None:
        """With receiving off, only the server can say that it accepted everybody."""
        url = self._options.server_metrics
        if url is None:
            return
        deadline = time.monotonic() + ACCEPT_SECONDS
        while server.read(url).gauges.get("connections", 0) < self._options.conns:
            if time.monotonic() > deadline:
                raise NoEvidenceError(
                    f"after {ACCEPT_SECONDS:g} s the server counts fewer than "
                    f"{self._options.conns} connections"
                )
            self._pause(SLICE_SECONDS)

    def _warm_up(self, crew: Crew) -> None:
        self._enter("warmup", self._options.warmup)
        self._follow(crew, self._schedule(self._options.warmup))
        crew.ask(StopSending(cut=False), Snapshot)
        rest = self._rest(crew, seconds=self._options.drain_timeout)
        total = self._look(crew)
        if rest is Rest.WITNESSED and total.closed_by_server:
            # What is missing is what they sent, and nothing of it is under way.
            rest = Rest.COMPLETE
        if rest is not Rest.COMPLETE:
            raise NoEvidenceError(self._why_no_rest(rest, total))
        self.evidence.before = self._read_server(total.sent)

    def _why_no_rest(self, rest: Rest, total: Snapshot) -> str:
        """Say why nothing can be measured after the warm-up: its rest would be taken for ours."""
        seconds = self._options.drain_timeout
        if rest is Rest.MOVING:
            return (
                f"{seconds:g} s after the warm-up the server was still delivering it: "
                f"the offered load is too much for it"
            )
        ended = ""
        if total.closed_by_server:
            ended = f"; {total.closed_by_server} connections were ended by the server"
        if total.unsent_bytes:
            return (
                f"{seconds:g} s after the warm-up {total.unsent_bytes} bytes of it were not sent: "
                f"the server's side took no more{ended}"
            )
        missing = round(self._frames.missing(total) / self._frames.mean)
        when = "was lost" if rest is Rest.WITNESSED else f"had not come {seconds:g} s after it"
        return (
            f"part of the warm-up {when} ({missing} copies), so a measured phase would not have "
            f"begun at rest{ended}"
        )

    def _measure(self, crew: Crew) -> None:
        self._enter("measure", self._options.duration or None)
        schedule = self.evidence.schedule = self._schedule(self._options.seconds)
        if schedule.start_ns < monotonic_ns():
            raise NoEvidenceError("it was not ready in time for --start-at")
        voices = self._voices
        others = (
            voices.messages(number, schedule.rounds) * (prefix + voices.size(number))
            for number, prefix in self.evidence.prefix_bytes.items()
            if number not in self._options.own_senders
        )
        self._frames = replace(self._frames, foreign_bytes=sum(others))
        try:
            self._follow(crew, self.evidence.schedule, counted=True)
        except InterruptedRunError:
            if self._options.duration:
                raise
            self._drain(crew, cut=True, seconds=self._options.drain_timeout)
        else:
            self._drain(crew, cut=False, seconds=self._options.drain_timeout)

    def _follow(self, crew: Crew, schedule: Schedule, *, counted: bool = False) -> None:
        """Let the workers follow *schedule* to its end, looking once a second."""
        crew.ask(Begin(schedule, self.evidence.prefix_bytes), Snapshot)
        next_look_ns = schedule.start_ns + LOOK_NS
        while (ahead_ns := schedule.end_ns - monotonic_ns()) > 0:
            self._pause(min(SLICE_SECONDS, ahead_ns / 1e9))
            if counted and monotonic_ns() >= next_look_ns:
                next_look_ns += LOOK_NS
                self._look(crew, histograms=True)

    def _drain(self, crew: Crew, *, cut: bool, seconds: float) -> None:
        evidence = self.evidence
        ended_ns = monotonic_ns()
        answers = crew.ask(StopSending(cut), Snapshot)
        if evidence.stopped is None:  # else the drain itself was interrupted, and begins anew
            evidence.ended_ns = ended_ns
            evidence.stopped = combined(answers)
            evidence.worker_cpu_ns = [answer.cpu_ns for answer in answers]
            self._enter("drain", None)
        evidence.drain_limit_seconds = seconds
        evidence.rest = self._rest(crew, seconds=seconds)
        evidence.drained = self._look(crew, histograms=True)
        try:
            evidence.after = self._read_server(evidence.drained.sent)
        except server.ServerUnreadableError as error:
            evidence.server_failure = str(error)

    def _rest(self, crew: Crew, *, seconds: float) -> Rest:
        """Wait until nothing moves and nothing is owed, or a witness says that no more will come.

        A server that stalls and a server that has lost something look alike from here. Only time
        tells them apart, or somebody who can see that there is nothing left to wait for.
        """
        deadline = time.monotonic() + seconds
        earlier = self._look(crew, tell=False)
        moved = asked = time.monotonic()
        while True:
            self._pause(REST_SECONDS)
            later = self._look(crew, tell=False)
            now = time.monotonic()
            rests = _progress(later) == _progress(earlier)
            if rests and self._frames.complete(later):
                return Rest.COMPLETE
            if rests and not later.connections:
                return Rest.WITNESSED
            if not rests:
                moved = asked = now
            elif now - asked > STALL_SECONDS:
                asked = now
                if self._nothing_will_come(later):
                    return Rest.WITNESSED
            if now > deadline:
                return Rest.OVERDUE if now - moved > REST_SECONDS else Rest.MOVING
            earlier = later

    def _nothing_will_come(self, total: Snapshot) -> bool:
        """Ask the server's own counters whether it has anything left to deliver.

        It has not if it processed everything, owes nobody and stands still. With receiving off and
        without its counters there is nothing to wait for: nothing will be said of it.
        """
        url, before = self._options.server_metrics, self.evidence.before
        if url is None or before is None:
            return not self._options.recv
        try:
            reading = server.read_at_rest(url, STALL_SECONDS)
        except server.ServerUnreadableError:
            return False
        owed = reading.gauges.get("outbox_bytes")
        # How much it read of what a connection sent that it ended is its secret.
        processed = reading.processed - before.processed >= total.sent
        return owed == 0 and (processed or total.closed_by_server > 0)

    def _settle(self, crew: Crew) -> None:
        self._enter("settle", None)
        evidence = self.evidence
        pairs = self._options.readers * self._options.speakers
        evidence.settled = crew.ask(Settle(), Settled, pairs * SETTLE_SECONDS)
        evidence.unread_at_server = self._unread_at_server(evidence.settled)

    # What every phase needs.

    def _enter(self, phase: str, seconds: float | None) -> None:
        self._leave()
        self._phase = phase
        self.evidence.phases[phase] = {"start": time.time()}
        for observer in self._observers:
            observer.enter(phase, seconds)

    def _leave(self) -> None:
        if self._phase in self.evidence.phases:
            self.evidence.phases[self._phase]["stop"] = time.time()

    def _schedule(self, seconds: float) -> Schedule:
        start_ns = monotonic_ns() + LEAD_NS
        if self._options.start_at is not None:
            start_ns = round(self._options.start_at * 1e9) - self._clock_ns
        return Schedule.lasting(
            seconds,
            start_ns=start_ns,
            burst=self._options.burst,
            voices=self._voices,
        )

    def _look(self, crew: Crew, *, histograms: bool = False, tell: bool = True) -> Snapshot:
        """Ask for the totals; with histograms they are kept for the time series."""
        total = combined(crew.ask(Look(histograms), Snapshot))
        if histograms:
            self.evidence.snapshots.append((time.time(), total))
        if tell:
            for observer in self._observers:
                observer.look(total, self._frames)
        return total

    def _heed(self) -> None:
        """Let Ctrl-C end the phase; settling is the end already, and its answers are the result."""
        if self._phase != "settle":
            self._interrupts.check()

    def _pause(self, seconds: float) -> None:
        self._heed()
        time.sleep(seconds)

    def _read_server(self, sent: int) -> server.Reading | None:
        """Read the server's counters once it has processed *sent* messages more than before."""
        url, before = self._options.server_metrics, self.evidence.before
        if url is None:
            return None
        processed = sent + (before.processed if before else 0)
        waited = self.evidence.rest is not Rest.COMPLETE  # then its time is over
        patience = STALL_SECONDS if waited else self._options.drain_timeout
        if self._options.churn:
            self._await_departures(url)
        return server.read_at_rest(url, patience, processed=processed)

    def _await_departures(self, url: str) -> None:
        """Wait until the server has seen that those who came are gone: it counts that, too."""
        deadline = time.monotonic() + self._options.drain_timeout
        while server.read(url).gauges.get("connections", 0) > self._options.conns:
            if time.monotonic() > deadline:
                return  # the ledger will say so
            self._pause(SLICE_SECONDS)

    def _unread_at_server(self, settled: list[Settled]) -> int | None:
        if isinstance(self._address, str):
            return None
        ports = [port for worker in settled for port in worker.ports]
        return queues.unread_at_server(self._address[1], ports)


def _progress(total: Snapshot) -> tuple[int, int, int]:
    """Return what grows while messages move."""
    return total.received_bytes, total.sent_bytes, total.closed_by_server


def resolve(host: str, port: int) -> tuple[str, int]:
    """Return the first stream address of *host* that answers; the first of all if none does.

    Raises CannotRunError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotRunError(f'cannot find the host "{host}": {reason}') from error
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    return first_answering(addresses, port), port


def spell(address: tuple[str, int] | str) -> str:
    """Return an address as people write it, and as a URL has it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
