"""Which clock this host goes by, and how wrong it may be.

Parts of one run on several hosts share the time of day alone, and each host's differs from it by
what its kernel says at most (adjtimex(2)). Parts on one host share the very same clock.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # the same in every container of a host
UNSYNCHRONISED = 5  # TIME_ERROR, linux/timex.h
READINGS = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """A host's clock; *max_error_seconds* is None if nothing holds it to the time of day."""

    boot_id: str
    max_error_seconds: float | None


class _Timex(ctypes.Structure):
    """``struct timex``, with room for what follows the fields that are read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 192),
    )


def this_clock() -> Clock:
    """Return this host's clock."""
    return Clock(BOOT_ID.read_text().strip(), _max_error_seconds())


def _max_error_seconds() -> float | None:
    timex = _Timex()
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    return None if state in {-1, UNSYNCHRONISED} else timex.maxerror / 1e6


def time_of_day_ns() -> int:
    """Return what to add to CLOCK_MONOTONIC to have Unix time, as of now.

    Of several readings the one that took least time is the truest.
    """
    best = min(
        (later - earlier, now - (earlier + later) // 2)
        for earlier, now, later in (
            (time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(READINGS)
        )
    )
    return best[1]
