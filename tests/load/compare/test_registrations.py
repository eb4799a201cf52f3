"""The kernel's word on the mode: what its lists say, and of whom nobody can ask."""

from __future__ import annotations

import os
import socket
from select import EPOLLET, EPOLLIN, epoll

from loadclient.compare.registrations import Registrations, triggers

LIST = """pos:\t0
flags:\t02000002
tfd:        4 events: 80002019 data:                4  pos:0 ino:85abd2 sdev:9
tfd:       17 events:     2001 data:               11  pos:0 ino:85abd3 sdev:9
"""


def test_the_mask_is_what_counts() -> None:
    assert triggers([LIST, LIST]) == {"et": 2, "lt": 2}
    assert triggers(["pos:\t0\n"]) == triggers([]) == {}


def test_the_kernel_is_asked_when_all_is_counted() -> None:
    """In the measured phase it would cost the daemon something, and later nobody is there."""
    here, there = socket.socketpair()
    with epoll() as mine, here, there:
        mine.register(here, EPOLLIN | EPOLLET)
        mine.register(there, EPOLLIN)
        registrations = Registrations(os.getpid())
        registrations.enter("measure", 1.0)
        before = dict(registrations.counts)
        registrations.enter("settle", None)

    assert before == {}
    assert registrations.counts["et"] >= 1
    assert registrations.counts["lt"] >= 1


def test_of_a_daemon_that_is_not_ours_nothing_is_said() -> None:
    for pid in (0, 2**22 + 1):
        registrations = Registrations(pid)
        registrations.enter("settle", None)
        assert registrations.counts == {}
