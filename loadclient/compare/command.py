"""`loadclient compare`: options in, a study on disk and in words, exit code out.

Rule: what decides the study (its cells, pairs, seed) is fixed and on disk before the first slice;
resuming takes it from there and from nowhere else.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from loadclient.compare import choices, original, report, store
from loadclient.compare import design as designs
from loadclient.compare.analysis import analyse
from loadclient.compare.bench import Bench, GivenDaemons, OwnDaemons, flags, left, load
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.progress import StudyProgress
from loadclient.compare.study import Design, Kind, Link, Study
from loadclient.compare.waking import ask_who_wakes
from loadclient.crew import WorkerDiedError
from loadclient.daemon import Daemon, DaemonFailedError, refusal
from loadclient.environment import Contention, build, describe, machine
from loadclient.interrupts import Interrupts
from loadclient.network import link
from loadclient.network.conditions import parse
from loadclient.network.link import NetworkFailedError
from loadclient.options import UsageError, check, variable
from loadclient.report import spoken
from loadclient.runner import CannotRunError
from loadclient.server import ServerUnreadableError
from loadclient.session import write_all, write_whole
from loadclient.streams import unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loadclient.compare.bench import Daemons
    from loadclient.compare.choices import CompareOptions
    from loadclient.compare.study import KernelCounts, OriginalRow, Woken
    from loadclient.network.link import Network

EXIT_OK = 0
EXIT_NOTHING_COMPARABLE = 4
EXIT_INTERRUPTED = 130
ABOUT_THE_REPORT = ("json", "html", "quiet")
FOLDER = Path("report")
LOOPBACK = """Client and server share this machine and its loopback: no network, and each takes
    processor time from the other. Another machine, another daemon, another load may answer
    otherwise."""
GIVEN = """The daemons were somebody else's and not restarted: what is found is of these two, and
    two processes of one program differ by some per cent as long as they live."""
AGAIN = """Some slices were measured again, because their pair was broken off: no figure is of the
    earlier ones, but a fault that a daemon showed in them counts."""
LINKED = """Client, server and the network between them share this machine, and each takes processor
    time from the others. Another machine, another daemon, another load may answer otherwise."""
NOTES = (
    """Offered load is fixed. Where both deliver all of it, equal delivered rates are the input.""",
    """"usual" compares the modes as each is usually run, that is with different read policies; only
    "eagain" and "short-read" compare the modes alone.""",
    """CPU is the daemon's own (getrusage) and includes a few scrapes of its metrics a slice, in
    both arms alike. Times and costs come from slices without the kernel's probe, which slows
    what it watches by the call: it would make the mode with more calls look worse.""",
)
FAILURES = (
    CannotRunError,
    DaemonFailedError,
    NetworkFailedError,
    ServerUnreadableError,
    WorkerDiedError,
    OSError,
)


def compare(options: CompareOptions) -> int:
    """Do what the options say.

    Raises UsageError, and what runs and daemons raise.
    """
    contention = Contention.now()
    if options.quick and options.preset not in {"full", "quick"}:
        raise UsageError(f"--quick: it contradicts --preset {options.preset}.")
    if options.html is not None:
        _check_folder("--html", options.html)
        page_writer("--html")
    if options.preset == "original":
        return _original(options, contention)
    path, raw = _resumed(options) if options.resume else _begun(options)
    with Interrupts():
        with _network(raw.header.design) as network:
            raw = _linked(raw, network)
            if not options.resume:
                store.begin(path, raw.header)
            complete, kernel, woken = _measured_alone(options, path, raw, network)
        study = assemble(store.read(path), kernel, complete=complete, contention=contention)
        study = replace(study, woken=woken)
        if not complete:
            _say_how_to_resume(path)
        _report(options, study, _result_path(options, path))
    return exit_code(study) if complete else EXIT_INTERRUPTED


@contextmanager
def _network(design: Design) -> Iterator[Network | None]:
    """Make the network that the design asks for, if any, and be the client in it.

    Raises UsageError where there can be none.
    """
    if not design.netem:
        yield None
        return
    with link.network(parse(design.netem)) as made, made.client.entered():
        yield made


def _linked(raw: store.Raw, made: Network | None) -> store.Raw:
    """Note how the network is emulated.

    Raises UsageError if earlier slices were measured over another kind.
    """
    if made is None:
        return raw
    before = raw.header.link
    name = made.emulation.name
    if before is not None and before.emulation != name:
        raise UsageError(
            f"--resume: the slices so far were measured over {before.emulation}, and here it would "
            f"be {name}; the two do not mix."
        )
    found = Link(netem=str(made.conditions), emulation=name, because=made.emulation.because)
    return replace(raw, header=replace(raw.header, link=found))


def _measured_alone(
    options: CompareOptions, path: Path, raw: store.Raw, network: Network | None
) -> tuple[bool, tuple[KernelCounts, ...], tuple[Woken, ...]]:
    """Measure what is missing, as the only one, and say how to go on if that fails."""
    with store.alone(path):
        store.mend(path)
        if options.resume:
            raw = replace(raw, slices=store.read(path).slices)
        try:
            return _all_measured(options, path, raw, network)
        except (*FAILURES, KeyboardInterrupt):
            _say_how_to_resume(path)
            raise


def _all_measured(
    options: CompareOptions, path: Path, raw: store.Raw, network: Network | None
) -> tuple[bool, tuple[KernelCounts, ...], tuple[Woken, ...]]:
    """Measure what is missing, then ask the kernel; return whether that was all, and its counts."""
    complete = _measured(options, path, raw, network)
    if not complete or not raw.header.probe:
        return complete, (), ()
    design, tell = raw.header.design, _teller(options)
    kernel, complete = ask_the_kernel(design, OwnDaemons(network), tell, network)
    if not complete or any(one.unavailable for one in kernel):
        return complete, kernel, ()
    woken, complete = ask_who_wakes(design, OwnDaemons(network, apart=True), tell)
    return complete, kernel, woken


def _measured(options: CompareOptions, path: Path, raw: store.Raw, network: Network | None) -> bool:
    """Measure what is missing; return whether that was all."""
    design, done = raw.header.design, raw.slices
    slices = 2 * design.pairs * len(design.cells)
    probing = designs.probing_seconds(design) if raw.header.probe else 0.0
    to_come = left(design, done)
    expected = designs.expected_seconds(design) * to_come / slices
    _teller(options)(
        f"{design.preset}: {len(design.cells)} cells, {design.pairs} pairs: {slices} slices, "
        f"{len(done)} done, about {spoken(expected + probing)}; raw slices in {path}"
    )
    stream = None if options.quiet else sys.stderr
    with StudyProgress(stream, len(done), to_come, expected, afterwards=probing) as progress:
        daemons = _daemons(raw.header, network)
        return Bench(design, path, daemons, progress, network).measure(done)


def exit_code(study: Study) -> int:
    """Return what a finished study tells the shell."""
    asked = {cell.name for cell in study.design.cells if not cell.control}
    verdicts = [report.verdict for report in study.cells if report.cell in asked]
    nothing = all(verdict is Kind.NOT_COMPARABLE for verdict in verdicts)
    return EXIT_NOTHING_COMPARABLE if nothing else EXIT_OK


def assemble(
    raw: store.Raw, kernel: tuple[KernelCounts, ...], *, complete: bool, contention: Contention
) -> Study:
    """Return the study of the slices so far."""
    slices = tuple(one for _, one in sorted(raw.slices.items()))
    fitness, cells = analyse(raw.header.design, slices, raw.superseded, kernel)
    given = (GIVEN,) if raw.header.addresses else ()
    again = (AGAIN,) if raw.superseded else ()
    notes = (LINKED if raw.header.link else LOOPBACK, *given, *again, *NOTES)
    return Study(
        study_id=raw.header.study_id,
        started=raw.header.started,
        finished=time.time(),
        complete=complete,
        command=raw.header.command,
        design=raw.header.design,
        link=raw.header.link,
        environment=describe(contention),
        fitness=fitness,
        cells=cells,
        kernel=kernel,
        notes=tuple(map(_line, notes)),
        slices=slices,
        superseded=raw.superseded,
    )


def _begun(options: CompareOptions) -> tuple[Path, store.Raw]:
    """Fix the study, before anything is measured."""
    given = choices.given(options)
    design = choices.decided(options, given)
    for sentence in designs.doubts(design):
        raise UsageError(sentence)
    check_loads(design)
    if not given:
        _check_daemons(design)
    header = store.Header(
        study_id=time.strftime("%Y%m%d-%H%M%S"),
        started=time.time(),
        command=choices.spelt(options, design.seed),
        design=design,
        probe=options.probe and not given,
        addresses=given,
    )
    path = options.raw or FOLDER / f"compare-{header.study_id}.jsonl"
    _check_files(options, "--raw", path)
    return path, store.Raw(header, {})


def check_loads(design: Design) -> None:
    """Refuse a load that contradicts itself, before any daemon is started.

    Raises UsageError.
    """
    nowhere = Daemon(0, ("", 0), "http://")
    for cell in design.cells:
        try:
            check(load(design, cell, designs.Step(0, cell.name, 0, "a"), nowhere))
        except UsageError as error:
            raise UsageError(f"{cell.name}: {error}") from error


def _check_daemons(design: Design) -> None:
    """Refuse options that the daemon refuses, before one is started in the midst of a study."""
    asked: dict[tuple[str, ...], str] = {}
    for cell in design.cells:
        for arm in (cell.a, cell.b):
            asked.setdefault((arm.mode, *flags(arm)), cell.name)
    for (mode, *words), name in asked.items():
        if said := refusal(mode, *words):
            raise UsageError(f"{name}: the daemon does not take its options; it says: {said}")


def _resumed(options: CompareOptions) -> tuple[Path, store.Raw]:
    _refuse(options, {"resume", *ABOUT_THE_REPORT}, "a resumed study is already decided")
    assert options.resume is not None  # noqa: S101 - that is why we are here
    raw = store.read(options.resume)
    for sentence in designs.doubts(raw.header.design):
        raise UsageError(f"--resume: {sentence}")
    _check_build(raw)
    _check_files(options, "--resume", options.resume)
    return options.resume, raw


def _check_build(raw: store.Raw) -> None:
    """Refuse to go on with another program or machine than those that began, as far as known."""
    now = {**build(), **machine()}
    for one in (*raw.superseded, *raw.slices.values()):
        for name, was in one.client.items():
            if None not in (was, now.get(name)) and was != now[name]:
                raise UsageError(
                    f"--resume: the slices so far are of {name} {was}, and this is "
                    f"{now[name]}; the two do not mix. Go back to it, or begin anew."
                )


def _refuse(options: CompareOptions, meant: Iterable[str], why: str) -> None:
    """Refuse every option that says nothing here."""
    for f in fields(options):
        if f.name not in meant and getattr(options, f.name) != f.default:
            name = variable(f.name)
            source = f" (the environment has {name})" if name in os.environ else ""
            raise UsageError(f"--{f.name.replace('_', '-')}{source}: {why}; leave it out.")


def _daemons(header: store.Header, network: Network | None) -> Daemons:
    if header.addresses:
        return GivenDaemons(*choices.reached(header.addresses))
    return OwnDaemons(network)


# The original's table.


def _original(options: CompareOptions, contention: Contention) -> int:
    """Redo the original's table; there is nothing to resume, each line stands for itself."""
    meant = {"preset", *ABOUT_THE_REPORT, "slice_seconds", "conns", "rate", "msg_bytes"}
    _refuse(options, meant, "it means nothing with --preset original")
    usual = original.Load()
    asked = original.Load(
        conns=options.conns or usual.conns,
        rate=options.rate or usual.rate,
        seconds=options.slice_seconds or usual.seconds,
        sizes=options.msg_bytes or usual.sizes,
    )
    started = time.time()
    study_id = time.strftime("%Y%m%d-%H%M%S")
    path = options.json or FOLDER / f"original-{study_id}.json"
    _check_folder("--json", path)
    rows, complete = _original_rows(options, asked)
    study = Study(
        study_id=study_id,
        started=started,
        finished=time.time(),
        complete=complete,
        command=choices.spelt(options, None),
        design=Design(preset="original", seed=0),
        environment=describe(contention),
        original=rows,
        notes=tuple(map(_line, original.NOTES)),
    )
    _report(options, study, path)
    return EXIT_OK if complete else EXIT_INTERRUPTED


def _original_rows(
    options: CompareOptions, asked: original.Load
) -> tuple[tuple[OriginalRow, ...], bool]:
    """Return the lines, and whether they are all."""
    rows: list[OriginalRow] = []
    end = time.monotonic() + original.expected_seconds(asked)

    tell = _teller(options)

    def say(what: str) -> None:
        tell(f"{what}; about {spoken(end - time.monotonic())} left")

    try:
        with Interrupts():
            for row in original.rows(asked, say):
                rows.append(row)  # noqa: PERF402 - those before an interruption are kept
    except (original.OriginalInterruptedError, KeyboardInterrupt):
        return tuple(rows), False
    return tuple(rows), True


# What is said and where it goes.


def _result_path(options: CompareOptions, raw: Path) -> Path:
    return options.json or raw.with_suffix(".json")


def _check_files(options: CompareOptions, option: str, raw: Path) -> None:
    """Refuse files that could not be written, or that would be written over each other."""
    files = {option: raw, "--json": _result_path(options, raw), "--html": options.html}
    given: dict[Path, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        _check_folder(name, path)
        other = given.setdefault(path.resolve(), name)
        if other != name:
            whole = " (the whole study, unless --json says where)" if options.json is None else ""
            raise UsageError(f'{other} "{path}": {name}{whole} would be the same file.')


def _check_folder(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before anything is measured."""
    if path.parent == FOLDER:
        FOLDER.mkdir(exist_ok=True)
    if not path.parent.is_dir():
        raise UsageError(f'{option} "{path}": the folder "{path.parent}" does not exist.')


def _report(options: CompareOptions, study: Study, path: Path) -> None:
    """Print the study, then write it: what a full disk takes from the files has been told."""
    if not options.quiet:
        stream = unheard(sys.stdout)
        print(report.text(study, width_of(stream)), end="", file=stream, flush=True)
    write_all(
        ("--json", path, lambda file: write_whole(file, study.to_json())),
        ("--html", options.html, lambda file: page_writer("--html")(study, file)),
    )


def width_of(stream: TextIO) -> int:
    """Return how wide the report may be there."""
    console = Console(file=stream, highlight=False)
    return console.width if console.is_terminal else report.WIDTH


def page_writer(who: str) -> Callable[[Study, Path], None]:
    """Return what draws the page.

    Raises UsageError if what it draws with is not installed.
    """
    try:
        from loadclient.compare.html import write_html  # noqa: PLC0415 - it is slow to import
    except ModuleNotFoundError as error:
        raise UsageError(f'{who}: the package "{error.name}" is not installed.') from error
    return write_html


def _teller(options: CompareOptions) -> Callable[[str], None]:
    """Return how to say something that the user may have asked not to hear."""
    return (lambda _sentence: None) if options.quiet else _say


def _say(sentence: str) -> None:
    print(sentence, file=unheard(sys.stderr), flush=True)


def _say_how_to_resume(path: Path) -> None:
    command = shlex.join(["loadclient", "compare", "--resume", str(path)])
    _say(f"the slices so far are in {path}; go on with: {command}")


def _line(paragraph: str) -> str:
    return " ".join(paragraph.split())
