"""Was the mode really in force? Read from counters, before anybody is called better. Pure.

LT that reads once per event never finds nothing; its write side costs MODs. ET registers once and
never modifies, and finds nothing once per drained event. A daemon that was started in a mode and
does not show its marks is not compared. Its own counters can only say how it behaves: by which
trigger it is woken the kernel says. What nobody can look at is said to be so, and holds for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.compare.study import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loadclient.compare.study import Arm, Cell, KernelCounts, Slice

SLACK = 0.1  # of the turns: one of them may end with the end of input
RARELY = 0.05  # reads that find nothing per event, where a short read ends the turn
DRAINED = 0.4  # of the turns at least, where it was asked that they drain
UNCOUNTED = 0.01  # of the messages: those on the edge of the measured phase
NOT_EXPORTED = "not exported"
MODE_DECIDES = {"reads_per_event"}  # what a mode sets by itself, if nobody does


def checks(arm: Arm, slices: Sequence[Slice], conns: int) -> tuple[Check, ...]:
    """Return what one arm's slices of *conns* connections say of its mode and its read policy."""
    return tuple(_checks(arm, slices, conns))


def _checks(arm: Arm, slices: Sequence[Slice], conns: int) -> Iterator[Check]:
    modes = sorted({one.mode for one in slices})
    yield Check(
        arm=arm.name,
        claim=f"its metrics say mode {arm.mode}",
        measured=", ".join(modes),
        holds=modes == [arm.mode],
    )
    yield _registered(arm, slices, conns)
    for name, value in arm.options.items():
        exported = sorted({one.config.get(_key(name), NOT_EXPORTED) for one in slices})
        yield Check(
            arm=arm.name,
            claim=f"its metrics say {name} {value}",
            measured=", ".join(exported),
            holds=None if exported == [NOT_EXPORTED] else exported == [value],
        )
    if arm.instances > 1:
        exported = sorted({one.config.get("instances", "1") for one in slices})
        yield Check(
            arm=arm.name,
            claim=f"{arm.instances} instances were counted",
            measured=", ".join(exported),
            holds=exported == [str(arm.instances)],
        )
    if arm.mode == "et":
        mods = sum(one.epoll_ctl.get("mod", 0) for one in slices)
        yield Check(
            arm=arm.name, claim="no epoll_ctl MOD", measured=f"{mods:.0f} MODs", holds=not mods
        )
    yield _reads(arm, slices)
    yield _batches(arm, slices)


def _registered(arm: Arm, slices: Sequence[Slice], conns: int) -> Check:
    """Return whether the kernel wakes the daemon as its mode says."""
    kind = {"et": "edge", "lt": "level"}[arm.mode]
    found = [one.registered for one in slices]
    edges, levels = ([one.get(mode, 0) for one in found] for mode in ("et", "lt"))
    if not all(found):
        measured, holds = "not seen: the kernel could not be asked", None
    else:
        measured = f"{min(edges)} edge-triggered, {max(levels)} level-triggered"
        holds = min(edges) >= conns if arm.mode == "et" else min(levels) >= conns > max(edges) == 0
    claim = f"the kernel has at least {conns} connections registered, {kind}-triggered"
    return Check(arm=arm.name, claim=claim, measured=measured, holds=holds)


def _reads(arm: Arm, slices: Sequence[Slice]) -> Check:
    """Return whether reads found nothing as often as the read policy says.

    A turn of several reads ends with one that finds nothing, unless its budget ended it. Those are
    not counted by the daemon, but they cannot be more than the reads allow: each took the whole
    budget, and every other turn at least one read.
    """
    empty = sum(one.eagain.get("recvfrom", 0) for one in slices)
    turns = sum(one.epoll_events.get(kind, 0) for one in slices for kind in ("in", "hup"))
    turns += sum(one.revisits for one in slices)
    by_bus = sum(one.heard_by_bus + one.seconds * _signs(arm) for one in slices)
    reads = sum(one.syscalls.get("recvfrom", 0) for one in slices)
    config = slices[-1].config if slices else {}
    budget = int(config.get("reads_per_event", 1))
    counted = bool(turns and reads) and "reads_per_event" in config
    if budget == 1:
        claim, holds = "no read that finds nothing", not empty
    elif config.get("drain") == "short-read":
        claim, holds = "hardly a read that finds nothing", empty <= RARELY * turns
    else:
        cut_short = max(0.0, (reads - turns) / (budget - 1))
        claim = "about one read that finds nothing per drained event"
        holds = (1 - SLACK) * (turns - cut_short - by_bus) <= empty <= (1 + SLACK) * turns
        if "drain" in arm.options:  # else the mode's own, which a backlog may well outlast
            claim = "a read that finds nothing at the end of most turns"
            holds = holds and empty >= DRAINED * (turns - by_bus)
    measured = f"{empty:.0f} such reads in {turns:.0f} turns" if counted else NOT_EXPORTED
    return Check(arm=arm.name, claim=claim, measured=measured, holds=counted and holds)


def _batches(arm: Arm, slices: Sequence[Slice]) -> Check:
    """Return whether the sizes of its batches, as it counts them, add up to what was sent."""
    batches = [sum(one.batch_messages.values()) for one in slices]
    carried = sum(
        number * (one.outcomes.get("messages_per_batch") or 0)
        for number, one in zip(batches, slices, strict=True)
    )
    sent = sum(one.sent for one in slices)
    turns = sum(one.syscalls.get("epoll_wait", 0) for one in slices)
    whole = sum(batches)
    size = f"{carried / whole:.3g} messages each" if whole else "none"
    return Check(
        arm=arm.name,
        claim="at most one batch for each wait, and every message in one",
        measured=f"{whole:.0f} batches of {size} in {turns:.0f} waits, for {sent} messages",
        holds=0 < whole <= turns and abs(carried - sent) <= UNCOUNTED * sent,
    )


def _signs(arm: Arm) -> float:
    """Return how many signs of life an arm's instances hear in a second, each an event."""
    return arm.instances * (arm.instances - 1)


def contradiction(cell: Cell, kernel: Iterable[KernelCounts]) -> str | None:
    """Return what the kernel counts otherwise than one of the daemons, if anything.

    Every other sign is the daemon's own word: if one count of it is wrong, no count shows its mode.
    """
    for one in kernel:
        for name in one.contradictions if one.cell == cell.name else ():
            return (
                f"{cell.arms[one.arm].name} does not count what it does: the kernel counts "
                f"{one.kernel[name]:,.0f} {name}, the daemon {one.daemon.get(name, 0):,.0f}"
            )
    return None


def unarmed(cell: Cell, arm: Arm, slices: Iterable[Slice]) -> str | None:
    """Return why an arm does not wait to write as LT does, if it met full sockets and does not.

    Only where somebody reads badly by design: a socket that is full once may be one that closes.
    That the MODs it counts are those it makes is the kernel's to say.
    """
    if arm.mode != "lt" or not (cell.shape.slow_readers or cell.shape.never_readers):
        return None
    slices = list(slices)
    full = sum(one.eagain.get(kind, 0) for one in slices for kind in ("sendto", "sendmsg"))
    mods = sum(one.epoll_ctl.get("mod", 0) for one in slices)
    if mods or not full:
        return None
    return (
        f"{arm.name} was to show an epoll_ctl MOD where a socket is full, but shows none for "
        f"{full:,.0f} of them"
    )


def difference(cell: Cell, a: Sequence[Slice], b: Sequence[Slice]) -> str | None:
    """Return what else than the arms' own options differs between the two daemons, if anything."""
    meant = MODE_DECIDES | {_key(name) for arm in (cell.a, cell.b) for name in arm.options}
    if cell.a.instances != cell.b.instances:
        meant |= {"instances"}
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
    does not know of itself (no git, no checkout) is passed over, and so is a reboot.
    """
    slices = list(slices)
    for what, records in (
        ("the daemon's", [one.build for one in slices]),
        ("the load client's", [one.client for one in slices]),
    ):
        for name in sorted({name for record in records for name in record} - {"boot"}):
            found = sorted({word for record in records if (word := record.get(name))})
            if len(found) > 1:
                origin = "machines" if name in {"cpu", "kernel"} else "builds"
                return (
                    f"slices come from different {origin}: {what} {name} is {' and '.join(found)}"
                )
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
