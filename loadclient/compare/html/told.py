"""The sections that are told, and laid out in tables. Pure: a study in, records out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.compare.html import tables
from loadclient.compare.html.findings import (
    asked,
    both,
    original_finding,
    reported,
    sentence,
)
from loadclient.compare.html.looks import verdict_look
from loadclient.compare.html.parts import Item, Section, capital
from loadclient.compare.report import EXPLORATORY, TWO_QUESTIONS
from loadclient.compare.slices import LEAST_SENT, MOST_LATE
from loadclient.compare.statistics import LEAST_PAIRS
from loadclient.compare.verdict import percent
from loadclient.stationarity import LEAST_SHIFT, SHORTEST_NS
from loadclient.verdict import BUSY_SHARE, LEAST_ON_TIME, STEAL_SHARE

if TYPE_CHECKING:
    from loadclient.compare.study import Study

GATES = (
    "A slice counts if its ledger balances; every message looked at came once, in order and "
    "undamaged; nobody was disconnected; the daemon's counters were joined; at least "
    f"{percent(LEAST_SENT)} of the offered messages were sent, and {percent(LEAST_ON_TIME)} of "
    "them on time, or it is called saturated; 99 % of the client's sends were "
    "less than an interval late; no worker of the "
    f"client used more than {percent(BUSY_SHARE)} of a core, nor did the "
    "forwarder of an emulated network, or deliver more than "
    f"{percent(MOST_LATE)} of its frames late; and the hypervisor took no more than "
    f"{percent(STEAL_SHARE)} of the processors' time. One that fails is discarded with its pair, "
    "but a daemon that lost, repeated, reordered or damaged anything ends its cell, and so does "
    "one that could not keep up in more slices than the other, or had more of them discarded for "
    "the client or the machine than chance gives to one of two. That some task waited for a "
    "processor (the pressure in the raw slices) is no gate: client and daemon always wait for each "
    "other on few cores. "
    f"A cell needs {LEAST_PAIRS} pairs. "
)
STATIONARY = (
    "And its latency was the same from beginning to end, or it is called not stationary: a change "
    f"by {LEAST_SHIFT:g} times between its halves, in an order of its windows that chance hardly "
    "makes. "
)
TOO_SHORT = (
    "Whether latency was the same from beginning to end is not asked of slices this short: a "
    f"neighbour's tenths of a second would look like it. From {SHORTEST_NS / 1e9:g} s on it is a "
    "gate, too. "
)
BY_THE_CALL = (
    "From one slice of its own for each arm, from before its first connection to after its last. "
    "No time of these slices is used: the probe charges by the call, so it would make the arm "
    "that calls more look slower than it is."
)
TOO_FEW = "There are no valid pairs yet."


def verdicts_by_cell(study: Study) -> Section:
    """Say the verdict of each cell."""
    pairs = asked(study)
    compared = sum(report.not_comparable is None for _, report in pairs)
    return Section(
        name="verdicts",
        subject="Verdict per cell",
        title=f"Server CPU: {both(pairs)}" if pairs else "No verdict yet",
        paragraphs=[
            (
                f"{TWO_QUESTIONS} The other ratios are Hodges-Lehmann estimates over pairs with "
                f"exact {percent(study.design.confidence)} intervals; p is corrected by Holm for "
                f"both questions in the {compared} cells that could be compared. A difference "
                f"under {percent(study.design.margin)} counts as none. {EXPLORATORY}"
            )
        ],
        items=[
            Item(cell.name, sentence(cell, report), verdict_look(cell, report.verdict))
            for cell, report in pairs
        ],
    )


def kernel(study: Study) -> Section:
    """Say what the kernel's probe counted, beside the daemon's own counts."""
    counts = sum(len(one.kernel) for one in study.kernel)
    disputed = [(one, name) for one in study.kernel for name in one.contradictions]
    silent = dict.fromkeys(one.unavailable for one in study.kernel if one.unavailable)
    title = "The kernel was not asked"
    if disputed:
        title = f"The kernel and the daemons disagree in {len(disputed)} of {counts} counts"
    elif counts:
        title = f"The kernel counts what the daemons count: all {counts} counts are equal"
    return Section(
        name="kernel",
        subject="The kernel's testimony",
        title=title,
        paragraphs=[
            BY_THE_CALL if counts else "Every count on this page is the daemons' own.",
            *(f"The kernel says nothing of some arms: {why}" for why in silent),
        ],
        items=[
            Item(
                one.cell,
                f"{one.arm}: the kernel counts {one.kernel[name]:,.0f} {name}, the daemon "
                f"{one.daemon.get(name, 0):,.0f}",
            )
            for one, name in disputed
        ],
        tables=[
            *([tables.kernel(study)] if counts else ()),
            *([tables.woken(study)] if any(one.connections for one in study.woken) else ()),
        ],
    )


def in_force(study: Study) -> Section:
    """Say whether each mode was really in force."""
    pairs = reported(study)
    checks = [check for _, report in pairs for check in report.fingerprint]
    failed = sum(check.holds is False for check in checks)
    unseen = sum(check.holds is None for check in checks)
    obstacles = [(cell.name, report.not_comparable) for cell, report in pairs]
    found = f"{failed} of {len(checks)} signs are missing" if failed else "every mode was in force"
    found += f", as far as can be seen: {unseen} signs are not shown" if unseen else ""
    return Section(
        name="fingerprint",
        subject="Was the mode in force?",
        title=capital(found) if checks else "Nothing shows yet whether the modes were in force",
        paragraphs=[
            "Read from the daemons' counters before any verdict. A cell that fails a check is "
            "not compared."
            if checks
            else "The study has no fingerprints: there are no valid pairs."
        ],
        items=[Item(name, f"not comparable: {why}") for name, why in obstacles if why],
        tables=[tables.fingerprint(pairs)] if checks else (),
    )


def discarded(study: Study) -> Section:
    """Say what a slice had to be, and how many were not."""
    pairs = reported(study)
    discarded = sum(report.discarded for _, report in pairs)
    valid = sum(report.pairs for _, report in pairs)
    invalid = sum(not one.valid for one in study.slices)
    warnings = {text for one in study.slices for text in one.warnings}
    return Section(
        name="gates",
        subject="Validity gates",
        title=f"{discarded} of {discarded + valid} pairs discarded, because {invalid} of "
        f"{len(study.slices)} slices were not valid",
        paragraphs=[
            GATES + (STATIONARY if study.design.slice_seconds * 1e9 >= SHORTEST_NS else TOO_SHORT),
            f"Besides, {len(warnings)} different warnings were given; they are in the raw slices."
            if warnings
            else "No slice gave a warning.",
        ],
        tables=[tables.gates(study, pairs)],
    )


def ledger(study: Study) -> Section:
    """Say what was owed and what came."""
    pairs = reported(study)
    sides = [side for _, report in pairs for side in (report.a, report.b) if side.ledger]
    missing = sum(abs(tables.unaccounted(side) or 0) for side in sides)
    lost = sum(side.ledger.get("lost", 0) for side in sides)
    owed = sum(side.ledger.get("expected", 0) for side in sides)
    balance = f"{missing:,} copies are unaccounted for" if missing else "every copy accounted for"
    return Section(
        name="ledger",
        subject="Ledger",
        title=capital(f"{balance}: {owed:,} owed, {lost:,} lost")
        if sides
        else "Ledger: nothing yet",
        paragraphs=[
            "Valid slices only. A message sent is owed as a copy to every other client that "
            "reads. Expected = received + lost; lost copies were announced to the peer, or it "
            "was disconnected with a reason. What is left is unaccounted for, and must be 0."
            if sides
            else TOO_FEW
        ],
        tables=[tables.ledger(pairs)] if sides else (),
    )


def original(study: Study) -> Section:
    """Say what the original's score hides."""
    rows = study.original
    return Section(
        name="original",
        subject="The original's table",
        title=original_finding(study),
        paragraphs=[
            "Its score is what was sent, and its bytes/s are bytes per millisecond. Beside it is "
            "what that hides: what was processed, what was still in the kernel's buffers, and what "
            "was delivered in a second run in which everybody reads."
            if rows
            else "This study did not ask for it (--preset original does)."
        ],
        tables=[tables.original(rows)] if rows else (),
    )


def conditions(study: Study) -> Section:
    """Say on which machine and by which design it was measured."""
    design = study.design
    settings = {
        "command": study.command,
        "study": study.study_id,
        "schema": study.schema,
        "preset": design.preset,
        "seed": design.seed,
        "pairs": design.pairs,
        "pairs_per_daemon": design.pairs_per_daemon,
        "slice_seconds": design.slice_seconds,
        "settle_seconds": design.settle_seconds,
        "confidence": design.confidence,
        "margin": design.margin,
        "started (unix time)": study.started,
        "finished (unix time)": study.finished,
        "network": study.link.sentence if study.link else "loopback",
        **{f"every cell: {key}": value for key, value in tables.common(study).items()},
    }
    machine = study.environment
    words = (
        text.format(machine[key])
        for key, text in (("kernel", "Linux {}"), ("cpu", "{}"), ("cores", "{} cores"))
        if machine.get(key)
    )
    return Section(
        name="conditions",
        subject="Machine and design",
        title=f"Measured on: {', '.join(words) or 'an unknown machine'}",
        paragraphs=[
            *([] if machine else ["The study does not say on which machine it was measured."]),
            *([f"Network: {study.link.sentence}."] if study.link else []),
        ],
        tables=[
            tables.facts("environment", "Environment", machine),
            tables.facts("design", "Design", settings),
            tables.loads(study),
            tables.daemons(study.slices),
        ],
    )


def limits(study: Study) -> Section:
    """Say what the figures do not."""
    return Section(
        name="limits",
        subject="What the figures do not say",
        title="What the figures do not say",
        paragraphs=study.notes or ["The study carries no notes."],
    )
