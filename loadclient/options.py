"""The options of a run: names, defaults, bounds and help in one frozen record.

Flag beats environment (``LOADCLIENT_…``) beats file beats default; `cli` sees to the order. What
one option allows is said beside it; what two options allow together, in `check`.
"""

from __future__ import annotations

import math
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from cyclopts import Parameter, validators

from loadclient.ledger import Profile
from loadclient.payload import MAX_SENDERS, SAMPLE_BYTES, SEQUENCE_BYTES
from loadclient.protocol import Place
from loadclient.server import split
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

PREFIX = "LOADCLIENT_"  # of the variables of all commands
SPARE_FILES = 64  # descriptors for everything that is not a connection
ENDLESS_SECONDS = 10 * 365 * 86_400.0
MOST_SECONDS = 31 * 86_400  # whoever measures for longer takes 0 and ends it by a signal
INT_MAX = (1 << 31) - 1  # what the kernel's calls take for a size
ROUNDING = 1e-9  # 1 s at a third of a message per 3 s is one interval


class UsageError(Exception):
    """The options contradict each other or this machine; the message is one sentence."""


def _plain(text: str) -> str:
    """Refuse what only Python takes for a number: 9_000, and the digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def whole(_type: Any, tokens: Sequence[Token]) -> int:
    """Convert to an integer, strictly: 3.7 is not rounded to 4."""
    text = tokens[0].value
    try:
        return int(_plain(text))
    except ValueError:
        raise ValueError(f'"{text}" is not a whole number') from None


def finite(_type: Any, tokens: Sequence[Token]) -> float:
    """Convert to a number, leaving out nan and inf."""
    text = tokens[0].value
    try:
        number = float(_plain(text))
    except ValueError:
        raise ValueError(f'"{text}" is not a number') from None
    if not math.isfinite(number):
        raise ValueError(f'"{text}" is not a finite number')
    return number


def path(_type: Any, tokens: Sequence[Token]) -> Path:
    """Convert to a path; an empty one would be the folder that happens to be current."""
    text = tokens[0].value
    if not text or "\0" in text:
        raise ValueError(f'"{text}" is not a path')
    return Path(text)


def variable(name: str) -> str:
    """Return the name of the variable that sets the option *name*, spelt with - or _."""
    return f"{PREFIX}{name.upper().replace('-', '_')}"


def url(_type: Any, tokens: Sequence[Token]) -> str:
    """Convert to the URL of a web page."""
    return _checked_url(tokens[0].value)


def urls(_type: Any, tokens: Sequence[Token]) -> str:
    """Convert to URLs of web pages, with commas between."""
    return ",".join(map(_checked_url, split(tokens[0].value)))


# After a comma: nothing, or what would be the next URL if it had a scheme.
ANOTHER = re.compile(r",($|[^,/?#=&]+:\d+)")


def _checked_url(text: str) -> str:
    """Return *text* if it is a URL; what urllib would read from elsewhere is left out."""
    refusal = ValueError(f'"{text}" is not a URL such as http://127.0.0.1:9700/metrics')
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        raise refusal from None
    if not usable or not text.isprintable() or " " in text or ANOTHER.search(text):
        raise refusal
    return text


def host_name(_type: Any, tokens: Sequence[Token]) -> str:
    """Convert to a host's name or address, as far as its spelling goes."""
    text = tokens[0].value
    try:
        text.encode("idna")  # what getaddrinfo does first; a UnicodeError is a ValueError
    except ValueError:
        text = ""
    if not text or "\0" in text:
        raise ValueError(f'"{tokens[0].value}" is not a host name or an IP address')
    return text


def part_of(_type: Any, tokens: Sequence[Token]) -> str:
    """Convert to the number of a part and of how many it is one."""
    text = tokens[0].value
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts) <= 1000):
        raise ValueError(f'"{text}" is not a part of up to 1000, such as 1/4')
    return text


def voices(_type: Any, tokens: Sequence[Token]) -> str:
    """Check the spelling of a mix and give it its usual one."""
    return str(Voices.parse(tokens[0].value))


def integer(least: int, most: int | None = None) -> Parameter:
    """Take a whole number between bounds, both included."""
    return Parameter(converter=whole, validator=validators.Number(gte=least, lte=most))


def real(least: float, most: float | None = None) -> Parameter:
    """Take a finite number between bounds, both included."""
    return Parameter(converter=finite, validator=validators.Number(gte=least, lte=most))


File = Annotated[Path | None, Parameter(converter=path, n_tokens=1)]
Host = Annotated[str, Parameter(converter=host_name, n_tokens=1)]
Url = Annotated[str | None, Parameter(converter=url, n_tokens=1)]
Urls = Annotated[str | None, Parameter(converter=urls, n_tokens=1)]
Port = Annotated[int, integer(1, 65535)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a run can be told, but the address."""

    unix: File = None
    """Connect to this Unix socket instead of HOST PORT."""
    conns: Annotated[int, integer(1)] = 50
    """Connections."""
    duration: Annotated[float, real(0, MOST_SECONDS)] = 30.0
    """Seconds of the measured phase; 0 goes on until Ctrl-C."""
    msg_bytes: Annotated[int, integer(2, 1 << 20)] = 64
    """Length of every message, newline included. Below 32 no latency is measured; below 12 bytes
    are counted, and no message has a number to be looked for by."""
    rate: Annotated[float, real(0.001, 100_000)] = 20.0
    """Messages per second of each sender."""
    recv: bool = True
    """Read what the server sends. Without, only --server-metrics can show that it was processed."""
    burst: bool = True
    """All senders at once each interval; --no-burst staggers them evenly over it."""
    procs: Annotated[int, integer(1, 256)] = 1
    """Worker processes that share the connections."""
    senders: Annotated[int | None, integer(1, MAX_SENDERS)] = None
    """Let only the first N connections send. Default: all of them."""
    mix: Annotated[str, Parameter(converter=voices, n_tokens=1)] = ""
    """Senders that differ, as SENDERSxRATExBYTES with commas: 5x100x32,45x2x1024. The first
    connections send; stands in for --senders, --rate and --msg-bytes."""
    slow_readers: Annotated[int, integer(0)] = 0
    """Let N connections read at --slow-reader-rate until the drain."""
    slow_reader_rate: Annotated[int, integer(1, INT_MAX)] = 1000
    """Bytes per second that a slow reader reads."""
    never_readers: Annotated[int, integer(0)] = 0
    """Let the last N connections never read."""
    churn: Annotated[float, real(0, 10_000)] = 0.0
    """Let N connections a second come, listen for a quarter of one, and go, beside --conns."""
    connect_rate: Annotated[float, real(0)] = 0.0
    """Connections opened per second; 0 is as fast as the server accepts."""
    connect_timeout: Annotated[float, real(0.1, MOST_SECONDS)] = 30.0
    """Seconds until all connections must be open."""
    warmup: Annotated[float, real(0, MOST_SECONDS)] = 2.0
    """Seconds of load that are sent, delivered and not counted."""
    drain_timeout: Annotated[float, real(0.1, MOST_SECONDS)] = 10.0
    """Seconds that the last messages may take to arrive."""
    sndbuf: Annotated[int, integer(0, INT_MAX)] = 0
    """SO_SNDBUF of each connection; 0 leaves it to the kernel."""
    rcvbuf: Annotated[int, integer(0, INT_MAX)] = 0
    """SO_RCVBUF of each connection; 0 leaves it to the kernel."""
    verify: Literal["sampled", "full"] = "sampled"
    """Count every byte and parse marked messages, or parse and check every line."""
    server_metrics: Urls = None
    """URL of the daemon's /metrics; joins its counters to the ledger. Of several daemons that are
    one chat behind one port: all of them, with commas between."""
    max_p99: Annotated[float | None, real(0)] = None
    """Fail (exit 3) if the corrected p99 latency exceeds this many milliseconds."""
    min_delivery_ratio: Annotated[float | None, real(0, 1)] = None
    """Fail (exit 3) if less than this share of the owed copies was received."""
    part: Annotated[str | None, Parameter(converter=part_of, n_tokens=1)] = None
    """Be part K of N of one run, as K/N; all parts have the same options. Needs --start-at."""
    start_at: Annotated[float | None, real(0)] = None
    """Unix time at which all parts begin to send; there is no warm-up then."""
    run_id: str | None = None
    """Name of the run in results and metrics. Default: time and process id."""
    json: File = None
    """Write the result here."""
    csv: File = None
    """Write one row per second here."""
    metrics_host: Host = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: Annotated[int | None, integer(0, 65535)] = None
    """Port of the Prometheus endpoint; 0 takes a free one. Default: no endpoint."""
    linger: Annotated[float, real(0, MOST_SECONDS)] = 0.0
    """Seconds to keep the endpoint after the run, for the last scrape."""
    quiet: Annotated[bool, Parameter(negative=())] = False
    """Print no progress and no summary."""

    @property
    def speakers(self) -> int:
        """Connections that send."""
        if self.mix:
            return Voices.parse(self.mix).senders
        return self.conns if self.senders is None else self.senders

    @property
    def voices(self) -> Voices:
        """Who says how much how often, in all parts."""
        if self.mix:
            return Voices.parse(self.mix)
        return Voices.alike(self.all_speakers, self.rate, self.msg_bytes)

    @property
    def number(self) -> int:
        """Which part of the run this is, from 1 on."""
        return int(self.part.split("/")[0]) if self.part else 1

    @property
    def parts(self) -> int:
        """Of how many."""
        return int(self.part.split("/")[1]) if self.part else 1

    @property
    def all_speakers(self) -> int:
        """Connections that send, in all parts."""
        return self.parts * self.speakers

    @property
    def own_senders(self) -> range:
        """The numbers of this part's senders."""
        first = (self.number - 1) * self.speakers
        return range(first, first + self.speakers)

    @property
    def readers(self) -> int:
        """Connections that read, slowly or not."""
        return self.conns - self.never_readers if self.recv else 0

    @property
    def seconds(self) -> float:
        """Length of the measured phase as the schedule sees it."""
        return self.duration or ENDLESS_SECONDS

    def places(self) -> list[Place]:
        """Return what each connection does: senders first, those who read badly last."""
        never = self.conns - self.never_readers if self.recv else 0
        slow = never - self.slow_readers
        speakers, voices = self.speakers, self.voices
        return [
            Place(
                Profile.NEVER if i >= never else Profile.SLOW if i >= slow else Profile.READER,
                *((self.own_senders[i], voices.size(i)) if i < speakers else (None, 0)),
            )
            for i in range(self.conns)
        ]


def check(options: Options) -> None:
    """Refuse options that do not go together.

    Raises UsageError.
    """
    for sentence in (
        *_mixed(options),
        *_contradictions(options),
        *_unmeasured(options),
        *_uncountable(options),
        *_partial(options),
        *_too_slow(options),
        *_idle(options),
        *_unwritable(options),
        *_limits(options),
    ):
        raise UsageError(sentence)


def _mixed(o: Options) -> Sequence[str]:
    """Return what a mix leaves nothing to be said by, and what is too much for it."""
    if not o.mix:
        return []
    said = {"--senders": o.senders, "--rate": o.rate, "--msg-bytes": o.msg_bytes}
    usual = {"--senders": None, "--rate": Options.rate, "--msg-bytes": Options.msg_bytes}
    found = [
        f"{name} {value:g}: the --mix says it for each sender; leave it out."
        for name, value in said.items()
        if value != usual[name]
    ]
    if o.speakers > o.conns:
        found.append(
            f'--mix "{o.mix}": {o.speakers} senders, but there are only {o.conns} connections '
            "(--conns)."
        )
    return found


def _contradictions(o: Options) -> Sequence[str]:
    found = []
    if o.speakers > o.conns:
        found.append(f"--senders {o.speakers}: there are only {o.conns} connections (--conns).")
    if o.procs > o.conns:
        found.append(f"--procs {o.procs}: there are only {o.conns} connections (--conns).")
    if not o.recv and (o.slow_readers or o.never_readers):
        found.append("--no-recv: nobody reads, so --slow-readers and --never-readers must be 0.")
    if not o.recv and o.verify == "full":
        found.append("--verify full: needs --recv, because it checks what was received.")
    if o.recv and o.conns - o.never_readers < 2:
        found.append(
            f"--conns {o.conns} with --never-readers {o.never_readers}: nobody hears itself, so "
            "at least two connections must read (or use --no-recv)."
        )
    if o.slow_readers + o.never_readers > o.conns:
        found.append(
            f"--slow-readers {o.slow_readers} and --never-readers {o.never_readers}: together "
            f"more than --conns {o.conns}."
        )
    if o.verify == "full" and (shortest := o.voices.sizes[0]) < SEQUENCE_BYTES:
        found.append(
            f"--msg-bytes {shortest}: --verify full needs at least {SEQUENCE_BYTES}, "
            "or a message cannot carry its number."
        )
    return found


def _unmeasured(o: Options) -> Sequence[str]:
    """Return thresholds on what would not be measured: they would fail after the whole run."""
    found = []
    thresholds = {"--max-p99": o.max_p99, "--min-delivery-ratio": o.min_delivery_ratio}
    if not o.recv:
        found += [
            f"{name} {limit:g}: with --no-recv it is not measured."
            for name, limit in thresholds.items()
            if limit is not None
        ]
    shortest = o.voices.sizes[0]
    if o.max_p99 is not None and shortest < SAMPLE_BYTES:
        found.append(
            f"--max-p99 {o.max_p99:g}: no latency is measured with messages of {shortest} bytes; "
            f"it takes {SAMPLE_BYTES} to carry the due time."
        )
    return found


def _uncountable(o: Options) -> Sequence[str]:
    """Return what would leave the account of those who come and go open."""
    found = []
    if o.churn and o.server_metrics is None:
        found.append(
            f"--churn {o.churn:g}: needs --server-metrics, because only the server knows what it "
            "owed to who came and went."
        )
    if o.churn and (not o.recv or o.slow_readers or o.never_readers):
        found.append(
            f"--churn {o.churn:g}: all others must read (no --no-recv, --slow-readers, "
            "--never-readers), or nobody could tell whose copies are missing."
        )
    return found


def _partial(o: Options) -> Sequence[str]:
    """Return what a part of a run cannot do, and what it needs."""
    found = []
    if o.part is None:
        if o.start_at is not None:
            found.append(f"--start-at {o.start_at:g}: only the parts of a run (--part) need it.")
        return found
    if o.mix:
        found.append(f"--part {o.part}: the senders of all parts are alike (no --mix).")
    if o.start_at is None or o.run_id is None:
        found.append(f"--part {o.part}: needs --start-at and --run-id, the same for all parts.")
    if not o.duration or o.churn or not o.recv:
        found.append(
            f"--part {o.part}: what the others send must be known beforehand and be read (no "
            "--duration 0, --churn, --no-recv)."
        )
    if o.all_speakers > MAX_SENDERS:
        found.append(f"--part {o.part}: over {MAX_SENDERS} senders in all.")
    return found


def _too_slow(o: Options) -> Sequence[str]:
    found = []
    slowest = float(o.voices.slowest)
    if o.duration and o.duration * slowest < 1 - ROUNDING:
        found.append(
            f"--duration {o.duration:g}: at --rate {slowest:g} a sender's messages are "
            f"{1 / slowest:g} s apart, and a run lasts for whole intervals; let it last at least "
            "one, or take 0, which goes on until Ctrl-C."
        )
    if o.connect_rate and o.conns / o.connect_rate > o.connect_timeout:
        found.append(
            f"--connect-rate {o.connect_rate:g}: {o.conns} connections take "
            f"{o.conns / o.connect_rate:g} s, more than --connect-timeout {o.connect_timeout:g}."
        )
    return found


def _idle(o: Options) -> Sequence[str]:
    """Return what would be accepted and do nothing."""
    found = []
    if o.linger and o.metrics_port is None:
        found.append(f"--linger {o.linger:g}: there is no endpoint to keep without --metrics-port.")
    if o.slow_reader_rate != Options.slow_reader_rate and not o.slow_readers:
        found.append(
            f"--slow-reader-rate {o.slow_reader_rate}: nobody reads so slowly without "
            "--slow-readers."
        )
    return found


def _unwritable(o: Options) -> Sequence[str]:
    files = {"--json": o.json, "--csv": o.csv}
    found = [
        f'{name} "{path}": {why}.'
        for name, path in files.items()
        if path is not None and (why := why_not_writable(path)) is not None
    ]
    if o.json and o.csv and _one_file(o.json, o.csv):
        found.append(f'--json and --csv "{o.csv}": the second would replace the first.')
    return found


def why_not_writable(path: Path) -> str | None:
    """Return why a result could not be stored at *path*, as far as one can tell beforehand."""
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120 - Path's tests raise EACCES
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return "it is a folder"
    if _is_special(path):
        return None if os.access(path, os.W_OK) else "it cannot be written to"
    if not os.path.isdir(folder):  # noqa: PTH112 - as above
        return f'the folder "{folder}" does not exist'
    if not os.access(folder, os.W_OK | os.X_OK):
        return f'no file can be made in the folder "{folder}"'
    return None


def _is_special(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - as above


def _one_file(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b) and not _is_special(a)


def _limits(o: Options) -> Sequence[str]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = (hard - SPARE_FILES) * o.procs
    if hard != resource.RLIM_INFINITY and o.conns > most:
        sentence = (
            f"--conns {o.conns}: the hard limit of open files (ulimit -Hn, RLIMIT_NOFILE) is "
            f"{hard}, which allows {most} connections in {o.procs} process(es)."
        )
        return [sentence]
    return []
