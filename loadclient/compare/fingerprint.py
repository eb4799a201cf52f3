"""Was the mode really in force? Read from counters, before anybody is called better. Pure.

LT that reads once per event never finds nothing; its write side costs MODs. ET registers once and
never modifies, and finds nothing once per drained event. A daemon that was started in a mode and
does not show its marks is not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.compare.study import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loadclient.compare.study import Arm, Cell, Slice

SLACK = 0.1  # of the turns: one of them may end with the end of input
RARELY = 0.05  # reads that find nothing per event, where a short read ends the turn
MODE_DECIDES = {"reads_per_event"}  # what a mode sets by itself, if nobody does


def checks(arm: Arm, slices: Sequence[Slice]) -> tuple[Check, ...]:
    """Return what the counters of one arm's slices say of its mode and its read policy."""
    return tuple(_checks(arm, slices))


def _checks(arm: Arm, slices: Sequence[Slice]) -> Iterator[Check]:
    modes = sorted({one.mode for one in slices})
    yield Check(
        arm=arm.name,
        claim=f"its metrics say mode {arm.mode}",
        measured=", ".join(modes),
        holds=modes == [arm.mode],
    )
    for name, value in arm.options.items():  # what it does not export, nobody can check
        exported = sorted({one.config.get(_key(name), value) for one in slices})
        yield Check(
            arm=arm.name,
            claim=f"its metrics say {name} {value}",
            measured=", ".join(exported),
            holds=exported == [value],
        )
    if arm.mode == "et":
        mods = sum(one.epoll_ctl.get("mod", 0) for one in slices)
        yield Check(
            arm=arm.name, claim="no epoll_ctl MOD", measured=f"{mods:.0f} MODs", holds=not mods
        )
    yield _reads(arm, slices)


def _reads(arm: Arm, slices: Sequence[Slice]) -> Check:
    """Return whether reads found nothing as often as the read policy says.

    A turn of several reads ends with one that finds nothing, unless its budget ended it. Those are
    not counted by the daemon, but they cannot be more than the reads allow: each took the whole
    budget, and every other turn at least one read.
    """
    empty = sum(one.eagain.get("recvfrom", 0) for one in slices)
    turns = sum(one.epoll_events.get(kind, 0) for one in slices for kind in ("in", "hup"))
    turns += sum(one.revisits for one in slices)
    reads = sum(one.syscalls.get("recvfrom", 0) for one in slices)
    config = slices[-1].config if slices else {}
    budget = int(config.get("reads_per_event", 1))
    if budget == 1:
        claim, holds = "no read that finds nothing", not empty
    elif config.get("drain") == "short-read":
        claim, holds = "hardly a read that finds nothing", empty <= RARELY * turns
    else:
        cut_short = max(0.0, (reads - turns) / (budget - 1))
        claim = "about one read that finds nothing per drained event"
        holds = (1 - SLACK) * (turns - cut_short) <= empty <= (1 + SLACK) * turns
    measured = f"{empty:.0f} such reads in {turns:.0f} turns"
    return Check(arm=arm.name, claim=claim, measured=measured, holds=holds)


def difference(cell: Cell, a: Sequence[Slice], b: Sequence[Slice]) -> str | None:
    """Return what else than the arms' own options differs between the two daemons, if anything."""
    meant = MODE_DECIDES | {_key(name) for arm in (cell.a, cell.b) for name in arm.options}
    for what, left, right in (
        ("build", _one([one.build for one in a]), _one([one.build for one in b])),
        ("configuration", _one([one.config for one in a]), _one([one.config for one in b])),
    ):
        for name in sorted(left.keys() | right.keys()):
            if name not in meant and left.get(name) != right.get(name):
                return (
                    f"the daemons differ in more than was asked: {what} {name} is "
                    f"{left.get(name)} and {right.get(name)}"
                )
    return None


def mixture(slices: Iterable[Slice]) -> str | None:
    """Return what slices of one arm differ in that were measured at different times, if anything.

    A study that somebody goes on with after a change would compare the change, too. What a build
    does not know of itself (no git, no checkout) is passed over.
    """
    slices = list(slices)
    for what, records in (
        ("the daemon's", [one.build for one in slices]),
        ("the load client's", [one.client for one in slices]),
    ):
        for name in sorted({name for record in records for name in record}):
            found = sorted({word for record in records if (word := record.get(name))})
            if len(found) > 1:
                return f"slices come from different builds: {what} {name} is {' and '.join(found)}"
    return None


def _one(records: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return all that the records say; what they disagree about is listed."""
    names = {name for record in records for name in record}
    return {
        name: "/".join(sorted({record.get(name, "nothing") for record in records}))
        for name in names
    }


def _key(option: str) -> str:
    return option.replace("-", "_")
