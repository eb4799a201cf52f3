"""A long run of mixed load with churn: ``python -m tests.fire.soak MODE MINUTES [PACE [CSV]]``.

MODE is lt, et, or both at once; PACE the time between one's talk and another's, in seconds; CSV a
file for what was seen (both: two files, MODE-CSV).

Some stay and hear everything; others come, talk, and leave in every way there is; some read too
little and miss messages. Once a second the daemon is asked for its figures. At each of those who
stay the lines of every speaker come in their order, none twice, and what is missing between them
was announced; at the end what each heard, or was told that it missed, is exactly what was said.
"""

from __future__ import annotations

import random
import re
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from scipy import stats

from tests.daemon.rig import RESET_ON_CLOSE
from tests.fire.hearing import Hearing, assert_accounted
from tests.system.rig import Client, Crowd, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

STAYING, SLEEPY, VISITING = 8, 4, 12
OPTIONS = ("--high-water-bytes", "32768", "--sndbuf", "8192", "--max-line-bytes", "1024")
TOO_LONG = b"z" * 3000 + b"\n"
NEVER_BACKWARDS = ("_total", "_bucket", "_count", "_sum")
MOVE_SECONDS = 0.02  # between one's talk and another's: a load, not a flood
SMAPS = re.compile(r"^(Anonymous): +(\d+) kB", re.MULTILINE)
BLOCKS = 30  # means of the resident memory over time: neighbours in time are alike, means less so
GROWTH_BYTES = 2 << 20  # the interpreter's own ups and downs, and what outboxes may hold
LONG_SECONDS = 590.0  # ten minutes, less the last look: before that a slope is caches that fill
SLOPE_BYTES_PER_HOUR = 1e6  # an hour showed 0.02 MB


def anonymous_bytes(pid: int) -> int:
    """Return what a process holds of its own: heap and arenas, without pages of files."""
    kinds = dict(SMAPS.findall(Path(f"/proc/{pid}/smaps_rollup").read_text()))
    return int(kinds["Anonymous"]) << 10


def spare_descriptors(found: Mapping[str, float]) -> float:
    """Return how many descriptors the daemon has beside its peers'."""
    return found["open_fds"] - found["connections"]


class Resident(Client):
    """One who stays; it numbers what it says, checks what it hears, and keeps none of it."""

    def __init__(self, address: tuple[str, int], number: int, rcvbuf: int = 0) -> None:
        super().__init__(address, rcvbuf)
        self.number = number  # as the daemon counts: in the order in which they connect
        self.said = 0
        self.hearing = Hearing()

    def say_lines(self, words: bytes, times: int = 1) -> None:
        numbers = range(self.said + 1, self.said + times + 1)
        self.said += times
        self.say(b"".join(b"%d %b\n" % (number, words) for number in numbers))

    def step(self) -> None:
        super().step()
        end = self.inbox.rfind(b"\n") + 1
        block = bytes(self.inbox[:end])
        del self.inbox[:end]
        self.hearing.hear(block)

    @property
    def accounted(self) -> int:
        """How many messages it heard, or was told that it missed."""
        return self.hearing.heard + self.hearing.told


class Visitor(Client):
    """One who comes, says whole lines and others, and leaves."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.said = 0  # lines that are messages

    def say_something(self, random: random.Random) -> None:
        hello = b"%d hello\n" % (self.said + 1)
        words = random.choice((hello, b"half a line", TOO_LONG, b"\n" * 50))
        self.said += 0 if words is TOO_LONG else words.count(b"\n")
        self.say(words)


@dataclass
class Figures:
    """What was seen once a second."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    anonymous: list[float] = field(default_factory=list)
    spare_descriptors: list[float] = field(default_factory=list)  # beside the peers'
    last: dict[str, float] = field(default_factory=dict)

    def note(self, at: float, found: dict[str, float], anonymous: int) -> None:
        """Keep what matters of *found*; no counter may have gone back."""
        for name, value in self.last.items():
            if name.split(" ")[0].endswith(NEVER_BACKWARDS):
                assert found[name] >= value, f"{name} went back from {value} to {found[name]}"
        self.last = found
        self.seconds.append(at)
        self.memory.append(found["resident_memory_bytes"])
        self.anonymous.append(anonymous)
        self.spare_descriptors.append(spare_descriptors(found))

    def slope(self, values: list[float], left_out: float = 0.2) -> tuple[float, float]:
        """Return the growth of *values* per hour and the half width of its 95 % interval.

        What is left out at first (a share of the time) is when buffers and caches of the
        interpreter fill.
        """
        first = int(len(self.seconds) * left_out)
        size = max(1, (len(self.seconds) - first) // BLOCKS)
        starts = range(first, len(self.seconds) - size + 1, size)
        x = [sum(self.seconds[i : i + size]) / size for i in starts]
        y = [sum(values[i : i + size]) / size for i in starts]
        if min(y) == max(y):  # nothing to fit: scipy's interval would be nan
            return 0.0, 0.0
        fit = stats.linregress(x, y)
        half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
        return fit.slope * 3600, half * 3600

    def assert_flat(self) -> None:
        """Memory has not grown by much, and in a long run is not shown to grow by the hour."""
        grown = self.memory[-1] - self.memory[len(self.memory) // 5]
        assert grown < GROWTH_BYTES, f"memory grew by {grown / 1e6:.2f} MB"
        if self.seconds[-1] >= LONG_SECONDS:
            slope, half = self.slope(self.memory)
            assert slope - half < SLOPE_BYTES_PER_HOUR, self.told_slope(self.memory, 0.2)

    def told_slope(self, values: list[float], left_out: float) -> str:
        """Return `slope` in words."""
        slope, half = self.slope(values, left_out)
        return (
            f"{slope / 1e6:+.2f} MB an hour "
            f"(95 %: {(slope - half) / 1e6:+.2f} to {(slope + half) / 1e6:+.2f})"
        )

    def save(self, path: Path) -> None:
        """Write one line per look."""
        with path.open("w") as out:
            out.write("seconds,resident_bytes,anonymous_bytes,spare_descriptors\n")
            for row in zip(
                self.seconds, self.memory, self.anonymous, self.spare_descriptors, strict=True
            ):
                out.write(",".join(f"{value:.0f}" for value in row) + "\n")


class Soak:
    """One daemon and its crowd."""

    def __init__(self, daemon: DaemonProcess, seed: int, pace: float = MOVE_SECONDS) -> None:
        self.daemon = daemon
        self.pace = pace
        self.random = random.Random(seed)  # noqa: S311 - a script, not a secret
        self.staying = [Resident(daemon.address, 1 + n) for n in range(STAYING)]
        self.sleepy = [Resident(daemon.address, 1 + STAYING + n, 4096) for n in range(SLEEPY)]
        self.residents = [*self.staying, *self.sleepy]
        self.visitors: list[Visitor] = []
        self.visits = self.lines = 0
        self.figures = Figures()
        until(lambda: daemon.metrics()["connections"] == len(self.residents))

    def run(self, seconds: float) -> None:
        began, due, move_due = monotonic(), 0.0, 0.0
        while (at := monotonic() - began) < seconds:
            if at >= move_due:
                move_due = at + self.pace
                self._talk()
                self._come_and_go()
                for sleeper in self.sleepy:
                    sleeper.reads = self.random.random() < 0.02
            Crowd([*self.residents, *self.visitors]).step(milliseconds=5)
            if at >= due:
                due = at + min(1.0, seconds / 20)
                self._look(at)

    def _look(self, at: float) -> None:
        self.figures.note(at, self.daemon.metrics(), anonymous_bytes(self.daemon.pid))

    def _talk(self) -> None:
        for speaker in self.random.sample(self.residents, 3):
            words = self.random.choice((b"short", b"y" * 200, b"x" * 1000))
            times = self.random.randrange(1, 20)
            if len(speaker.outgoing) < 1 << 16:
                speaker.say_lines(words, times)
                self.lines += times

    def _come_and_go(self) -> None:
        if len(self.visitors) < VISITING:
            self.visitors.append(Visitor(self.daemon.address))
            self.visits += 1
        visitor = self.random.choice(self.visitors)
        visitor.say_something(self.random)
        visitor.reads = self.random.random() < 0.7
        visitor.inbox.clear()
        leaving = self.random.choice(self.visitors)
        match self.random.randrange(8):
            case 0:
                leaving.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            case 1:
                leaving.sock.shutdown(socket.SHUT_WR) if not leaving.at_end else None
                leaving.outgoing = b""
                return
            case 2:
                pass
            case _:
                return
        leaving.sock.close()
        self.visitors.remove(leaving)

    def settle(self) -> dict[str, float]:
        """Let the visitors go and those who stay hear all; return the last figures."""
        for visitor in self.visitors:
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            visitor.sock.close()
        for sleeper in self.sleepy:
            sleeper.reads = True
        crowd = Crowd(self.residents)
        crowd.until(lambda: not any(one.outgoing for one in self.residents), 120)
        self.staying[0].say_lines(b"good night")  # those that only finished are found out by it
        crowd.until(self._is_quiet, 120)
        found: dict[str, float] = {}

        def has_no_more_descriptors() -> bool:  # the scrape before may still be ending: once more
            nonlocal found
            found = self.daemon.quiet_metrics()
            return spare_descriptors(found) <= self.figures.spare_descriptors[0]

        until(has_no_more_descriptors)
        self.figures.note(self.figures.seconds[-1] + 1, found, anonymous_bytes(self.daemon.pid))
        return found

    def _is_quiet(self) -> bool:
        before = self.daemon.metrics()
        accounted = [one.accounted for one in self.residents]
        for _ in range(20):
            Crowd(self.residents).step()
        return (
            accounted == [one.accounted for one in self.residents]
            and not before["outbox_bytes"]
            and before["connections"] == len(self.residents)
            and all(one.accounted == self._owed(before, one) for one in self.residents)
        )

    @staticmethod
    def _owed(found: Mapping[str, float], one: Resident) -> float:
        return found["messages_received_total"] - one.said

    def check(self, found: dict[str, float]) -> None:
        """Check the ledger to the message, what each heard line by line, descriptors, memory."""
        assert_ledger(found)
        assert found["outbox_messages"] == found["outbox_bytes"] == 0
        for one in self.residents:
            assert one.accounted == self._owed(found, one)
        assert_accounted(
            {one.number: one.hearing for one in self.residents},
            {one.number: one.said for one in self.residents},
            found["messages_received_total"],
        )
        assert max(self.figures.spare_descriptors) - min(self.figures.spare_descriptors) <= 24
        self.figures.assert_flat()

    def told(self, found: Mapping[str, float]) -> str:
        """Return what was seen, in a few lines."""
        figures = self.figures
        heard = sum(one.hearing.heard for one in self.residents)
        missed = sum(one.hearing.told for one in self.residents)
        seconds, memory, own = figures.seconds[-1], figures.memory, figures.anonymous
        spare = figures.spare_descriptors
        return (
            f"{seconds:.0f} s, {self.visits:,} visits, "
            f"{found['messages_received_total']:,.0f} messages accepted, "
            f"{found['messages_enqueued_total']:,.0f} copies owed, "
            f"{found['messages_delivered_total']:,.0f} delivered; "
            f"{len(self.residents)} residents heard {heard:,} "
            f"and were told of {missed:,} missed: exact, line by line\n"
            f"memory {memory[0] / 1e6:.2f} MB at first, {memory[-1] / 1e6:.2f} MB at last, "
            f"slope {figures.told_slope(memory, 0.2)}, "
            f"of the second half {figures.told_slope(memory, 0.5)}; "
            f"anonymous {own[0] / 1e6:.2f} and {own[-1] / 1e6:.2f} MB, "
            f"second half {figures.told_slope(own, 0.5)}; "
            f"descriptors beside the peers' {min(spare):.0f} to {max(spare):.0f}, "
            f"at last {spare[-1]:.0f}"
        )

    def close(self) -> None:
        for one in [*self.residents, *self.visitors]:
            one.sock.close()


def soak(
    mode: str,
    seconds: float,
    folder: Path,
    pace: float = MOVE_SECONDS,
    csv: Path | None = None,
) -> str:
    """Run it; return what was seen."""
    daemon = DaemonProcess(mode, *OPTIONS, log=folder / f"soak-{mode}.log")
    try:
        daemon.wait_until_listening()
        running = Soak(daemon, seed=6, pace=pace)
        running.run(seconds)
        if csv is not None:
            running.figures.save(csv)
        found = running.settle()
        running.check(found)
        running.close()
        return running.told(found)
    finally:
        daemon.close()


def soak_both(
    seconds: float, folder: Path, pace: float = MOVE_SECONDS, csv: Path | None = None
) -> dict[str, str]:
    """Run it in both modes at once; return what was seen, by mode."""
    with ThreadPoolExecutor() as pool:
        running = {
            mode: pool.submit(
                soak, mode, seconds, folder, pace, csv and csv.with_name(f"{mode}-{csv.name}")
            )
            for mode in ("lt", "et")
        }
    return {mode: run.result() for mode, run in running.items()}


def main() -> None:
    mode, minutes, *more = sys.argv[1:]
    seconds = float(minutes) * 60
    pace = float(more[0]) if more else MOVE_SECONDS
    csv = Path(more[1]) if more[1:] else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if mode == "both":
            told = soak_both(seconds, folder, pace, csv)
        else:
            told = {mode: soak(mode, seconds, folder, pace, csv)}
    for which, seen in told.items():
        print(f"{which}: {seen}", flush=True)


if __name__ == "__main__":
    main()
