"""Writes what RESULTS.md, README.md and SCALING.md say of the stored studies, and stores new ones.

    python results/write.py                           # all anew, from results/*.json.xz
    python results/write.py --take study.json NAME    # store a study as NAME first
    python results/write.py --anew NAME               # judge a stored one's slices by today's rules

They are written by hand, but for two kinds of places, which this fills in:

    <!-- verdicts et-vs-lt --> ... <!-- end -->       a block of lines
    <!--cpu et-vs-lt: 64 B, all talk, usual-->…<!--/-->   a figure within a sentence

Rule: a figure of a study stands in no other place. What the prose makes of it is for a person to
read again whenever a study is taken.
"""

from __future__ import annotations

import lzma
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from loadclient.compare import fingerprint  # noqa: E402 - as a script it has to find them first
from loadclient.compare.analysis import judged_again, paired  # noqa: E402
from loadclient.compare.study import (  # noqa: E402
    AT_EQUAL_BATCH,
    CONFIRMATORY,
    OUTCOMES,
    PRIMARY,
    Effect,
    Kind,
    Study,
)
from loadclient.compare.verdict import interval, percent  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.compare.analysis import Pair
    from loadclient.compare.study import ArmReport, CellReport

BLOCK = re.compile(r"(<!-- (\w+) ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"(<!--(\w+) ([\w-]+): ([^>]+?)-->).*?(<!--/-->)", re.DOTALL)
TITLE = {outcome.name: outcome.title for outcome in OUTCOMES}
BETTER = (Kind.A_BETTER, Kind.B_BETTER)
MEASURES = {"cpu": PRIMARY.name, "equal": AT_EQUAL_BATCH.name,
            "p50": "latency_p50_seconds",
            "p99": "latency_p99_seconds"}  # fmt: skip
COUNTS = ("epoll_wait", "reads", "reads that found nothing", "writes", "MODs",
          "accepts and closes", "events per wakeup", "messages per batch")  # fmt: skip
WRITTEN = ("RESULTS.md", "README.md", "SCALING.md")
EARLIER = ("et-vs-lt-1", "et-vs-lt-2")  # studies of nearly the same questions
SAME_POLICY = ("eagain", "short-read")
STEEPER = 0.2  # by which a slope may be wrong, if what makes batches large makes them dear, too
NOTHING = "–"  # noqa: RUF001 - as tables have it


@cache
def stored(name: str) -> Study:
    """Return the study stored under *name*."""
    return Study.from_json(lzma.decompress((HERE / f"{name}.json.xz").read_bytes()).decode())


@cache
def judged_anew(name: str) -> Study:
    """Return the study as today's code judges its slices."""
    study = stored(name)
    fitness, cells = judged_again(study)
    return Study(study_id="", started=0, design=study.design, fitness=fitness, cells=cells)


def stands(name: str) -> bool:
    """Whether today's code judges the stored slices as the study says."""
    now = judged_anew(name)
    return (now.fitness, now.cells) == (stored(name).fitness, stored(name).cells)


# Blocks.


def standing(name: str) -> Iterator[str]:
    """Say whether the rules of today accept the study."""
    study = stored(name)
    if stands(name):
        number = len(study.slices)
        yield f"Judged anew by today's code, the {number} stored slices give these verdicts."
        return
    refused = [cell for cell in judged_anew(name).cells if cell.not_comparable]
    whys = dict.fromkeys(str(cell.not_comparable) for cell in refused)
    whys |= dict.fromkeys(filter(None, [fingerprint.mixture(study.slices)]))
    yield (
        f"**Today's rules refuse this study.** Judged anew, {len(refused)} of {len(study.cells)} "
        "cells are not comparable, and no verdict below stands, whatever is said of it:"
    )
    yield ""
    yield from (f"- {why}." for why in whys)


def summary(name: str) -> Iterator[str]:
    """Say briefly what came out, for the README."""
    for outcome in CONFIRMATORY:
        effects = [(cell, _effect(cell, outcome.name)) for cell in _questions(stored(name))]
        winners = [(cell, effect) for cell, effect in effects if effect.verdict in BETTER]
        yield from _listed(
            f"Winners on {outcome.title}, of {_asked(stored(name))} cells, ET over LT",
            [f"{cell.cell}: {effect.sentence}, {_ratio(effect)}" for cell, effect in winners],
        )
    yield ""
    yield "The rest were too close for what the machine can see."
    if not stands(name):
        yield "**Today's rules refuse that study**, so this stands only until it is measured anew."


def setup(name: str) -> Iterator[str]:
    """Say how it was measured."""
    study = stored(name)
    design, machine = study.design, study.environment
    shared = design.pairs_per_daemon
    yield f"- `{study.command}`, {_day(study.started)}, build {machine.get('commit')}."
    yield (
        f"- {_asked(study)} questions and one A/A arm; {design.pairs} pairs of slices of "
        f"{design.slice_seconds:g} s in each, in randomised ABBA order, fresh daemons "
        f"{'for each pair' if shared == 1 else f'every {shared} pairs'}, "
        f"{design.settle_seconds:g} s of load before each slice that is not counted; "
        f"{(study.finished or study.started) - study.started:,.0f} s from the first to the last."
    )
    yield (
        f"- Machine: {machine.get('cores')} virtual cores of {machine.get('cpu')}, Linux "
        f"{machine.get('kernel')}, {machine.get('python')}; "
        f"{study.link.sentence if study.link else 'loopback'}."
    )
    received, owed = (sum(getattr(s, f) for s in study.slices) for f in ("received", "expected"))
    yield f"- {received:,} copies were received of {owed:,} owed."
    discarded = sum(cell.discarded for cell in study.cells)
    pairs = discarded + sum(cell.pairs for cell in study.cells)
    whys = {why: 0 for cell in study.cells for why in cell.discarded_because}
    for why in whys:
        whys[why] = sum(cell.discarded_because.get(why, 0) for cell in study.cells)
    because = "; ".join(f"{number} x {why.partition(':')[0]}" for why, number in whys.items())
    yield f"- {discarded} of {pairs} pairs were discarded{f' ({because})' if because else ''}."
    signs = [check.holds for cell in study.cells for check in cell.fingerprint]
    yield f"- {signs.count(True)} of {len(signs)} fingerprints hold."
    agree = sum(one.kernel == one.daemon for one in study.kernel)
    yield (
        f"- The kernel's probe ran in slices of its own: in {agree} of {len(study.kernel)} its "
        "wakeups, reads, EAGAINs, writes and `epoll_ctl` calls equal the daemon's own counts."
    )
    yield f"- {study.fitness.sentence}"


def found(name: str) -> Iterator[str]:
    """Say what came out, worst doubts last."""
    study = stored(name)
    sure: dict[str, list[str]] = {outcome.name: [] for outcome in CONFIRMATORY}
    hints: list[str] = []
    open_: list[str] = []
    for cell in _questions(study):
        for effect in cell.effects:
            told = f"{cell.cell}: {effect.sentence}, {TITLE[effect.outcome]} {interval(effect)}"
            if effect.verdict in BETTER:
                sure.get(effect.outcome, hints).append(told)
            elif effect.verdict is Kind.INCONCLUSIVE and effect.leaves_one_out:
                open_.append(f"{cell.cell}: {TITLE[effect.outcome]} {interval(effect)}")
    equal = [cell.cell for cell in _questions(study) if cell.verdict is Kind.EQUIVALENT]
    unjudged = [cell for cell in _questions(study) if cell.not_comparable]
    for outcome, rows in sure.items():
        yield from _listed(f"Winners on {TITLE[outcome]}, of {_asked(study)} cells", rows)
    yield from _listed(
        f"Equivalent within ±{percent(study.design.margin)} on CPU, not corrected", equal
    )
    yield from _listed("Exploratory: called better on another measure", hints)
    yield from _listed("Intervals that exclude 1 but do not survive the correction", open_)
    yield from _listed("Not comparable", [f"{c.cell}: {c.not_comparable}" for c in unjudged])


def _listed(what: str, rows: list[str]) -> Iterator[str]:
    yield f"- {what}: {len(rows) or 'none'}{'.' if not rows else ''}"
    yield from (f"  - {row}" for row in rows)


def verdicts(name: str) -> Iterator[str]:
    """Return the table of verdicts."""
    study = stored(name)
    equal = ("at equal batch, a over b", "verdict", "could have seen")
    total = ("CPU per delivered message, a over b", "verdict", "could have seen")
    hints = (f"latency {percentile} (exploratory)" for percentile in ("p50", "p99"))
    yield _row("cell", "pairs (discarded)", *total, *equal, *hints)
    yield "|---" * 10 + "|"
    for cell in study.cells:
        both = [_effect(cell, outcome.name) for outcome in CONFIRMATORY]
        words = [word for effect in both for word in _judged(cell, effect)]
        yield _row(cell.cell, f"{cell.pairs} ({cell.discarded})", *words,
                   *(_ratio(_effect(cell, MEASURES[m])) for m in ("p50", "p99")))  # fmt: skip


def _judged(cell: CellReport, effect: Effect) -> Iterator[str]:
    """Return a ratio, its verdict, and what could have been seen."""
    yield _ratio(effect)
    yield (effect.sentence or cell.sentence).partition(" (")[0]
    yield NOTHING if effect.detectable is None else percent(effect.detectable)


def counts(name: str) -> Iterator[str]:
    """Return the table of counts per message."""
    yield _row("cell", "arm", *COUNTS)
    yield "|---" * (2 + len(COUNTS)) + "|"
    for cell in stored(name).cells:
        for arm in (cell.a, cell.b):
            yield _row(cell.cell, arm.name, *(_count(arm, count) for count in COUNTS))


def woken(name: str) -> Iterator[str]:
    """Return the table of who wakes for one connection while all loops sleep."""
    study = stored(name)
    names = {cell.name: {"a": cell.a.name, "b": cell.b.name} for cell in study.design.cells}
    yield _row("cell", "arm", "loops woken (kernel)", "`epoll_wait` returned", "`accept4` in vain")
    yield "|---" * 5 + "|"
    for one in study.woken:
        seen = (one.loops, one.returns, one.in_vain)
        each = (f"{count / one.connections:.2f}" if one.connections else NOTHING for count in seen)
        yield _row(one.cell, names[one.cell][one.arm], *each)


def _count(arm: ArmReport, count: str) -> str:
    calls = arm.syscalls_per_message
    if count in {"events per wakeup", "messages per batch"}:
        spread = arm.outcomes.get(count.replace(" ", "_"))
        return f"{spread.median:.3g}" if spread else NOTHING
    if not calls:
        return NOTHING
    return "{:.3g}".format(
        {
            "epoll_wait": calls.get("epoll_wait", 0),
            "reads": calls.get("recvfrom", 0),
            "reads that found nothing": arm.eagain_per_message.get("recvfrom", 0),
            "writes": calls.get("sendto", 0) + calls.get("sendmsg", 0),
            "MODs": arm.epoll_ctl_per_message.get("mod", 0),
            "accepts and closes": calls.get("accept4", 0) + calls.get("close", 0),
        }[count]
    )


def policy(name: str) -> Iterator[str]:
    """Say what is left where both modes read in the same way."""
    study = stored(name)
    same = {cell.name for cell in study.design.cells if cell.drain in SAME_POLICY}
    for outcome in CONFIRMATORY:
        found = [(c, _effect(c, outcome.name)) for c in _questions(study) if c.cell in same]
        known = [(c, e) for c, e in found if e.ratio is not None and not c.not_comparable]
        seen = sorted(effect.detectable for _, effect in known if effect.detectable is not None)
        below = sum(effect.ratio < 1 for _, effect in known if effect.ratio is not None)
        without = [f"{c.cell}, {interval(effect)}" for c, effect in known if effect.leaves_one_out]
        winners = sum(effect.verdict in BETTER for _, effect in known)
        visible = f"{percent(seen[0])} to {percent(seen[-1])}" if seen else "nothing"
        yield (
            f"- {TITLE[outcome.name]}: {winners or 'no'} winner{'s' * (winners != 1)} in "
            f"{len(known)} cells; what could have been seen is {visible}. Ratios below 1: {below}. "
            "Intervals that exclude 1: "
            f"{'; '.join(without) or 'none'}."
        )


def replications(name: str) -> Iterator[str]:
    """Return the table of what each study made of what any of them called better."""
    names = (*EARLIER, name)
    studies = [{cell.cell: cell for cell in stored(one).cells} for one in names]
    starts = [stored(one).started for one in names]
    yield _row("cell", "measure", *(f"{_day(s)}, {_moment(s):%H:%M}" for s in starts))
    yield "|---" * (2 + len(names)) + "|"
    for cell in dict.fromkeys(cell for study in studies for cell in study):
        for outcome in CONFIRMATORY:
            effects = [
                _effect(s[cell], outcome.name) if cell in s and not s[cell].not_comparable else None
                for s in studies
            ]
            if any(effect and effect.verdict in BETTER for effect in effects):
                told = (f"{_ratio(e)}{'*' if e.verdict in BETTER else ''}" if e else NOTHING
                        for e in effects)  # fmt: skip
                measure = "CPU at equal batch" if outcome is AT_EQUAL_BATCH else "CPU"
                yield _row(cell, measure, *told)


def slopes(name: str) -> Iterator[str]:
    """Return the table of how the winners at equal batch hang on the line through their pairs."""
    study = stored(name)
    yield _row("cell", "batches, a over b", "slope", "at equal batch",
               f"were the slope {STEEPER:g} steeper")  # fmt: skip
    yield "|---" * 5 + "|"
    for cell in _questions(study):
        effect = _effect(cell, AT_EQUAL_BATCH.name)
        if effect.verdict in BETTER and effect.ratio and effect.slope is not None:
            pairs, *_ = paired(one for one in study.slices if one.cell == cell.cell)
            batch = fmean(_log_batches(pairs))
            steeper = effect.ratio * exp(STEEPER * batch)
            yield _row(cell.cell, f"{exp(batch):.2f}", f"{effect.slope:.2f}", f"{effect.ratio:.3f}",
                       f"{steeper:.3f}")  # fmt: skip


def _log_batches(pairs: list[Pair]) -> Iterator[float]:
    for pair in pairs:
        a, b = (one.outcomes.get(AT_EQUAL_BATCH.at_equal) for one in pair)
        if a and b:
            yield log(a / b)


# Figures.


def figure(kind: str, name: str, place: str) -> str:
    """Return one figure: a ratio of a cell, or a count of an arm of a cell."""
    cells = {cell.cell: cell for cell in stored(name).cells}
    if kind in MEASURES:
        return _ratio(_effect(cells[place], MEASURES[kind]))
    if kind == "seen":
        effect = _effect(cells[place], AT_EQUAL_BATCH.name)
        return NOTHING if effect.detectable is None else percent(effect.detectable)
    cell, side, count = place.rsplit("; ", 2)
    return _count(getattr(cells[cell], side), count)


BLOCKS = {
    one.__name__: one
    for one in (
        *(standing, summary, setup, found, policy, replications, slopes, verdicts, counts),
        woken,
    )
}


def written(text: str) -> str:
    """Return *text* with every block and figure as the stored studies have it."""
    text = BLOCK.sub(lambda m: "\n".join([m[1][:-1], *BLOCKS[m[2]](m[3]), m[4]]), text)
    return FIGURE.sub(lambda m: m[1] + figure(m[2], m[3], m[4]) + m[5], text)


def _questions(study: Study) -> list[CellReport]:
    controls = {cell.name for cell in study.design.cells if cell.control}
    return [cell for cell in study.cells if cell.cell not in controls]


def _asked(study: Study) -> int:
    return len(_questions(study))


def _effect(cell: CellReport, outcome: str) -> Effect:
    """Return what a cell says of an outcome; one stored before there was such says nothing."""
    found = (one for one in cell.effects if one.outcome == outcome)
    return next(found, Effect(outcome=outcome))


def _ratio(effect: Effect) -> str:
    return NOTHING if effect.ratio is None else interval(effect)


def _row(*words: str) -> str:
    return f"| {' | '.join(words)} |"


def _day(moment: float) -> str:
    return f"{_moment(moment):%-d %B %Y}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def take(path: Path, name: str) -> None:
    """Store a finished study under *name*.

    Raises ValueError if it is none, or if today's code judges it otherwise.
    """
    text = path.read_text()
    study = Study.from_json(text)
    if not study.complete:
        raise ValueError(f"{path}: the study is not finished")
    if judged_again(study) != (study.fitness, study.cells):
        raise ValueError(f"{path}: today's code judges its slices otherwise")
    (HERE / f"{name}.json.xz").write_bytes(lzma.compress(text.encode(), preset=9))


def anew(name: str) -> None:
    """Store the study as today's code judges its slices."""
    now = judged_anew(name)
    study = replace(stored(name), fitness=now.fitness, cells=now.cells)
    (HERE / f"{name}.json.xz").write_bytes(lzma.compress(study.to_json().encode(), preset=9))
    stored.cache_clear()


def main(words: list[str]) -> None:
    """Do what the words say."""
    if words[:1] == ["--anew"]:
        anew(words[1])
    elif words:
        option, file, name = words
        assert option == "--take", option  # noqa: S101 - there is no other
        take(Path(file), name)
    for name in WRITTEN:
        path = HERE.parent / name
        path.write_text(written(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
