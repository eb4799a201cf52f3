"""The self-counting workload and a probe that watches it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from ebpf import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ebpf.decode import GroupCounts
    from ebpf.loader import Probe
    from ebpf.watch import Watch

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PATIENCE_SECONDS = 20
PROBE = (sys.executable, "-m", "ebpf")


def wait_until(claim: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not claim():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def is_asleep(pid: int) -> bool:
    """Tell whether every thread of *pid* sleeps, as it does while it waits for our word."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        return all(
            task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "S"
            for task in tasks.iterdir()
        )
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False


def descendant(pid: int) -> int:
    """Return the workload below *pid*, a chain of nsenter(1) and unshare(1)."""
    while not Path(f"/proc/{pid}/comm").read_text().startswith("selfcount"):
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pid = int(child)
    return pid


def leaf(pid: int) -> int:
    """Return the last of a chain of children: nsenter(1) forks, and passes no signal on."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def syscall_of(pid: int) -> str | None:
    """Return the name of the call that the main thread of *pid* is in, or None."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return syscalls.names(os.uname().machine).get(int(number)) if number.isdigit() else None


class Workload:
    """The self-counting server of workload.py, one step at a time."""

    def __init__(
        self, mode: str, rounds: int = 499, *, solo: bool = False, prefix: Sequence[str] = ()
    ) -> None:
        arguments = [mode, str(rounds), *(["solo"] * solo)]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "workload.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._line() == b"hello\n"
        self.pid = descendant(self.process.pid) if prefix else self.process.pid

    def arm(self) -> None:
        """Have it enter epoll_wait once and stop: from then on its loop thread is counted."""
        self._tell(b"a")
        assert self._line() == b"armed\n"
        self.settle()

    def go(self) -> None:
        self._tell(b"g")

    def truth(self) -> dict[str, int]:
        """Return what it counted itself; it has stopped then."""
        truth: dict[str, int] = json.loads(self._line())
        self.settle()
        return truth

    def run(self) -> dict[str, int]:
        self.go()
        return self.truth()

    def settle(self) -> None:
        wait_until(lambda: is_asleep(self.pid), "the workload stops")

    def switches(self) -> dict[str, int]:
        """Return the main thread's context switches, as the scheduler counts them."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return {
            "voluntary": int(fields["voluntary_ctxt_switches"]),
            "involuntary": int(fields["nonvoluntary_ctxt_switches"]),
        }

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.stop()

    def _tell(self, word: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word)

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@dataclass
class Observation:
    """A probe and what it watches."""

    probe: Probe
    watch: Watch

    def counts(self) -> GroupCounts:
        """Return the counts of the only group."""
        (group,) = self.watch.snapshot().groups
        return group.counts


Labels = frozenset[tuple[str, str]]


class Exporter:
    """The command itself, serving; scraped as Prometheus would."""

    def __init__(self, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, *PROBE, "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self.said: list[str] = []
        self.url = self.wait_for(r"serving (http://\S+)")

    def wait_for(self, pattern: str) -> str:
        """Read its log until a line has *pattern*; return the first group."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(pattern, line):
                return match[1] if match.re.groups else match[0]
        raise AssertionError(f"it ended without saying {pattern}: {''.join(self.said)}")

    def text(self) -> str:
        """Scrape once."""
        with urllib.request.urlopen(self.url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text

    def samples(self) -> dict[tuple[str, Labels], float]:
        """Scrape once; return every sample by name (without the prefix) and labels."""
        return {
            (
                sample.name.removeprefix("etlt_probe_"),
                frozenset(sample.labels.items()),
            ): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def stop(self) -> int:
        """End it as systemd would; return its exit status."""
        self.process.terminate()
        status = self.process.wait(PATIENCE_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status
