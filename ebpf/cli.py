"""The command ``etlt-probe``: flag beats environment beats file beats default.

Exit codes: 0 done, 1 the probe cannot count here (one sentence says why), 2 usage, 130 Ctrl-C
before it counted.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import math
import os
import select
import signal
import socket
import sys
import time
import tomllib
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from pathlib import Path  # noqa: TC003 - cyclopts resolves the annotations
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Env, Toml
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from ebpf import manager, preflight, report, syscalls, targets
from ebpf.collector import ProbeCollector
from ebpf.config import Config, read_path
from ebpf.doubts import doubts
from ebpf.errors import Refused
from ebpf.loader import GROUPS, TARGETS, Build, Probe, source
from ebpf.sampling import RunTimeSampler
from ebpf.watch import Snapshot, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
RESCAN_SECONDS = 0.5  # how late a new process may be noticed; an exit is noticed at once
TABLE_COLUMNS = 110  # when the output is not a terminal
PREFIX = "ETLT_PROBE_"
ASKING = {"--help", "-h", "--version"}
NO_OPTIONS = ("CONFIG", "IMAGE", "CAP_1", "CAP_2")  # but the last three are deploy/compose.yaml's

app = App(
    name="etlt-probe",
    help="Count what an epoll server does, from the kernel's side and exactly.",
    help_format="plaintext",
    version=lambda: f"etlt-probe {_version()}",
    config=Env(PREFIX, command=False),
)


@app.default
def watch(config: Config | None = None) -> int:
    """Serve the counts on /metrics until SIGTERM or SIGINT; or count once and print a table."""
    config = config or Config()
    problem = misspelt(os.environ) or config.problem()
    if problem:
        return _usage(problem)
    try:
        if config.print_source:
            with _written("the program"):
                print(source(_build(config)), end="")
            return DONE
        return _watch(config)
    except Refused as refusal:
        _say(str(refusal))
        return FAILED


@app.meta.default
def with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(converter=read_path, n_tokens=1)] = None,
) -> int:
    """Serve the counts on /metrics until SIGTERM or SIGINT; or count once and print a table.

    Parameters
    ----------
    config
        Options from this TOML file: flag beats environment beats file.
    """
    try:
        _ = config and tomllib.loads(config.read_text())
    except (OSError, ValueError) as error:  # not readable, not UTF-8, not TOML
        return _usage(f"--config {config}: {getattr(error, 'strerror', None) or error}")
    environment = Env(PREFIX, command=False)
    app.config = (environment, Toml(config, must_exist=True)) if config else environment
    status: int = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return status


def misspelt(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first variable of ours that nobody would read, or None."""
    known = [PREFIX + name for name in (*(f.name.upper() for f in fields(Config)), *NO_OPTIONS)]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            return f'the variable "{name}" sets no option; the nearest that does is {near[0]}'
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    _fill_gaps()
    tokens = [*(sys.argv[1:] if arguments is None else arguments)]
    status: int | None = DONE
    try:
        with _written("the answer") if ASKING & {*tokens} else nullcontext():
            status = app.meta(
                tokens, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except Refused as refusal:
        _say(str(refusal))
        return FAILED
    except UnusedCliTokensError as error:
        return _usage(f"{' '.join(error.unused_tokens or [])} is not an option; see --help")
    except CycloptsError as error:
        return _usage(" ".join(str(error).split()))
    except KeyboardInterrupt:  # before anything is counted; from then on it is a wish to stop
        return INTERRUPTED
    return status or DONE


def _version() -> str:
    try:
        return importlib.metadata.version("etlt")
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "0+unknown"


def _say(sentence: str) -> None:
    try:
        lines = "\n".join(map(targets.printable, sentence.split("\n")))
        print(f"etlt-probe: {lines}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more, as in `2>&1 | head -1`; the counts go on
        _point_at_nothing(2)


def _point_at_nothing(fd: int) -> None:
    """Have *fd* lead nowhere, so that the flush at exit does not fail once more."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd)
    if nothing != fd:
        os.close(nothing)


def _fill_gaps() -> None:
    """Open what we were started without (`2>&-`): else a map's descriptor becomes our stderr."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _point_at_nothing(fd)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _usage(sentence: str) -> int:
    _say(sentence)
    return USAGE


def _build(config: Config) -> Build:
    return Build(
        lite=config.lite,
        all_threads=config.all_threads,
        namespaced=not targets.in_first_namespace(),
        attach=config.attach,
    )


def _watch(config: Config) -> int:
    wanted = targets.Wanted(config.pid, config.comm)
    targets.check_pids(wanted)
    preflight.check()
    with Probe(_build(config)) as probe, _sampler(config):
        names = syscalls.names(os.uname().machine)
        watch = Watch(wanted, probe, names, slots=TARGETS, groups=GROUPS)
        try:
            return _once(config, watch) if config.once else _serve(config, watch)
        finally:
            watch.close()


@contextmanager
def _sampler(config: Config) -> Iterator[None]:
    if not config.stats:
        yield
        return
    sampler = RunTimeSampler().start()
    try:
        yield
    finally:
        sampler.stop()


def _once(config: Config, watch: Watch) -> int:
    started = time.monotonic()
    with _signals() as stop:  # from the first count on, a signal is a wish to see them
        changes = watch.refresh()
        if not watch.targets:
            raise Refused("; ".join(changes) or _nobody(config.comm))
        _tell(changes)
        _follow(watch, stop, started + config.duration, is_over=lambda: _is_over(config, watch))
    watch.stop_counting()
    seconds = time.monotonic() - started
    snapshot = watch.snapshot()
    with _written("what was counted"):
        _print(config, snapshot, seconds)
    return DONE


@contextmanager
def _written(what: str) -> Iterator[None]:
    """Have what is printed within be written, unless its reader has read enough. Raises Refused."""
    try:
        with suppress(SystemExit):  # how rich says that the reader has gone
            yield
        sys.stdout.flush()
    except BrokenPipeError:
        _point_at_nothing(sys.stdout.fileno())
    except OSError as error:
        _point_at_nothing(sys.stdout.fileno())
        raise Refused(f"cannot write {what}: {error.strerror}") from error


def _print(config: Config, snapshot: Snapshot, seconds: float) -> None:
    if config.json:
        print(json.dumps(report.as_json(snapshot, seconds, lite=config.lite), indent=2))
    else:
        width = None if sys.stdout.isatty() else TABLE_COLUMNS
        report.print_table(snapshot, seconds, Console(width=width), lite=config.lite)


def _nobody(comms: tuple[str, ...]) -> str:
    wanted = " or ".join(comms)
    return f"no process here has a name that begins with {wanted}: start it first"


def _serve(config: Config, watch: Watch) -> int:
    registry = CollectorRegistry()
    snapshot = _saying_doubts(watch)
    registry.register(ProbeCollector(snapshot, lite=config.lite, stats=config.stats))
    try:
        server, thread = start_http_server(config.port, config.host, registry)
    except OSError as error:
        raise Refused(
            f"cannot listen on --host {config.host} --port {config.port}: {error.strerror}"
        ) from error
    with _signals() as stop:
        changes = watch.refresh()
        if not watch.targets and not config.comm:
            raise Refused("; ".join(changes))
        _tell(changes)
        if not watch.targets:
            _say(f"no process is called {' or '.join(config.comm)} yet; waiting for it")
        where = f"serving http://{_authority(config.host, server.server_port)}/metrics"
        _say(where)
        _tell_manager("READY=1", f"STATUS={where.capitalize()}")
        _follow(watch, stop)
        _tell_manager("STOPPING=1", "STATUS=Stopping")
    server.shutdown()
    server.server_close()
    thread.join()
    return DONE


def _tell_manager(*lines: str) -> None:
    if error := manager.tell(os.environ, *lines):
        _say(f"cannot notify the service manager: {error.strerror}")


def _saying_doubts(watch: Watch) -> Callable[[], Snapshot]:
    """Return the watch's `snapshot` that says each reason for doubt once, when it first arises."""
    # Not said: these hold for an idle server in a container, or one not yet started, and pass.
    said = {"unseen", "absent"}

    def snapshot() -> Snapshot:
        taken = watch.snapshot()
        for doubt in doubts(taken):
            if doubt.reason not in said:
                said.add(doubt.reason)
                _say(f"incomplete: {doubt.sentence}")
        return taken

    return snapshot


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tell(changes: list[str]) -> None:
    for sentence in changes:
        _say(sentence)


def _is_over(config: Config, watch: Watch) -> bool:
    """Tell whether nobody is left to count: a pid ends once, a name may be borne again."""
    return not config.comm and not watch.targets


def _follow(
    watch: Watch,
    stop: socket.socket,
    deadline: float = math.inf,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Keep up with exits and restarts until a signal, the deadline, or nothing is left to do."""
    while time.monotonic() < deadline and not is_over():
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        for target in watch.targets:
            poll.register(target.pidfd, select.POLLIN)
        left = max(0.0, deadline - time.monotonic())
        ready = poll.poll(min(left, RESCAN_SECONDS) * 1000)
        _tell(watch.refresh())  # at a signal, too: what began since the last look is a doubt
        if any(fd == stop.fileno() for fd, _ in ready):
            return


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Turn SIGTERM and SIGINT into a readable socket, so that no handler interrupts a map read."""
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    before = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
    handlers = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            with suppress(TypeError):  # None: it was not installed from Python
                signal.signal(number, handler)
        readable.close()
        writable.close()
