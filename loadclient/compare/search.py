"""`loadclient search`: the highest offered rate that a server delivers, all of it and in time."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from loadclient.compare.bisection import bisection
from loadclient.environment import Contention, describe
from loadclient.interrupts import Interrupts
from loadclient.options import File, Options, Url, UsageError, check, integer, real
from loadclient.report import duration, figure
from loadclient.session import perform, write_all, write_whole
from loadclient.streams import tell, unheard

if TYPE_CHECKING:
    from loadclient.compare.bisection import Bracket, Question
    from loadclient.result import RunResult

SCHEMA = "etlt.search/1"
EXIT_FOUND = 0
EXIT_NONE_HOLDS = 3
EXIT_INTERRUPTED = 130
DRAIN_SECONDS = 5.0
OURS = "the client itself was the bottleneck"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a rate must hold, and for how long."""

    max_p99: Annotated[float, real(0.001, 1e6)] = 100.0
    """Milliseconds that the 99th percentile of the latency may take."""
    lowest: Annotated[float, real(0.001, 100_000)] = 5.0
    """Messages per second of each sender to begin with."""
    highest: Annotated[float, real(0.001, 100_000)] = 5000.0
    """Messages per second of each sender to end at."""
    precision: Annotated[float, real(0.001, 1)] = 0.05
    """How far apart, as a share, the last rate that holds and the first that does not may be."""
    confirmations: Annotated[int, integer(1, 100)] = 3
    """How many times the answer must hold again."""
    conns: Annotated[int, integer(2, 100_000)] = 100
    """Connections."""
    senders: Annotated[int | None, integer(1, 100_000)] = None
    """Let only the first N connections send. Default: all of them."""
    msg_bytes: Annotated[int, integer(32, 1 << 20)] = 64
    """Length of every message, newline included."""
    burst: bool = True
    """All senders at once each interval; --no-burst staggers them evenly over it."""
    procs: Annotated[int, integer(1, 256)] = 1
    """Worker processes that share the connections."""
    trial_seconds: Annotated[float, real(0.5, 3600)] = 3.0
    """Seconds that each rate is measured."""
    settle_seconds: Annotated[float, real(0, 600)] = 0.5
    """Seconds of load before that, which are not counted."""
    server_metrics: Url = None
    """URL of the daemon's /metrics; joins its counters to each trial's ledger."""
    json: File = None
    """Write everything that was tried here."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Print the answer alone."""


DEFAULTS = SearchOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rate, tried once."""

    rate: float
    confirming: bool
    held: bool
    because: str  # why it did not
    deliveries_per_second: float
    delivery_ratio: float | None
    p99_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer and how it was found. The fields are the JSON keys."""

    schema: str = SCHEMA
    mode: str
    held_rate: float | None  # of each sender
    failed_rate: float | None
    offered_per_second: float | None  # of all senders, at the rate that held
    deliveries_per_second: float | None  # the middle of the confirming trials
    limited_by: str  # what failed at the lowest rate that did
    complete: bool
    trials: list[Trial] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


class _StoppedError(Exception):
    """Somebody asked to stop."""


def search(address: tuple[str, int], options: SearchOptions) -> int:
    """Search, report, and return the exit code.

    Raises UsageError, and what runs raise.
    """
    _check(options)
    contention = Contention.now()
    found = _Search(address, options)
    with Interrupts():
        bracket = found.bracket()
        result = found.result(bracket, describe(contention))
        tell(summary(result).rstrip("\n"), stored=options.json is not None)
        text = json.dumps(asdict(result), indent=1) + "\n"
        write_all(("--json", options.json, lambda path: write_whole(path, text)))
    if bracket is None:
        return EXIT_INTERRUPTED
    return EXIT_NONE_HOLDS if bracket.held is None else EXIT_FOUND


def _check(options: SearchOptions) -> None:
    if options.lowest > options.highest:
        raise UsageError(f"--lowest {options.lowest:g}: it is above --highest {options.highest:g}.")
    if options.json is not None and not options.json.parent.is_dir():
        raise UsageError(
            f'--json "{options.json}": the folder "{options.json.parent}" does not exist.'
        )
    check(_load(options, options.lowest))


def _load(options: SearchOptions, rate: float) -> Options:
    return Options(
        conns=options.conns,
        senders=options.senders,
        msg_bytes=options.msg_bytes,
        rate=rate,
        burst=options.burst,
        procs=options.procs,
        duration=options.trial_seconds,
        warmup=options.settle_seconds,
        drain_timeout=DRAIN_SECONDS,
        server_metrics=options.server_metrics,
        quiet=True,
    )


def judge(result: RunResult, max_p99: float) -> str:
    """Return why the run did not hold; nothing if it did."""
    if result.invalid_reasons:
        return result.invalid_reasons[0]
    if result.delivery_ratio != 1.0:
        return f"delivery ratio {result.delivery_ratio or 0:.6f}"
    p99 = (result.latency_seconds or {}).get("p99")
    if p99 is None or p99 * 1000 > max_p99:
        return f"p99 {duration(p99)}, the limit is {duration(max_p99 / 1000)}"
    return ""


class _Search:
    """A search under way."""

    def __init__(self, address: tuple[str, int], options: SearchOptions) -> None:
        self._address = address
        self._options = options
        self._trials: list[Trial] = []
        self._mode = "unknown"

    def bracket(self) -> Bracket | None:
        """Return what was found; None if somebody asked to stop."""
        o = self._options
        questions = bisection(o.lowest, o.highest, o.precision, o.confirmations)
        try:
            question = next(questions)
            while True:
                question = questions.send(self._holds(question))
        except StopIteration as end:
            bracket: Bracket = end.value
            return bracket
        except (_StoppedError, KeyboardInterrupt):  # in a trial, or between two
            return None

    def _holds(self, question: Question) -> bool:
        """Try a rate; on the way, a failure is given a second chance: a machine has hiccups."""
        return self._try(question) or (not question.confirming and self._try(question))

    def _try(self, question: Question) -> bool:
        o = self._options
        result = perform(_load(o, question.rate), self._address, [])
        if result.interrupted:
            raise _StoppedError
        because = judge(result, o.max_p99)
        trial = Trial(
            rate=question.rate,
            confirming=question.confirming,
            held=not because,
            because=because,
            deliveries_per_second=result.deliveries_per_second,
            delivery_ratio=result.delivery_ratio,
            p99_seconds=(result.latency_seconds or {}).get("p99"),
        )
        self._mode = result.mode
        self._trials.append(trial)
        if not o.quiet:
            print(line(trial), end="", file=unheard(sys.stderr), flush=True)
        return trial.held

    def result(self, bracket: Bracket | None, environment: dict[str, Any]) -> SearchResult:
        """Return the record of the search."""
        o = self._options
        held = bracket.held if bracket else None
        failed = bracket.failed if bracket else None
        speakers = o.conns if o.senders is None else o.senders
        confirmed = sorted(t.deliveries_per_second for t in self._trials
                           if t.rate == held and t.confirming)  # fmt: skip
        failures = [t.because for t in self._trials if t.rate == failed and not t.held]
        return SearchResult(
            mode=self._mode,
            held_rate=held,
            failed_rate=failed,
            offered_per_second=None if held is None else held * speakers,
            deliveries_per_second=confirmed[len(confirmed) // 2] if confirmed else None,
            limited_by=failures[-1] if failures else "",
            complete=bracket is not None,
            trials=self._trials,
            config={k: v if isinstance(v, (int, float, str, type(None))) else str(v)
                    for k, v in asdict(o).items()},
            environment=environment,
        )  # fmt: skip


def line(trial: Trial) -> str:
    """Return one trial as a line."""
    state = "holds" if trial.held else f"fails: {trial.because}"
    again = " again" if trial.confirming else ""
    return f"{trial.rate:,.2f}/s of each sender{again}: {state}\n"


def summary(result: SearchResult) -> str:
    """Return the answer in words."""
    trials = f"{len(result.trials)} trials"
    if not result.complete:
        return f"interrupted after {trials}: no answer\n"
    if result.held_rate is None:
        return f"no rate holds ({trials}): {result.limited_by}\n"
    above = (
        "nothing failed: the server may do more (--highest)"
        if result.failed_rate is None
        else f"at {result.failed_rate:,.2f}/s: {result.limited_by}"
    )
    if OURS in result.limited_by:
        above += "\nThe client gave out before the server: it may do more (--procs, more cores)."
    return (
        f"mode {result.mode}: {result.held_rate:,.2f} messages/s of each sender hold, "
        f"{figure(result.offered_per_second)}/s in all, "
        f"{figure(result.deliveries_per_second)} deliveries/s ({trials})\n{above}\n"
    )
