"""The third witness: `etlt-probe`, run beside a daemon to count what its loop asks of the kernel.

Nothing of the probe is imported: it is started as anybody would start it and says what it counted
as JSON. It slows what it watches, and by the call, so times never come from a run with the probe.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from loadclient.server import Counters, count
from loadclient.tether import tied

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

LONGEST_SECONDS = "3600"
STOP_SECONDS = 15.0
SYSCALLS = ("recvfrom", "sendto", "sendmsg", "accept4", "close")
OPERATIONS = ("add", "mod", "del")


class KernelWitness:
    """Counts processes from entering to leaving the block; then says what, or why it cannot."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._process: subprocess.Popen[str] | None = None
        self.report: dict[str, Any] | None = None
        self.unavailable = ""

    def __enter__(self) -> Self:
        """Start the probe and wait until it counts."""
        command = [sys.executable, "-m", "ebpf", "--once", "--json"]
        watched = [word for pid in self._pids for word in ("--pid", str(pid))]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [*command, "--duration", LONGEST_SECONDS, *watched],
            env={k: v for k, v in os.environ.items() if not k.startswith("ETLT_PROBE_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; the probe ends when we say so
            preexec_fn=tied(),  # noqa: PLW1509 - it makes two system calls and takes no lock
        )
        assert self._process.stderr is not None  # noqa: S101 - for the type checker
        said = ""
        for line in self._process.stderr:  # Python may have warned of something first
            if "watching" in line:
                return self
            said = line.strip() or said
        self.unavailable = said or "it said nothing"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the probe finish and keep what it counted."""
        assert self._process is not None  # noqa: S101 - for the type checker
        self._process.send_signal(signal.SIGINT)
        try:
            out, _ = self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
        if not self.unavailable:
            self._keep(out)

    def _keep(self, out: str) -> None:
        try:
            report: dict[str, Any] = json.loads(out)
        except ValueError:
            self.unavailable = "etlt-probe: it ended without a report"
            return
        if report["complete"]:
            self.report = report
        else:
            self.unavailable = f"etlt-probe: its counts are not complete: {report['doubts']}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """What the witnesses say of one quantity; None where one cannot know."""

    name: str
    client: float | None = None
    daemon: float | None = None
    kernel: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether all who know say the same; None where there is one witness, and nothing shown."""
        known = [value for value in (self.client, self.daemon, self.kernel) if value is not None]
        return None if len(known) < 2 else len(set(known)) == 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """All that the witnesses say of one run."""

    mode: str
    quantities: list[Quantity] = field(default_factory=list)
    unavailable: str = ""


def of_the_kernel(daemon: Counters, probe: Mapping[str, Any] | None) -> list[Quantity]:
    """Set the daemon's counters beside the probe's, over the same interval.

    Timeouts are left out: an idle loop ticks once a second, also between two readings.
    """
    group = probe["groups"][0] if probe else None
    calls = group["syscalls"] if group else {}

    def kernel(value: float) -> float | None:
        return value if group else None

    def called(name: str) -> float | None:
        return kernel(calls.get(name, {}).get("calls", 0))

    waits = group["epoll_waits"] if group else {}
    return [
        Quantity(
            "wakeups",
            daemon=count(daemon, "epoll_wakeups_total"),
            kernel=kernel(waits.get("wakeup", 0) + waits.get("ready", 0)),
        ),
        Quantity(
            "events",
            daemon=count(daemon, "epoll_events_total"),
            kernel=kernel(group["epoll_events"] if group else 0),
        ),
        *(
            Quantity(name, daemon=count(daemon, "syscalls_total", name), kernel=called(name))
            for name in SYSCALLS
        ),
        Quantity(
            "recvfrom that found nothing",
            daemon=count(daemon, "syscall_eagain_total", "recvfrom"),
            kernel=kernel(calls.get("recvfrom", {}).get("errors", {}).get("EAGAIN", 0)),
        ),
        *(
            Quantity(
                f"epoll_ctl {operation}",
                daemon=count(daemon, "epoll_ctl_total", operation),
                kernel=kernel(group["epoll_ctl"][operation] if group else 0),
            )
            for operation in OPERATIONS
        ),
    ]


def within(inner: list[Quantity], outer: list[Quantity]) -> list[Quantity]:
    """Return what the daemon counted while the probe did, as far as readings can tell.

    *inner* is from readings within the probe's time, *outer* from readings around it. A daemon at
    rest counts nothing between the two. Several on a bus tell each other once a second that they
    live, so theirs may: the count is the one between that is nearest to the kernel's.
    """
    return [
        near
        if near.kernel is None or near.daemon is None or far.daemon is None
        else replace(near, daemon=sorted((near.daemon, near.kernel, far.daemon))[1])
        for near, far in zip(inner, outer, strict=True)
    ]
