"""Three instances on two networks over NATS, with churn, and faults in turn, for minutes.

Usage: python tests/bench/bus_soak.py [SECONDS]    (600; as root)
Prints everybody's books, and exits with 1 if they do not agree.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.system.party import party

CALM_SECONDS = 15
SHORT, LONG = 2, 15  # seconds of a fault: unnoticed by TCP, or given up by it


def main(seconds: float = 600) -> None:
    """Let the party go on for so long; each fault comes in turn, short and long."""
    with tempfile.TemporaryDirectory() as folder, party(Path(folder)) as held:
        deadline = monotonic() + seconds
        faults = [held.lose_nats, held.lose_an_instance, held.lose_the_link]
        turn = 0
        while monotonic() < deadline:
            held.go_on(CALM_SECONDS)
            fault, length = faults[turn % 3], (SHORT, LONG)[turn // 3 % 2]
            print(
                f"{seconds - (deadline - monotonic()):4.0f} s: {fault.__name__} {length} s",
                flush=True,
            )
            fault(length)
            turn += 1
        held.go_on(CALM_SECONDS)
        held.settle()
        print(held.report(), flush=True)
        held.check()
        print(f"agreed, after {turn} faults in {seconds:.0f} s")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
