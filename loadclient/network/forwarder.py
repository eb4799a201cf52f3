"""What stands in for the kernel's netem where it has none: carries frames between two TAP devices.

Rule: the parent's pipe is the lifeline. A letter on it is a command, its end is ours.

The parent opens the devices, each in its namespace, and hands over the descriptors: a TAP is read
and written from anywhere. Without IFF_VNET_HDR the kernel cuts what it hands out into frames of the
link's MTU, so a loss is the loss of a frame.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from time import monotonic_ns

from loadclient.network.conditions import parse
from loadclient.network.path import NEVER_NS, Path

CONTROL = 0
ANSWERS = 1
CALM, ROUGH, COUNT = b"c", b"r", b"?"
FRAMES_PER_TURN = 64
LONGEST_FRAME = 65_600
LONGEST_WAIT_SECONDS = 1.0
LATE_NS = 1_000_000
PRIORITY = -10  # a network does not wait for a processor
PR_SET_TIMERSLACK = 29  # linux/prctl.h


class Forwarder:
    """Two directions and their counts."""

    def __init__(self, paths: dict[int, tuple[Path, int]]) -> None:
        """Carry what is read from each descriptor along its path to the other descriptor."""
        self._paths = paths
        self._forwarded = 0
        self._late = 0
        self._refused = 0

    def run(self) -> None:
        """Forward until the parent hangs up."""
        readable = [CONTROL, *self._paths]
        while True:
            self._deliver()
            ready, _, _ = select.select(readable, [], [], self._seconds_to_wait())
            for fd in ready:
                if fd == CONTROL:
                    if not self._obey(os.read(CONTROL, 1)):
                        return
                else:
                    self._take(fd)

    def _seconds_to_wait(self) -> float:
        next_ns = min(path.next_due_ns for path, _ in self._paths.values())
        if next_ns == NEVER_NS:
            return LONGEST_WAIT_SECONDS
        return min(LONGEST_WAIT_SECONDS, max(0, next_ns - monotonic_ns()) / 1e9)

    def _take(self, fd: int) -> None:
        path, _ = self._paths[fd]
        for _ in range(FRAMES_PER_TURN):
            try:
                frame = os.read(fd, LONGEST_FRAME)
            except BlockingIOError:
                return
            path.offer(frame, monotonic_ns())

    def _deliver(self) -> None:
        for path, out in self._paths.values():
            now_ns = monotonic_ns()
            for due_ns, frame in path.arrived(now_ns):
                self._forwarded += 1
                self._late += now_ns - due_ns > LATE_NS
                try:
                    os.write(out, frame)
                except OSError:  # the device is down, or its namespace gone
                    self._refused += 1

    def _obey(self, command: bytes) -> bool:
        """Do what the parent says; return whether to go on."""
        if command in {CALM, ROUGH}:
            for path, _ in self._paths.values():
                path.is_calm = command == CALM
        if command:
            os.write(ANSWERS, json.dumps(self._counts()).encode() + b"\n")
        return bool(command)

    def _counts(self) -> dict[str, float]:
        paths = [path for path, _ in self._paths.values()]
        return {
            "frames_forwarded": self._forwarded,
            "frames_lost": sum(path.lost for path in paths),
            "frames_overflowed": sum(path.overflowed for path in paths),
            "frames_refused": self._refused,
            "frames_late": self._late,
            "cpu_seconds": time.process_time(),
            "seconds": time.monotonic(),
        }


def main() -> None:
    """Forward between the descriptors that the arguments name: conditions, one, other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # or a frame is 50 us late
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    gc.disable()  # there are no cycles, and a collection would be a delay
    conditions = parse(sys.argv[1])
    one, other = int(sys.argv[2]), int(sys.argv[3])
    Forwarder({one: (Path(conditions), other), other: (Path(conditions), one)}).run()


if __name__ == "__main__":
    main()
