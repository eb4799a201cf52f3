"""What we start is gone when we are, however we went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import runs, until

ROOT = Path(__file__).parents[2]
HOLDER = """
import pathlib, sys, time
from loadclient.daemon import running_daemon
with running_daemon("et", pathlib.Path(sys.argv[1])) as daemon:
    print(daemon.pid, flush=True)
    time.sleep(60)
"""

ORPHAN = """
import os
from loadclient.tether import tied
tie = tied()
middle = os.fork()
if not middle:
    child = os.fork()  # its parent is not the process that made the tie
    if not child:
        tie()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end="", flush=True)
    os._exit(0)
os.waitpid(middle, 0)
"""


@pytest.mark.system
def test_a_killed_client_leaves_no_daemon_behind(tmp_path: Path) -> None:
    """A daemon that stays keeps its port, its memory and its namespace until somebody notices."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "daemon.log")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        daemon = int(holder.stdout.readline())
        assert runs(daemon)
        holder.kill()

    until(lambda: not runs(daemon))


def test_a_child_whose_parent_is_gone_already_does_not_begin() -> None:
    """Killed between the fork and the tie, nobody would end it any more."""
    told = subprocess.run(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert told.stdout == "1"
