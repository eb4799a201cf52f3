"""What a system call costs with the probe attached: ns of CPU per call, interleaved, minimum of N.

Run it: ``python tests/bench/bench_probe_cost.py [ROUNDS]``. Needs bpf(2); not a test, since a
shared machine's times are no claim to hold. Every round measures all arms in a new order; a cost is
the difference of the minima, because noise only adds. `empty` is the floor: two programs that do
nothing; `half` is one of them, at the return.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from typing import TYPE_CHECKING

from ebpf.loader import Build, Probe, _load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 9
CALLS = 100_000
WORKERS = {"getppid": 1, "read": 1, "send+recv": 2}  # system calls per turn

# A loop in C would measure the same difference; Python's own time is in both arms.
WORK = """
import os, resource, socket, sys, select
kind, calls = sys.argv[1], int(sys.argv[2])
a, b = socket.socketpair()
zero = os.open("/dev/zero", os.O_RDONLY)
epoll = select.epoll()
epoll.poll(0)
turn = {
    "getppid": os.getppid,
    "read": lambda: os.read(zero, 0),
    "send+recv": lambda: (a.send(b"x"), b.recv(1)),
}[kind]
print(os.getpid(), flush=True)
for _ in sys.stdin:
    epoll.poll(0)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(calls):
        turn()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(spent / calls * 1e9, flush=True)
"""


class Worker:
    """A process that makes one kind of call and reports its own CPU time per turn."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, kind, str(CALLS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = int(self._line())

    def run(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def probe(build: Build, pid: int) -> Iterator[None]:
    with Probe(build) as attached:
        attached.assign(0, 0, pid)
        yield


@contextmanager
def nothing(_pid: int) -> Iterator[None]:
    yield


@contextmanager
def empty(*places: str) -> Iterator[None]:
    """Attach what does nothing: the kernel's own price of looking at system calls at all."""
    programs = _load("".join(f"RAW_TRACEPOINT_PROBE({name}) {{ return 0; }}\n" for name in places))
    yield
    programs.cleanup()


ARMS: dict[str, Callable[[int], object]] = {
    "bare": nothing,
    "half": lambda _pid: empty("sys_exit"),
    "empty": lambda _pid: empty("sys_enter", "sys_exit"),
    "untraced": lambda _pid: probe(Build(), os.getpid()),
    "lite": lambda pid: probe(Build(lite=True), pid),
    "full": lambda pid: probe(Build(), pid),
}


def main() -> None:
    workers = {kind: Worker(kind) for kind in WORKERS}
    best = {(kind, arm): float("inf") for kind in WORKERS for arm in ARMS}
    for _ in range(ROUNDS):
        for arm in random.sample(list(ARMS), len(ARMS)):
            for kind, worker in workers.items():
                with ARMS[arm](worker.pid):  # type: ignore[attr-defined]
                    worker.run()  # warm
                    best[kind, arm] = min(best[kind, arm], worker.run())
    print(f"{ROUNDS} interleaved rounds of {CALLS} turns, minimum, ns of CPU per system call")
    print(f"{'':12}{'bare':>8}" + "".join(f"{'+' + arm:>12}" for arm in list(ARMS)[1:]))
    for kind, calls in WORKERS.items():
        bare = best[kind, "bare"] / calls
        extra = "".join(f"{best[kind, arm] / calls - bare:>+12.0f}" for arm in list(ARMS)[1:])
        print(f"{kind:12}{bare:>8.0f}{extra}")


if __name__ == "__main__":
    main()
