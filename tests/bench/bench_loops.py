"""Two loops on a bus against one loop: the same clients, the same load.

Usage: python tests/bench/bench_loops.py [--pairs 6] [--conns 100] [--rate 15] [--json FILE]
Pairs of runs in turns (one two, two one …), until so many pairs are valid, or twice so many were
made. Two load processes are the parts of each run: with one loop both load it, with two each loads
one, and what one says the other must hear by the bus.

The daemons write each message to each client by itself (`--fan-out message`, unless told): so a
loop is at its limit far below what the load processes can read. Processor time is everybody's from
the first message due to the last, over that time. A pair with an invalid run is counted, stored,
and in no figure.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.statistics import estimate, log_ratios
from loadclient.daemon import running_daemon
from loadclient.merge import merge
from loadclient.result import RunResult
from tests.system.nats import NatsServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadclient.daemon import Daemon

SECONDS = 4
LEAD_SECONDS = 8
LEAST_PAIRS = 6  # fewer have no interval
CLOSE_SECONDS = 120  # a part that takes longer is stuck


@dataclass
class Run:
    """What came of one run: figures, why it does not count, and its raw record."""

    loops: int
    cores: dict[str, float] = field(default_factory=dict)  # used in the measured phase, by whom
    reasons: list[str] = field(default_factory=list)  # why it is invalid
    result: dict[str, Any] | None = None

    @property
    def deliveries(self) -> float:
        """Copies received, over the time from the first message due to the last copy received."""
        assert self.result is not None
        span = self.result["elapsed_seconds"] + (self.result["drain_seconds"] or 0)
        return float(self.result["messages_received"] / span)

    def __str__(self) -> str:
        if self.reasons:
            return f"{self.loops} loop(s): invalid: {'; '.join(self.reasons)}"
        used = ", ".join(f"{name} {cores:.2f}" for name, cores in self.cores.items())
        return f"{self.loops} loop(s): {self.deliveries:,.0f} deliveries/s; cores: {used}"


def one_run(loops: int, options: argparse.Namespace) -> Run:
    """Make a run with so many *loops*."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        nats = NatsServer(folder)
        stack.callback(nats.kill)
        more = ["--fan-out", options.fan_out, *(["--bus", nats.url] if loops > 1 else [])]
        daemons = [
            stack.enter_context(running_daemon("et", folder / f"{i}.log", *more))
            for i in range(loops)
        ]
        if loops > 1:
            until(lambda: all(b"bus joined" in p.read_bytes() for p in folder.glob("?.log")))
        start = round(time.time() + LEAD_SECONDS, 3)
        parts = [part(k, folder, daemons, start, options) for k in (1, 2)]
        watched = {
            "loops": [daemon.pid for daemon in daemons],
            "NATS": [nats.process.pid],
            "load": [one.pid for one in parts],
        }
        run = Run(loops, cores_used(watched, start))
        for k, one in enumerate(parts, 1):
            code = one.wait(CLOSE_SECONDS)
            if code:
                run.reasons.append(f"part {k} exited with {code}")
        settle(run, [folder / f"{k}.json" for k in (1, 2)])
    return run


def part(
    k: int, folder: Path, daemons: Sequence[Daemon], start: float, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    """Start one of the two load processes."""
    port = daemons[k % len(daemons)].address[1]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(port)),
            *("--part", f"{k}/2", "--start-at", str(start), "--run-id", "loops"),
            *("--conns", str(options.conns // 2), "--rate", str(options.rate)),
            *("--duration", str(SECONDS), "--drain-timeout", "60"),
            *("--quiet", "--json", str(folder / f"{k}.json")),
        ],
        stderr=subprocess.DEVNULL,
    )


def cores_used(watched: dict[str, list[int]], start: float) -> dict[str, float]:
    """Return how many cores each of *watched*, with children, used from *start* on."""
    time.sleep(max(0.0, start - time.time()))
    began, before = time.monotonic(), _cpu_seconds(watched)
    time.sleep(SECONDS)
    after, span = _cpu_seconds(watched), time.monotonic() - began
    return {name: (after[name] - before[name]) / span for name in watched}


def _cpu_seconds(watched: dict[str, list[int]]) -> dict[str, float]:
    found = dict.fromkeys(watched, 0.0)
    for name, pids in watched.items():
        for pid in pids:
            try:
                process = psutil.Process(pid)
                for one in (process, *process.children(recursive=True)):
                    found[name] += sum(one.cpu_times()[:2])
            except psutil.NoSuchProcess:  # it has failed, and its exit code says so
                continue
    return found


def settle(run: Run, files: Sequence[Path]) -> None:
    """Merge the parts' results into *run*, and say why it is invalid if it is."""
    missing = [file.name for file in files if not file.exists()]
    if missing:
        run.reasons.append(f"no result: {', '.join(missing)}")
        return
    whole = merge([RunResult.from_json(file.read_text()) for file in files])
    run.result = json.loads(whole.to_json())
    run.reasons += whole.invalid_reasons


def valid_pairs(pairs: Sequence[tuple[Run, Run]]) -> list[tuple[Run, Run]]:
    return [pair for pair in pairs if not any(run.reasons for run in pair)]


def summary(pairs: Sequence[tuple[Run, Run]]) -> str:
    """Return the ratio of two loops over one with its 95 % interval, from the valid *pairs*."""
    valid = valid_pairs(pairs)
    head = f"{len(valid)} of {len(pairs)} pairs are valid"
    if len(valid) < LEAST_PAIRS:
        return f"{head}: too few for an interval, {LEAST_PAIRS} are needed"
    logs = log_ratios([(two.deliveries, one.deliveries) for one, two in valid])
    known = estimate(logs, 0.95)
    assert known is not None
    ratio, low, high = map(math.exp, (known.middle, known.low, known.high))
    return f"{head}; deliveries/s, two loops over one: {ratio:.2f} (95 %: {low:.2f} to {high:.2f})"


def main() -> None:
    """Print every run and the ratio; write the raw records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=LEAST_PAIRS)
    parser.add_argument("--conns", type=int, default=100)
    parser.add_argument("--rate", type=int, default=15, help="messages a second of each client")
    parser.add_argument("--fan-out", choices=("message", "batch"), default="message")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's record there")
    options = parser.parse_args()
    conns, rate = options.conns, options.rate
    print(f"{conns} x {rate} msg/s, all to all: {conns * (conns - 1) * rate:,} owed a second")
    pairs: list[tuple[Run, Run]] = []
    while len(pairs) < 2 * options.pairs and len(valid_pairs(pairs)) < options.pairs:
        found = {}
        for loops in (1, 2) if len(pairs) % 2 == 0 else (2, 1):
            found[loops] = one_run(loops, options)
            print(found[loops], flush=True)
        pairs.append((found[1], found[2]))
        if options.json:
            stored = {
                "options": {name: str(value) for name, value in vars(options).items()},
                "pairs": [[asdict(run) for run in pair] for pair in pairs],
            }
            options.json.write_text(json.dumps(stored, indent=1) + "\n")
    print(summary(pairs))


if __name__ == "__main__":
    main()
