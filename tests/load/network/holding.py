"""Who keeps a network namespace alive."""

from __future__ import annotations

from pathlib import Path


def held_by(inode: int) -> list[str]:
    """Return every process, descriptor and mount that keeps a network namespace alive."""
    name = f"net:[{inode}]"
    links = [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]
    found = []
    for link in links:
        try:
            if str(link.readlink()) == name:
                found.append(str(link))
        except OSError:  # it has ended meanwhile
            continue
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [line for line in mounts if name in line]
