"""Network namespaces without a name.

Rule: a namespace lives as long as a process or a descriptor holds it, and the kernel deletes it
after the last one, with all links in it. `ip netns add` would pin it to a file, which a killed
process leaves behind; nobody has to clean up here, and no name can be taken or guessed.

`os.unshare` and `os.setns` came with Python 3.12; before that, the C library has them.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000  # linux/sched.h
OWN = "/proc/thread-self/ns/net"  # of this thread: the others may be elsewhere

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, held by a descriptor."""

    fd: int

    @property
    def path(self) -> str:
        """A path for other programs (nsenter, ip), good as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def inode(self) -> int:
        """The number by which the kernel tells namespaces apart."""
        return os.fstat(self.fd).st_ino

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread, and every process it starts, be inside as long as the block lasts.

        Raises OSError.
        """
        home = os.open(OWN, os.O_RDONLY)
        try:
            _enter(self.fd)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """Make a namespace with nothing in it but a loopback that is down; hold it for the block.

    Raises OSError.
    """
    home = os.open(OWN, os.O_RDONLY)
    try:
        if _libc.unshare(CLONE_NEWNET):
            raise _failure("unshare")
        try:
            fd = os.open(OWN, os.O_RDONLY)
        finally:
            _enter(home)
    finally:
        os.close(home)
    try:
        yield Namespace(fd)
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise _failure("setns")


def _failure(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
