"""Every option of the probe: default, unit, bounds and help, declared once.

The names here are the flags (``--all-threads``), the environment (``ETLT_PROBE_ALL_THREADS``) and
the keys of the TOML file (``all_threads``).
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - cyclopts resolves the annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

HIGHEST_PID = 4194304  # PID_MAX_LIMIT, linux/threads.h
LONGEST_RUN = 86400  # seconds
ONCE_SECONDS = 10.0


def whole_number(text: str) -> int:
    """Read a whole number; cyclopts would take 3.7 for 4. Raises ValueError."""
    try:
        return int(_plain(text))
    except ValueError:
        raise ValueError(f'"{text}" is not a whole number') from None


def _plain(text: str) -> str:
    """Refuse what only Python takes for a number: 9_000, and the digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def read_path(_type: Any, tokens: Sequence[Token]) -> Path:
    """Read a path; an empty one would be the folder that happens to be current."""
    text = tokens[0].value
    if not text or "\0" in text:
        raise ValueError(f'"{text}" is not a path')
    return Path(text)


def read_port(_type: Any, tokens: Sequence[Token]) -> int:
    """Read a TCP port. Raises ValueError."""
    port = whole_number(tokens[0].value)
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port; it must be from 0 (take a free one) to 65535")
    return port


def read_pids(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read process numbers. Raises ValueError."""
    pids = tuple(whole_number(token.value) for token in tokens)
    for pid in pids:
        if not 1 <= pid <= HIGHEST_PID:
            raise ValueError(f"{pid} is not a process; it must be from 1 to {HIGHEST_PID}")
    return pids


def read_comms(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Read process names; as a prefix, an empty one would mean all. Raises ValueError."""
    comms = tuple(token.value for token in tokens)
    if not all(comms):
        raise ValueError("the name must not be empty: that would be every process")
    return comms


def read_duration(_type: Any, tokens: Sequence[Token]) -> float:
    """Read a number of seconds. Raises ValueError."""
    text = tokens[0].value
    try:
        seconds = float(_plain(text))
    except ValueError:
        raise ValueError(f'"{text}" is not a number of seconds') from None
    if not 0 < seconds <= LONGEST_RUN:
        raise ValueError(f"{text} s is out of range; it must be above 0 and at most {LONGEST_RUN}")
    return seconds


TARGETS = Parameter(group=Group("What it watches", sort_key=1), negative="")
OUTPUT = Parameter(group=Group("What it does with the counts", sort_key=2), negative="")
KERNEL = Parameter(group=Group("The kernel side", sort_key=3), negative="")
Switch = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Config:
    """What one probe was told."""

    pid: Annotated[tuple[int, ...], TARGETS, Parameter(converter=read_pids, metavar="N")] = ()
    """Watch this process; may be given several times."""

    comm: Annotated[tuple[str, ...], TARGETS, Parameter(converter=read_comms, metavar="NAME")] = ()
    """Watch every process whose name begins so, and restarts; may be given several times."""

    all_threads: Annotated[Switch, TARGETS] = False
    """Count all threads, not only those that call epoll_wait."""

    host: Annotated[str, OUTPUT] = "127.0.0.1"
    """Address for /metrics."""

    port: Annotated[int, OUTPUT, Parameter(converter=read_port, n_tokens=1)] = 9701
    """Port for /metrics; 0 takes a free one."""

    once: Annotated[Switch, OUTPUT] = False
    """Count for --duration seconds, print a table and exit."""

    duration: Annotated[float, OUTPUT, Parameter(converter=read_duration, n_tokens=1)] = (
        ONCE_SECONDS
    )
    """Seconds to count with --once."""

    json: Annotated[Switch, OUTPUT] = False
    """With --once, print JSON instead of the table."""

    lite: Annotated[Switch, KERNEL] = False
    """Time only epoll_wait, not every system call: cheaper."""

    stats: Annotated[Switch, KERNEL] = False
    """Let the kernel time the probe itself, 1 s in 30 (needs CAP_SYS_ADMIN)."""

    attach: Annotated[Literal["auto", "raw", "perf"], KERNEL] = "auto"
    """Raw tracepoints, or the perf tracepoints of older kernels (they need tracefs)."""

    print_source: Annotated[Switch, KERNEL] = False
    """Print the C program as it would be compiled, and exit."""

    def problem(self) -> str | None:
        """Say in one sentence what is wrong between the options, or None."""
        if not self.pid and not self.comm and not self.print_source:
            return "it needs something to watch: --pid N or --comm NAME (`--comm etltd`)"
        if self.json and not self.once:
            return "--json is the output of --once; the exporter's is /metrics"
        if self.duration != ONCE_SECONDS and not self.once:
            return (
                f"--duration {self.duration:g} is how long --once counts; "
                "without it the exporter runs until it is stopped"
            )
        return None
