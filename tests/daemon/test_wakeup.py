"""Signals become bytes on a pipe, between ticks; afterwards everything is as it was."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from etltd.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup(signal.SIGTERM, signal.SIGINT)
    yield made
    made.close()


def test_a_signal_makes_the_descriptor_readable(wakeup: Wakeup) -> None:
    """A loop asleep in epoll would not notice the stop."""
    assert select.select([wakeup.fd], [], [], 0)[0] == []

    signal.raise_signal(signal.SIGTERM)

    assert select.select([wakeup.fd], [], [], 0)[0] == [wakeup.fd]


def test_signals_are_taken_once_and_in_order(wakeup: Wakeup) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)

    assert wakeup.take() == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert wakeup.take() == []


def test_more_signals_than_the_pipe_holds_do_not_block(wakeup: Wakeup) -> None:
    for _ in range(70_000):
        signal.raise_signal(signal.SIGTERM)

    assert wakeup.take() == [signal.SIGTERM] * 64


def test_close_gives_the_signals_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    wakeup = Wakeup(signal.SIGTERM, signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is not before[0]
    wakeup.close()

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(wakeup.fd, 1)
