"""The daemon under several Pythons, in the interleaved rounds of versus.py.

Usage: python tests/bench/bench_pythons.py [--rounds N] [--loads NAME...] PYTHON...
Each PYTHON is a program that can import what requirements.lock names; ratios are to the first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.rivals import Rival, daemon
from tests.bench.versus import LOADS, compare, hurry

VERSION = """
import platform, sys
jit = " JIT" if hasattr(sys, "_jit") and sys._jit.is_enabled() else ""
print(platform.python_version() + jit)
"""


def under(program: str, mode: str, first: str) -> Rival:
    """Return the daemon of *mode* as *program* runs it; *first* is what it is compared with."""
    asked = subprocess.run([program, "-c", VERSION], check=True, capture_output=True, text=True)
    version = asked.stdout.strip()
    own = daemon(f"{version} {mode}", f"{first} {mode}" if first else "", mode)
    return Rival(own.name, (program, *own.command[1:]), own.against)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pythons", nargs="+")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    loads = ["window 500", "one in flight", "ping-pong"]
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=loads)
    parser.add_argument("--urgent", action="store_true", help="before other work (root)")
    given = parser.parse_args()
    if given.urgent:
        hurry()
    rivals: list[Rival] = []
    for mode in ("et", "lt"):
        first = ""
        for program in given.pythons:
            rivals.append(under(program, mode, first))
            first = first or rivals[-1].name.removesuffix(f" {mode}")
    for name in given.loads:
        compare(name, rivals, given.rounds, given.seconds)


if __name__ == "__main__":
    main()
