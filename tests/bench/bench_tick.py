"""CPU of one tick, without clients in its way: under several Pythons, or of several checkouts.

Usage: python tests/bench/bench_tick.py [--rounds N] PYTHON[@CHECKOUT]...
A worker holds a reactor and its peers (socket pairs) and ticks when it is asked to. In a round each
arm has a fresh worker, since two processes of the same program differ by more than their ticks do
(where memory lies, how strings hash); they take turns in random order, and the median of a worker's
turns counts. What is timed is the tick's thread alone (CLOCK_THREAD_CPUTIME_ID), so other programs
disturb it less than they do a whole server. Ratios are to the first arm, which runs twice: "again"
over it is what the method finds between equals.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from math import exp
from pathlib import Path
from statistics import median

HERE = Path(__file__).parents[2]
SHAPES = {  # peers, how many of them talk in a tick, ticks in a round
    "200 of 200 talk": (200, 200, 8),
    "one of 100 talks": (100, 1, 30),
    "one of two talks": (2, 1, 1000),
}
MODES = ("et", "lt")
TURNS = 7  # of a worker
WORKER = """
import gc, socket, sys, time
from dataclasses import replace
from etltd.config import Config
from etltd.reactor import Reactor
mode, peers, talkers, ticks = sys.argv[1], *map(int, sys.argv[2:])
reactor = Reactor(replace(Config(), mode=mode), peers + 1)
ends = [socket.socketpair() for _ in range(peers)]
for ours, theirs in ends:
    ours.setblocking(False), theirs.setblocking(False)
    reactor.watch(reactor.roster.admit(ours, "", 0))
reactor.tick(0), reactor.tick(0)
gc.collect(), gc.freeze()
for _ in sys.stdin:
    spent = 0
    for turn in range(ticks):
        for k in range(talkers):
            ends[(turn + k) % peers][1].send(b"x" * 63 + b"\\n")
        before = time.thread_time_ns()
        reactor.tick(0)
        spent += time.thread_time_ns() - before
        for _, theirs in ends:
            try:
                theirs.recv(1 << 20)
            except BlockingIOError:
                pass
    print(spent / ticks, flush=True)
"""


def worker(arm: str, mode: str, shape: str) -> subprocess.Popen[str]:
    """Start an arm's process."""
    program, _, checkout = arm.partition("@")
    command = [program, "-c", WORKER, mode, *map(str, SHAPES[shape])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=checkout or HERE)


def asked(process: subprocess.Popen[str]) -> float:
    """Return the CPU of a tick in ns, of one more round."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(arms: list[str], mode: str, shape: str, rounds: int) -> list[list[float]]:
    """Return the ticks' ns of each arm, round by round."""
    seen: list[list[float]] = [[] for _ in arms]
    for _ in range(rounds):
        workers = [worker(arm, mode, shape) for arm in arms]
        turns: list[list[float]] = [[] for _ in arms]
        for _ in range(TURNS):
            for k in random.sample(range(len(arms)), len(arms)):
                turns[k].append(asked(workers[k]))
        for process in workers:
            process.communicate()
        for k, of in enumerate(turns):
            seen[k].append(median(of))
    return seen


def main() -> None:
    sys.path.insert(0, str(HERE))
    from loadclient.compare.statistics import estimate, log_ratios

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    arms = [*given.arms, given.arms[0]]
    print("| tick | mode | arm | median µs | ratio to the first |\n|---|---|---|---|---|")
    for shape in SHAPES:
        for mode in MODES:
            first, *others = compare(arms, mode, shape, given.rounds)
            for arm, seen in zip(arms, [first, *others], strict=True):
                found = estimate(log_ratios([*zip(seen, first, strict=True)]) or [], 0.95)
                ratio = "too few rounds" if found is None else (
                    f"{exp(found.middle):.2f} ({exp(found.low):.2f} to {exp(found.high):.2f})"
                )  # fmt: skip
                ratio = "" if seen is first else ratio
                name = Path(arm).name + (" again" if seen is others[-1] else "")
                print(
                    f"| {shape} | {mode} | {name} | {median(seen) / 1e3:.1f} | {ratio} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
