"""Attacks at full size, and what they do to two bystanders: ``python -m tests.fire.siege``.

Two bystanders exchange RATE messages a second, sent at times that are fixed in advance; latency
runs from the time at which a message was due. A round has three blocks, in a random order:

- *quiet*: nobody attacks;
- *elsewhere*: the same attack is made on another daemon of the same kind on the same machine;
- *here*: it is made on theirs.

The factor is the p99 of a block over that of the round's quiet one, as the geometric mean of all
rounds with its 95 % interval (of the logarithms, Student's t). What *here* adds to *elsewhere* is
the daemon's doing; the rest is that attacker, daemons and bystanders share the processors.
What a bystander did not hear (a flood may make it a slow consumer) is counted beside it.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean, stdev
from time import monotonic
from typing import TYPE_CHECKING

from scipy import stats

from tests.fire.hostile import ATTACKS
from tests.system.rig import DaemonProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 200
BLOCK_SECONDS = 3.0
LAST_WORDS_SECONDS = 5.0  # after a block: what is not heard by then was not heard
LONGEST_SECONDS = 120.0
TICK = re.compile(rb"\] tick (\d+)\n")
LONGEST_TICK = 64
QUIET, ELSEWHERE, HERE = "quiet", "elsewhere", "here"
ENDLESS = 1 << 40
# Done to the end in each block: in five rounds 100,000 connections, and 1 GiB each time.
TO_THE_END = {"connect-storm": 20_000, "reset-storm": 20_000, "no-newline": 16_384}
CROWDS = {"slowloris": 500, "never-readers": 200}


class Pair:
    """Two who talk: one says the ticks, the other hears them."""

    def __init__(self, daemon: DaemonProcess) -> None:
        crowd = daemon.crowd(2)
        self.speaker, self.listener = (client.sock for client in crowd.clients)
        self.next = 0
        self._outgoing = b""
        self._due: dict[int, float] = {}
        self._taken: list[float] = []
        self._tail = b""

    def talk(
        self, attacker: subprocess.Popen[bytes] | None, *, waits: bool
    ) -> tuple[list[float], int]:
        """Talk for a block, or until the attack is done; return latencies, and how many lost."""
        self._due.clear()
        self._taken.clear()
        began = monotonic()
        end, said = began + BLOCK_SECONDS, 0
        while (now := monotonic()) < end or (waits and attacker and attacker.poll() is None):
            assert now < began + LONGEST_SECONDS, "the attack does not end"
            while began + said / RATE <= now:
                self._say(began + said / RATE)
                said += 1
            self._step(max(0.0, began + said / RATE - monotonic()))
        if attacker is not None:
            stop(attacker)
        deadline = monotonic() + LAST_WORDS_SECONDS
        while self._due and monotonic() < deadline:
            self._step(0.05)
        return list(self._taken), len(self._due)

    def _say(self, due: float) -> None:
        self._outgoing += b"tick %d\n" % self.next
        self._due[self.next] = due
        self.next += 1

    def _step(self, seconds: float) -> None:
        """Send and hear what is possible within so many seconds."""
        writers = [self.speaker] if self._outgoing else []
        readable, writable, _ = select.select([self.speaker, self.listener], writers, [], seconds)
        if writable:
            self._outgoing = self._outgoing[self.speaker.send(self._outgoing) :]
        if self.speaker in readable:
            self.speaker.recv(1 << 20)
        if self.listener in readable:
            data = self._tail + self.listener.recv(1 << 20)
            now = monotonic()
            for number in TICK.findall(data):
                due = self._due.pop(int(number), None)
                if due is not None:
                    self._taken.append(now - due)
            self._tail = data[-LONGEST_TICK:]


def stop(attacker: subprocess.Popen[bytes]) -> None:
    """Let go of its lifeline, and wait until it has ended."""
    assert attacker.stdin is not None
    attacker.stdin.close()
    attacker.wait(LONGEST_SECONDS)


@contextmanager
def attacking(name: str, daemon: DaemonProcess | None) -> Iterator[subprocess.Popen[bytes] | None]:
    """Attack *daemon* from a process of its own, or nobody."""
    if daemon is None:
        yield None
        return
    host, port = daemon.address
    size = (TO_THE_END | CROWDS).get(name, ENDLESS)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.fire.hostile", name),
            *(host, str(port), daemon.scrape_address, str(size)),
        ],
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        stop(process)
    assert process.returncode == 0, "the attack failed"


def quantile(values: list[float], share: float) -> float:
    """Return the value below which *share* of *values* are."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def factor(values: list[float]) -> str:
    """Return the geometric mean of *values* and its interval, in words."""
    logs = [math.log(value) for value in values]
    half = stats.t.ppf(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    middle = mean(logs)
    return f"{math.exp(middle):.2f} ({math.exp(middle - half):.2f}-{math.exp(middle + half):.2f})"


def until_quiet(daemon: DaemonProcess) -> None:
    """Wait until nobody but the bystanders is there."""
    until(lambda: daemon.metrics()["connections"] == 2, LONGEST_SECONDS)


def measure(mode: str, name: str, rounds: int, folder: Path) -> str:
    """Return a line of the table."""
    options = ATTACKS[name].options
    p99: dict[str, list[float]] = {QUIET: [], ELSEWHERE: [], HERE: []}
    lost = said = 0
    with ExitStack() as stack:
        daemons = {}
        for which in (ELSEWHERE, HERE):
            daemons[which] = DaemonProcess(mode, *options, log=folder / f"{mode}-{name}-{which}")
            stack.callback(daemons[which].close)
            daemons[which].wait_until_listening()
        pairs = {which: Pair(daemon) for which, daemon in daemons.items()}
        for _ in range(rounds):
            for block in random.sample(list(p99), len(p99)):
                with attacking(name, daemons.get(block)) as attacker:
                    taken, unheard = pairs[HERE].talk(attacker, waits=name in TO_THE_END)
                p99[block].append(quantile(taken, 0.99))
                if block == HERE:
                    lost, said = lost + unheard, said + unheard + len(taken)
                for daemon in daemons.values():
                    until_quiet(daemon)
        here = [a / b for a, b in zip(p99[HERE], p99[QUIET], strict=True)]
        elsewhere = [a / b for a, b in zip(p99[ELSEWHERE], p99[QUIET], strict=True)]
        return (
            f"| {name} | {mode} | {1e3 * mean(p99[QUIET]):.1f} | {1e3 * mean(p99[HERE]):.1f} "
            f"| {factor(here)} | {factor(elsewhere)} | {lost} of {said} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("attacks", nargs="*", default=list(ATTACKS))
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the daemons
    print("| attack | mode | p99 quiet, ms | here, ms | factor here | elsewhere | unheard |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.attacks:
            for mode in ("lt", "et"):
                print(measure(mode, name, chosen.rounds, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
