"""The daemon, a C server of the same design, and what people would pick instead, side by side.

Run it: ``python tests/bench/versus.py [--rounds N] [--only NAME...] [--loads NAME...]``.
Every round runs every server once, in an order drawn by lot, with a client that counts every copy
(``c/crowd.c``). A ratio is between two servers of one round; printed are the Hodges-Lehmann
estimate of the rounds' ratios and its exact 95 % interval. The delivery ratio comes first: a server
that delivers less than it owes has no speed worth comparing. A copy is one to somebody else: of a
server that echoes (Redis) a talker's own does not count.

Where the client used up its core and no less than the server, or was late itself, it may have been
the limit, and the row has a †. A percentile that is not shown is of copies that never came.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from math import exp, inf, isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.statistics import LEAST_PAIRS, estimate, log_ratios
from loadclient.tether import tied
from tests.bench.rivals import RIVALS, Rival, compiled, listens, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

Run = dict[str, Any]

CONFIDENCE = 0.95
PATIENCE_SECONDS = 180
IDLE = 10_000
LOADS = {
    "all-to-all": ("500 clients x 50 msg/s x 64 B, senders staggered", "-c500 -r50"),
    "half of it": ("500 clients x 25 msg/s x 64 B, senders staggered", "-c500 -r25"),
    "bursts": ("500 clients x 50 msg/s x 64 B, all senders at the same moment", "-c500 -r50 -a"),
    "window 500": ("saturated: 500 clients, 500 messages outstanding", "-c500 -w500"),
    "window 5000": ("saturated: 500 clients, 5,000 messages outstanding", "-c500 -w5000"),
    "one to 500": ("one talker to 500 at 5,000 msg/s x 64 B", "-c501 -t1 -r5000"),
    "512 B": ("100 clients x 50 msg/s x 512 B", "-c100 -r50 -b512"),
    "5000 clients": ("5,000 clients, five of them x 20 msg/s", "-c5000 -t5 -r20"),
    "one in flight": ("one message in flight among 100: cannot be batched", "-c100 -w1"),
    "ping-pong": ("two clients, one message in flight", "-c2 -w1"),
}
UNFIT = {
    ("ngIRCd", "5000 clients"): "5,000 joins are announced to 5,000 members each",
    ("ngIRCd", "512 B"): "a line of IRC holds 510 bytes",
}


def measure(rival: Rival, load: str, seconds: float) -> Run:
    """Run *rival* afresh under *load*; return what the crowd saw."""
    with running(rival) as (pid, port):
        wait_until(f"{rival.name} listens", lambda: listens(port))
        command = [compiled("crowd"), f"-p{port}", f"-P{pid}", f"-W{rival.wire}", f"-s{seconds}"]
        command += load.split()
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            preexec_fn=tied(),
        )
        peak_bytes = peak_resident_bytes(pid)
    if done.returncode:
        raise RuntimeError(f"{rival.name}: {done.stderr.strip()}")
    result: Run = json.loads(done.stdout) | {"peak_bytes": peak_bytes}
    return result


def speed(run: Run) -> float:
    """Return copies a second: at a rate those that came in time, in a window all, to the last.

    A server may take in a whole window before it writes anything: what it carries is not what it
    had delivered when the clients stopped.
    """
    is_rate = bool(run["lag"])
    copies, seconds = ("in_time", "seconds") if is_rate else ("copies", "drained")
    return float(run[copies] * run["to_others"] / run[seconds])


def cost(run: Run) -> float:
    return float(run["server_cpu_drained"] / max(run["copies"] * run["to_others"], 1))


def delivered(rival: Rival, runs: list[Run]) -> str:
    """Return the least share of what was owed, and how many were cut off.

    Raises:
        RuntimeError: somebody got too much, or what was another's: the sum hides what is missing.
    """
    for run in runs:
        if run["copies"] >= run["owed"] and not run["left_over"] and not run["whole"]:
            raise RuntimeError(f"{rival.name}: as many copies as owed, but not to those owed")
    least = min(run["copies"] / run["owed"] for run in runs if run["owed"])
    cut_off = sum(run["hang_ups"] for run in runs)
    return f"{least:.3f}" + (f" ({cut_off} cut off)" if cut_off else "")


def percentile(runs: list[Run], name: str, of: str = "latency") -> float:
    """Return the median of the runs' percentiles in seconds; one that never came is infinite."""
    return median(float(run[of].get(name, inf)) for run in runs)


def shown(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if isfinite(seconds) else "-"


def cores(runs: list[Run], who: str) -> float:
    return median(run[f"{who}_cpu"] / run["seconds"] for run in runs)


def is_client_the_limit(runs: list[Run]) -> bool:
    """Whether the client used up its core, and no less than the server, or was late itself."""
    if cores(runs, "client") > max(0.9, 0.95 * cores(runs, "server")):
        return True
    lag = percentile(runs, "p99", "lag")  # infinite in a window, which has no times
    return isfinite(lag) and lag > percentile(runs, "p99") / 2


def ratio(ours: list[Run], theirs: list[Run], of: Callable[[Run], float]) -> str:
    """Return the estimate of ours / theirs with its interval."""
    pairs = [(of(mine), of(other)) for mine, other in zip(ours, theirs, strict=True)]
    logs = log_ratios(pairs)
    found = estimate(logs, CONFIDENCE) if logs else None
    if found is None:
        shown = median(mine / other for mine, other in pairs if other)
        return f"{shown:.2f} (no interval from {len(pairs)})"
    return f"{exp(found.middle):.2f} ({exp(found.low):.2f} to {exp(found.high):.2f})"


def row(rival: Rival, runs: list[Run], others: dict[str, list[Run]]) -> str:
    cells = [
        rival.name + (" †" if is_client_the_limit(runs) else ""),
        delivered(rival, runs),
        f"{median(map(speed, runs)) / 1e6:.3f}",
        f"{median(map(cost, runs)) * 1e9:.0f}",
        *(shown(percentile(runs, p)) for p in ("p50", "p99")),
        f"{cores(runs, 'server'):.2f} / {cores(runs, 'client'):.2f}",
        shown(percentile(runs, "p99", "lag")),
    ]
    speeds = [f"{ratio(runs, of, speed)} of {name}" for name, of in others.items()]
    costs = [ratio(runs, of, cost) for of in others.values()]
    return " | ".join([*cells, "; ".join(speeds), "; ".join(costs)])


HEAD = (
    "server | delivered | M copies/s | ns CPU per copy | p50 ms | p99 ms | cores server / client | "
    "client's lag p99 ms | speed ratio | CPU ratio"
)


def compare(name: str, rivals: list[Rival], rounds: int, seconds: float) -> None:
    """Measure one load and print its table; one that is ended early, of the rounds it had."""
    what, load = LOADS[name]
    wanted = [rival for rival in rivals if (rival.name, name) not in UNFIT]
    whole: list[dict[str, Run]] = []
    try:
        while len(whole) < rounds:
            drawn = random.sample(wanted, len(wanted))
            whole.append({rival.name: measure(rival, load, seconds) for rival in drawn})
    finally:
        if whole:
            print(f"\n### {name}\n{what}; {len(whole)} rounds of {seconds:g} s\n")
            print_table(wanted, whole)
    for rival in rivals:
        if (rival.name, name) in UNFIT:
            print(f"\n{rival.name}: not measured, {UNFIT[rival.name, name]}", flush=True)


def print_table(rivals: list[Rival], rounds: list[dict[str, Run]]) -> None:
    runs = {rival.name: [one[rival.name] for one in rounds] for rival in rivals}
    print(f"| {HEAD} |\n|" + "---|" * (HEAD.count("|") + 1))
    for rival in rivals:
        others = {name: runs[name] for name in rival.against if name in runs}
        print(f"| {row(rival, runs[rival.name], others)} |", flush=True)


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def idle_bytes(rival: Rival, count: int) -> float:
    """Return by how much *rival* grows per connection that says nothing."""
    with running(rival) as (pid, port), ExitStack() as stack:
        wait_until(f"{rival.name} listens", lambda: listens(port))
        before = resident_bytes(pid)
        command = [compiled("crowd"), "-i", f"-p{port}", f"-c{count}", f"-W{rival.wire}"]
        crowd = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=tied(),  # noqa: PLW1509 - there are no threads
            )
        )
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "seated\n"
        wait_until("all are in", lambda: _descriptors(pid) > count)
        grown = resident_bytes(pid) - before
        crowd.communicate("\n")
    return grown / count


def _descriptors(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def print_memory(rivals: list[Rival], count: int) -> None:
    print(f"\n### memory\nresident growth per idle connection, {count:,} connected\n")
    print("| server | bytes each |\n|---|---|")
    for rival in rivals:
        if rival.wire == "irc":  # each that joins is told to all, which is not idle
            print(f"| {rival.name} | not measured |", flush=True)
        else:
            print(f"| {rival.name} | {idle_bytes(rival, count):.0f} |", flush=True)


def print_latency(rivals: list[Rival], rounds: int, seconds: float) -> None:
    """Print latencies at shares of what the daemon can do, saturated, at the same offered rates."""
    batched = [rival for rival in rivals if rival.name.startswith(("C", "etltd"))]
    saturated = [measure(RIVALS["etltd et"], LOADS["window 5000"][1], seconds) for _ in range(3)]
    capacity = median(map(speed, saturated)) / 499 / 500  # messages a second and client
    print(f"\n### latency\n500 clients; capacity: {capacity:.0f} msg/s each, medians of {rounds}\n")
    print("| share | server | delivered | p50 / p99 / p99.9 ms | client's lag p99 ms |")
    print("|---|---|---|---|---|")
    for share in (0.1, 0.5, 0.9):
        runs: dict[str, list[Run]] = {rival.name: [] for rival in batched}
        for _ in range(rounds):
            for rival in random.sample(batched, len(batched)):
                runs[rival.name].append(measure(rival, f"-c500 -r{share * capacity}", seconds))
        for name, of in runs.items():
            times = " / ".join(shown(percentile(of, p)) for p in ("p50", "p99", "p999"))
            lag = shown(percentile(of, "p99", "lag"))
            mark = " †" if is_client_the_limit(of) else ""
            cells = [f"{share:.0%}", name + mark, delivered(RIVALS[name], of), times, lag]
            print(f"| {' | '.join(cells)} |", flush=True)


def machine(rivals: list[Rival]) -> str:
    """Return what the figures depend on: interpreter, kernel, processor, load, versions."""
    model = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    words = [
        f"CPython {platform.python_version()}",
        f"Linux {platform.release()}",
        f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}",
        f"load average {os.getloadavg()[0]:.1f}",
        *filter(None, (rival.version for rival in rivals)),
    ]
    return ", ".join(words)


def hurry() -> None:
    """Give this session's group (sched(7), autogroup) most of the processors.

    Each session is a group and groups share alike, so `nice` alone would change nothing.
    """
    with suppress(PermissionError):  # a leader of a process group has its session already
        os.setsid()
    Path("/proc/self/autogroup").write_text("-18")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # folders, too, go
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=LEAST_PAIRS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--only", nargs="+", choices=RIVALS, help="servers; default: all")
    kinds = [*LOADS, "latency", "memory"]
    parser.add_argument("--loads", nargs="+", choices=kinds, default=kinds, help="default: all")
    parser.add_argument("--idle", type=int, default=IDLE, help="connections for memory")
    parser.add_argument(
        "--urgent", action="store_true", help="before other work of this machine (root, autogroup)"
    )
    given = parser.parse_args()
    if given.urgent:
        hurry()
    chosen = [RIVALS[name] for name in given.only or RIVALS]
    for rival in chosen:
        if rival.missing:
            print(f"{rival.name}: not measured, {rival.missing} is not installed")
    rivals = [rival for rival in chosen if not rival.missing]
    print(machine(rivals), flush=True)
    for name in given.loads:
        if name == "memory":
            print_memory(rivals, given.idle)
        elif name == "latency":
            print_latency(rivals, given.rounds, given.seconds)
        else:
            compare(name, rivals, given.rounds, given.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
