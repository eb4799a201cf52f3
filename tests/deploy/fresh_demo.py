"""`make demo` as a newcomer has it: a fresh clone, a terminal of 80 columns, root or not.

Usage: python tests/deploy/fresh_demo.py [USER...]
Clones the last commit into a temporary folder and runs `make demo` there in a terminal of its own,
as whoever runs this, or (as root) as each USER. Exit code 1 if a run fails (on a machine that is
busy with others it does, and says so), is not quiet, has a line that is longer than the terminal,
or takes over two minutes after its set-up.
"""

from __future__ import annotations

import fcntl
import os
import pty
import pwd
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLUMNS = 80
MOST_SECONDS = 120.0
SET_UP = re.compile(r"^(setup: .*)?$")
TAKEN_BACK = re.compile(
    r"[^\n]*\n(?:\r|\x1b\[\?25h)*\x1b\[1A\x1b\[2K"
)  # the progress bar, when it is over
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_a_terminal(folder: Path, user: str | None) -> tuple[int, str, float]:
    """Run `make demo`; return its exit code, all it said, and the seconds after the set-up."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    home = {"HOME": pwd.getpwnam(user).pw_dir} if user else {}
    process = subprocess.Popen(
        ["make", "demo"],
        cwd=folder,
        env=os.environ | home | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    os.close(theirs)
    said, began = b"", time.monotonic()
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            data = b""
        if not data:
            break
        said += data
        if not (folder / ".venv" / ".run").exists():
            began = time.monotonic()
    os.close(ours)
    return process.wait(), said.decode(errors="replace"), time.monotonic() - began


def lines(said: str) -> list[str]:
    """Return what stands on the screen in the end, without what was drawn over."""
    shown = [
        line.rstrip("\r").split("\r")[-1]
        for line in CONTROLS.sub("", TAKEN_BACK.sub("", said)).split("\n")
    ]
    return [line.rstrip() for line in shown]


def complaints(code: int, said: str, seconds: float) -> list[str]:
    """Return what a newcomer would complain of."""
    shown = [line for line in lines(said) if not SET_UP.match(line)]
    found = [f"wider than {COLUMNS}: {line}" for line in shown if len(line) > COLUMNS]
    found += [f"cut: {line}" for line in shown if "\N{HORIZONTAL ELLIPSIS}" in line]
    if code:
        found.append(f"exit code {code}")
    if seconds > MOST_SECONDS:
        found.append(f"{seconds:.0f} s after the set-up")
    if "Not shown: which mode is better." not in " ".join(shown):
        found.append("it does not say what it cannot show")
    noise = [line for line in shown if re.search(r"warning|error|traceback", line, re.IGNORECASE)]
    return found + [f"not quiet: {line}" for line in noise]


def main() -> int:
    """Try it as each user."""
    failed = False
    for user in sys.argv[1:] or [None]:
        with tempfile.TemporaryDirectory(prefix="etlt-fresh-") as temporary:
            folder = Path(temporary) / "etlt"
            subprocess.run(["git", "clone", "-q", f"file://{ROOT}", folder], check=True)
            if user:
                for path in (Path(temporary), folder, *folder.rglob("*")):
                    shutil.chown(path, user)
            code, said, seconds = in_a_terminal(folder, user)
        found = complaints(code, said, seconds)
        print("\n".join(lines(said)))
        who = user or pwd.getpwuid(os.getuid()).pw_name
        print(
            f"as {who}: {seconds:.0f} s after the set-up; {'; '.join(found) or 'as it should be'}"
        )
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
