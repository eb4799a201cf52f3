"""The command `loadclient`: options in, exit code out.

Exit codes: 0 the run is valid and every threshold holds; 1 it could not begin, or broke; 2 usage;
3 a threshold failed; 4 the run is invalid; 130 interrupted (the partial result is still written).
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import time
import tomllib
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, get_args

import cyclopts
from cyclopts import App, Parameter
from cyclopts.config import Dict, Env

from loadclient.compare.choices import DEFAULTS as COMPARE_DEFAULTS
from loadclient.compare.choices import CompareOptions
from loadclient.compare.command import compare as perform_comparison
from loadclient.compare.command import page_writer, width_of
from loadclient.compare.report import text as comparison
from loadclient.compare.search import DEFAULTS as SEARCH_DEFAULTS
from loadclient.compare.search import SearchOptions
from loadclient.compare.search import search as perform_search
from loadclient.compare.store import BAD_DATA, plain, why
from loadclient.compare.study import Study
from loadclient.crew import WorkerDiedError
from loadclient.daemon import DaemonFailedError
from loadclient.demo import DEFAULTS as DEMO_DEFAULTS
from loadclient.demo import (
    MODES,
    DemoOptions,
    measure,
    prepare,
    print_table,
    print_witnesses,
    question,
)
from loadclient.environment import version
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.merge import merge
from loadclient.metrics import LiveMetrics
from loadclient.network.link import NetworkFailedError
from loadclient.options import PREFIX, File, Host, Options, Port, UsageError, check, variable
from loadclient.report import summary
from loadclient.result import SCHEMA as RUN_SCHEMA
from loadclient.result import RunResult
from loadclient.runner import CannotRunError, resolve, spell
from loadclient.server import ServerUnreadableError, read
from loadclient.session import NotWrittenError, perform, write_whole
from loadclient.streams import heard, open_missing, tell, unheard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cyclopts.argument import Argument

LINGER_SLICE_SECONDS = 0.05
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_THRESHOLD = 3
EXIT_INVALID = 4
EXIT_INTERRUPTED = 130

COMMANDS = ("run", "merge", "demo", "report", "compare", "search")
NUMBERS = {int, float}

app = App(
    name="loadclient",
    help="Drive a broadcast server with an open-loop load and account for every message.",
    version=lambda: f"loadclient {version()}",
    result_action="return_value",
)
DEFAULTS = Options()
ASKING = {"--help", "-h", "--version"}
FAILURES = (
    CannotRunError,
    DaemonFailedError,
    NetworkFailedError,
    NotWrittenError,
    ServerUnreadableError,
    WorkerDiedError,
    OSError,
)


@app.command
def run(host: Host = "127.0.0.1", port: Port = 9000, *, options: Options = DEFAULTS) -> int:
    """Load the server at HOST PORT and account for every message.

    Every option is also an environment variable (LOADCLIENT_CONNS) and a key of the file: flag
    beats environment beats file beats default.

    Exit codes: 0 valid and thresholds hold; 1 it could not begin, or a file was not written (what
    came out is printed); 2 usage; 3 threshold failed;
    4 invalid run; 130 interrupted.

    Parameters
    ----------
    host:
        Name or address of the server.
    port:
        Port of the server.
    """
    check(options)
    address = str(options.unix) if options.unix else resolve(host, port)
    metrics = _serve_metrics(options)

    def told(result: RunResult) -> None:
        if metrics is not None:
            metrics.finish(result)
        _tell(options, result)

    with Interrupts() as interrupts:
        result = perform(options, address, [metrics] if metrics else [], told)
        if metrics is not None:
            metrics.enter("linger", options.linger)
            _linger(options.linger, interrupts)
    return exit_code(result)


@app.command(name="merge")
def merge_parts(
    *files: Path, json: File = None, quiet: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """Make one result of the parts of a run (loadclient run --part K/N --json FILE).

    A threshold that parts had (--max-p99, --min-delivery-ratio) is held against the whole run.

    Exit codes: 0 valid and thresholds hold; 1 a file could not be read or written; 2 these are not
    the parts of one run; 3 threshold failed; 4 the run is invalid; 130 a part was interrupted.

    Parameters
    ----------
    files:
        The result of every part.
    json:
        Write the result here.
    quiet:
        Print no summary.
    """
    if not files:
        raise UsageError("merge: which files? It needs the result of every part.")
    try:
        result = merge([RunResult.from_json(file.read_text(encoding="utf-8")) for file in files])
    except BAD_DATA as error:
        raise UsageError(f"merge: {why(error)}.") from error
    if not quiet:
        tell(summary(result), stored=json is not None)
    if json is not None:
        write_whole(json, result.to_json())
    return exit_code(result)


@app.command
def demo(*, options: DemoOptions = DEMO_DEFAULTS) -> int:
    """Start the daemon in each mode, load it, and show both in one table; let the kernel testify.

    Every option is also an environment variable (LOADCLIENT_CONNS) and a key of the file.

    Exit codes: 0 every message of both runs is accounted for; 1 the daemon or the load did not
    start; 2 usage; 4 a run is invalid, or the witnesses disagree; 130 interrupted.
    """
    prepare(options)
    results = []
    with Interrupts():
        for mode in MODES:
            results.append(measure(mode, options))
            if results[-1].interrupted:
                break
        print_table(results)
        if results[-1].interrupted:
            return EXIT_INTERRUPTED
        try:
            agree = print_witnesses([question(mode, options) for mode in MODES])
        except InterruptedRunError:
            return EXIT_INTERRUPTED
    return demo_exit_code(results, agree=agree)


@app.command
def report(*files: Path, html: File = None) -> int:
    """Show stored results again: runs and comparisons as text, a comparison as a page, too.

    Exit codes: 0 all are shown; 1 one could not be read or written; 2 usage.

    Parameters
    ----------
    files:
        What `loadclient run --json`, `merge` or `compare` wrote: the .json, not the .jsonl of raw
        slices. Compressed by xz, too.
    html:
        Draw the page of the comparison here, instead of its text.
    """
    if not files:
        raise UsageError(
            "report: which files? It shows what --json of run, merge or compare wrote."
        )
    stored = [_stored(file) for file in files]
    if html is None:
        texts = [_told(file, one) for file, one in zip(files, stored, strict=True)]
        tell("\n".join(texts), stored=False)
        return EXIT_OK
    if len(stored) > 1 or not isinstance(stored[0], Study):
        raise UsageError(f'--html "{html}": a page is drawn of one stored comparison.')
    page_writer("report")(stored[0], html)
    return EXIT_OK


def _stored(file: Path) -> RunResult | Study:
    """Read what was stored, whichever it is.

    Raises UsageError, and OSError.
    """
    with _believed(file):
        text = plain(file)
        found = json.loads(text)
        is_run = isinstance(found, dict) and found.get("schema") == RUN_SCHEMA
        return RunResult.from_json(text) if is_run else Study.from_json(text)


@contextmanager
def _believed(file: Path) -> Iterator[None]:
    """Raise UsageError for what turns out, within, to be no record of ours in *file*."""
    try:
        yield
    except BAD_DATA as error:
        raise UsageError(
            f'"{file}" is not a stored comparison, nor a stored run: {why(error)}.'
        ) from error


def _told(file: Path, stored: RunResult | Study) -> str:
    """Return the record as text: what is in its tables is looked at only here."""
    with _believed(file):
        if isinstance(stored, RunResult):
            return summary(stored)
        return comparison(stored, width_of(sys.stdout)).rstrip("\n")


def _tell(options: Options, result: RunResult) -> None:
    """Say what came out; if it stands in no file either, somebody has to hear it."""
    if not options.quiet:
        tell(summary(result), stored=options.json is not None)
    elif not result.valid:
        print("\n".join(result.invalid_reasons), file=unheard(sys.stderr), flush=True)


def _linger(seconds: float, interrupts: Interrupts) -> None:
    """Keep the endpoint for the last scrape; a signal ends that, and not the result's exit code."""
    deadline = time.monotonic() + seconds
    with suppress(InterruptedRunError):
        while time.monotonic() < deadline:
            interrupts.check()
            time.sleep(LINGER_SLICE_SECONDS)


@app.command
def compare(*, options: CompareOptions = COMPARE_DEFAULTS) -> int:
    """Compare ET with LT by interleaved pairs: estimates with intervals, verdicts, and doubts.

    Exit codes: 0 finished, whatever came out; 1 a daemon or the load did not start; 2 usage;
    4 nothing could be compared; 130 interrupted (--resume goes on with it).
    """
    return perform_comparison(options)


@app.command
def search(
    host: Host = "127.0.0.1", port: Port = 9000, *, options: SearchOptions = SEARCH_DEFAULTS
) -> int:
    """Find the highest rate that the server at HOST PORT delivers in full and in time.

    Exit codes: 0 found and confirmed; 1 cannot connect; 2 usage; 3 not even the lowest rate
    holds; 130 interrupted.

    Parameters
    ----------
    host:
        Name or address of the server.
    port:
        Port of the server.
    """
    return perform_search(resolve(host, port), options)


def exit_code(result: RunResult) -> int:
    """Return what a finished run tells the shell."""
    if result.interrupted:
        return EXIT_INTERRUPTED
    if not result.valid:
        return EXIT_INVALID
    if not all(threshold.holds for threshold in result.thresholds):
        return EXIT_THRESHOLD
    return EXIT_OK


def demo_exit_code(results: list[RunResult], *, agree: bool) -> int:
    """Return what a finished demonstration tells the shell."""
    return max([EXIT_OK if agree else EXIT_INVALID, *map(exit_code, results)])


def _serve_metrics(options: Options) -> LiveMetrics | None:
    if options.metrics_port is None:
        return None
    mode = read(options.server_metrics).mode if options.server_metrics else "unknown"
    metrics = LiveMetrics(mode)
    try:
        port = metrics.serve(options.metrics_host, options.metrics_port)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {options.metrics_port}: cannot listen on "
            f"{options.metrics_host}: {error.strerror or error}."
        ) from error
    where = f"metrics on http://{spell((options.metrics_host, port))}/metrics"
    print(where, file=unheard(sys.stderr), flush=True)
    return metrics


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[File, Parameter(env_var=f"{PREFIX}CONFIG")] = None,
) -> int | None:
    """Read the options' file and the environment, then run the command.

    Parameters
    ----------
    config:
        TOML file with options as keys: conns = 50. It has no tables.
    """
    app.config = [Env(PREFIX, command=False)]
    if not ASKING & {*tokens} and (sentence := misspelt(os.environ)):
        raise UsageError(sentence)
    if config is not None:
        app.config = [*app.config, _file(config)]
    code: int | None = app(tokens, exit_on_error=False, print_error=False)
    return code


def _file(path: Path) -> Dict:
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'--config "{path}": {getattr(error, "strerror", error)}.') from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f'--config "{path}": {error}.') from error
    allowed, negatives = _allowed(), _negatives()
    for key, value in keys.items():
        if positive := negatives.get(key.lower().replace("_", "-")):
            raise UsageError(
                f'--config "{path}": "{key}" sets no option; say {positive} = false instead.'
            )
        if isinstance(value, dict | list):
            kind = "a table" if isinstance(value, dict) else "an array"
            raise UsageError(
                f'--config "{path}": "{key}" is {kind}, and no option is; the options of any '
                "command are keys of the file itself, such as conns = 50."
            )
        kinds = allowed.get(key.replace("_", "-"), {type(value)})
        if type(value) not in kinds:
            wanted = "a number" if int in kinds else "a string" if str in kinds else "true or false"
            raise UsageError(
                f'--config "{path}" sets {key} to {str(value).lower()}, which is not {wanted}.'
            )
    return Dict(keys, source=str(path), use_commands_as_keys=False)


def _allowed() -> dict[str, set[type]]:
    """Return the options of all commands, and what a file may set each to; a number also by words.

    One file may serve several commands, and so may the environment.
    """
    found: dict[str, set[type]] = {}
    for argument in _options():
        kinds = {*(get_args(argument.hint) or [argument.hint])}
        may_be = {bool} if bool in kinds else {int, float, str} if NUMBERS & kinds else {str}
        found.setdefault(argument.name.removeprefix("--"), set()).update(may_be)
    return found


def _negatives() -> dict[str, str]:
    """Return the flags that say no, each with its option: cyclopts passes them over elsewhere."""
    return {
        flag.removeprefix("--"): argument.name.removeprefix("--")
        for argument in _options()
        for flag in argument.negatives
    }


def _options() -> Iterator[Argument]:
    for command in COMMANDS:
        for argument in app[command].assemble_argument_collection():
            if argument.name.startswith("--"):  # not the words of `merge` and `report`
                yield argument


def misspelt(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first variable of ours that no command would read, or None."""
    given = sorted(name for name in environment if name.startswith(PREFIX))
    if not given:
        return None
    known = set(map(variable, (*_allowed(), "config")))
    negatives = {variable(flag): variable(name) for flag, name in _negatives().items()}
    for name in given:
        if positive := negatives.get(name.upper()):
            return f'The variable "{name}" sets no option; say {positive}=false instead.'
        if name not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0)
            return f'The variable "{name}" sets no option; the nearest that does is {near[0]}.'
    return None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    open_missing()
    tokens = sys.argv[1:] if arguments is None else arguments
    code = EXIT_OK
    try:
        with heard() if ASKING & {*tokens} or not tokens else nullcontext():
            code = app.meta(tokens, exit_on_error=False, print_error=False) or EXIT_OK
    except cyclopts.CoercionError as error:
        code = _say(_located(error), EXIT_USAGE)
    except cyclopts.UnusedCliTokensError as error:
        code = _say(_unexpected(error), EXIT_USAGE)
    except (cyclopts.CycloptsError, UsageError) as error:
        code = _say(str(error), EXIT_USAGE)
    except FAILURES as error:
        code = _say(_worded(error), EXIT_FAILURE)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _say(sentence: str, code: int) -> int:
    print(f"loadclient: {' '.join(sentence.split())}", file=unheard(sys.stderr), flush=True)
    return code


def _worded(error: Exception) -> str:
    """Return the sentence of an error; the kernel's own say which file, and no number."""
    if isinstance(error, OSError) and error.strerror:
        return f'"{error.filename}": {error.strerror}.' if error.filename else f"{error.strerror}."
    return str(error)


def _located(error: cyclopts.CoercionError) -> str:
    """Return the sentence with its option: cyclopts leaves out the name of a positional one."""
    sentence = str(error)
    if error.token and error.msg and str(error.token.keyword).startswith("["):  # a key of the file
        name = str(error.token.keyword)[1:-1]
        return f'Invalid value for {name} in "{error.token.source}": {error.msg}.'
    if error.argument is None or sentence.startswith("Invalid value"):
        return sentence
    return f"Invalid value for {error.argument.name}: {sentence}"


def _unexpected(error: cyclopts.UnusedCliTokensError) -> str:
    """Return what is one word too many, and which words there may be."""
    (command,) = error.command_chain or ("",)
    arguments = app[command].assemble_argument_collection() if command else []
    places = [a.name.lstrip("-").upper() for a in arguments if a.index is not None]
    taken = f"{' and '.join(places) or 'nothing'} and options, which begin with --"
    return f'Unexpected argument "{(error.unused_tokens or [""])[0]}": {command} takes {taken}.'
