"""Who wakes for one connection: the table of SCALING.md.

Usage: python tests/bench/bench_herd.py [INSTANCES] [CONNECTIONS]
Counts, no times: they repeat on any machine, but for who is quick enough to see a connection that
another one is about to take.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.system.herd import SHARING, Starter


def main(instances: int = 4, connections: int = 200) -> None:
    """Print what one connection costs all loops together, for each way to share and each mode."""
    print(f"{instances} loops, {connections} connections one by one; per connection:")
    print(
        "| `--listener` | mode | loops woken | `epoll_wait` returned for it | `accept4` in vain |"
    )
    print("|---|---|---|---|---|")
    for listener in SHARING:
        for mode in ("lt", "et"):
            with tempfile.TemporaryDirectory() as folder, Starter(Path(folder)) as starter:
                woken = starter.start(mode, listener, instances).connect(connections)
            per = [
                count / woken.connections
                for count in (woken.sleeps, woken.accept_events, woken.accepts_in_vain)
            ]
            print(f"| {listener} | {mode} | " + " | ".join(f"{value:.2f}" for value in per) + " |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
