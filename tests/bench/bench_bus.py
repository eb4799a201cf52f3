"""What the bus costs: CPU per publish, per receipt and in NATS, and how much it carries.

Usage: python tests/bench/bench_bus.py [ENVELOPES [PAUSE]]
With a PAUSE, in seconds, between two envelopes each wakes its threads from their sleep: what a
chat costs that has little to say. Without one they hardly sleep. One instance's link talks, one or
three others listen, on a NATS server of their own; no loops and no clients. CPU time repeats better
than wall time on a machine that others use, too.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from etltd.bus.buffer import Buffer
from etltd.bus.envelope import Identity, Parcel
from etltd.bus.link import Link
from etltd.bus.settings import Settings
from etltd.bus.stats import BusStats
from etltd.config import Config
from tests.system.nats import NatsServer
from tests.waiting import until

MOST_WAITING = 200  # envelopes on their way: less than anybody's buffer


class Side:
    """A link, and what its thread has used of a processor."""

    def __init__(self, url: str, number: int) -> None:
        self.stats = BusStats()
        self.outgoing: Buffer[Parcel] = Buffer(1 << 26)
        self.incoming: Buffer[bytes] = Buffer(1 << 30)
        settings = Settings(replace(Config(), bus=url), {})
        me = Identity(f"i{number}", number)
        self.link = Link(settings, me, self.stats, self.outgoing, self.incoming)
        self.link.start()
        self.heard = 0

    def take(self) -> int:
        while self.incoming.take() is not None:
            self.heard += 1
        return self.heard

    def cpu_seconds(self) -> float:
        threads = psutil.Process().threads()
        return next(t.user_time + t.system_time for t in threads if t.id == self.link.native_id)


def measure(listeners: int, size: int, envelopes: int, pause: float) -> str:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        nats = NatsServer(Path(folder))
        sides = [Side(nats.url, number) for number in range(listeners + 1)]
        talker, *others = sides
        until(lambda: all(side.stats.bus_connected for side in sides))
        server = psutil.Process(nats.process.pid)
        before = [side.cpu_seconds() for side in sides], sum(server.cpu_times()[:2])
        began = time.perf_counter()
        lines = (b"x" * 63 + b"\n") * (size // 64)
        for number in range(envelopes):
            talker.outgoing.put(Parcel(number, size // 64, lines, 0), len(lines))
            talker.link.wake()
            if pause:
                time.sleep(pause)
            while number - min(other.take() for other in others) > MOST_WAITING:
                threading.Event().wait(0.0005)
        until(lambda: all(other.take() == envelopes for other in others))
        seconds = time.perf_counter() - began
        used = [side.cpu_seconds() - then for side, then in zip(sides, before[0], strict=True)]
        nats_used = sum(server.cpu_times()[:2]) - before[1]
        for side in sides:
            side.link.finish()
            side.link.join()
        nats.kill()
    per = 1e6 / envelopes
    return (
        f"| {listeners} | {size} | {used[0] * per:.0f} | {sum(used[1:]) * per / listeners:.0f} | "
        f"{nats_used * per:.0f} | {envelopes / seconds:,.0f} | "
        f"{envelopes * size / seconds / 1e6:,.0f} |"
    )


def main(envelopes: int = 20_000, pause: float = 0.0) -> None:
    """Print the table of SCALING.md."""
    print("| listeners | bytes | µs CPU: publish | receive | NATS | envelopes/s | MB/s |")
    print("|---|---|---|---|---|---|---|")
    for listeners in (1, 3):
        for size in (64, 4096, 65536):
            most = min(envelopes, 400_000_000 // size)
            print(measure(listeners, size, most, pause), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]))
