"""The benchmark of one tick runs: one that nobody runs breaks unseen."""

from __future__ import annotations

import subprocess
import sys


def test_a_tick_is_timed_in_every_shape_and_mode() -> None:
    command = [sys.executable, "tests/bench/bench_tick.py", "--rounds=1"]

    done = subprocess.run(
        [*command, f"{sys.executable}@."], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 3 * 2 * 2, "each runs twice, the second time against itself"
    assert all(float(row[3]) > 0 for row in rows)
