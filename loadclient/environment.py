"""The machine under the run: what must be equal before two results may be compared."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

SYSCTLS = ("net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/core/somaxconn")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
MITIGATIONS = Path("/sys/devices/system/cpu/vulnerabilities")
PRESSURE = Path("/proc/pressure/cpu")
STAT = Path("/proc/stat")
CPUINFO = Path("/proc/cpuinfo")
BOOT = Path("/proc/sys/kernel/random/boot_id")
CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Contention:
    """Time that others took from us, so far: read it before and after."""

    steal_ticks: int
    all_ticks: int
    pressure_us: int | None

    @classmethod
    def now(cls) -> Contention:
        """Read the kernel's totals."""
        ticks = [int(n) for n in _text(STAT).split("\n", 1)[0].split()[1:9]] or [0]
        pressure = _text(PRESSURE).partition("total=")[2].split("\n", 1)[0]
        return cls(ticks[-1], sum(ticks), int(pressure) if pressure else None)

    def since(self, earlier: Contention) -> dict[str, float | None]:
        """Return steal as a share of all processor time, and stall time in seconds."""
        ticks = self.all_ticks - earlier.all_ticks
        stalled = None
        if self.pressure_us is not None and earlier.pressure_us is not None:
            stalled = (self.pressure_us - earlier.pressure_us) / 1e6
        steal = (self.steal_ticks - earlier.steal_ticks) / ticks if ticks else 0.0
        return {"steal_share": steal, "cpu_pressure_seconds": stalled}


def describe(before: Contention) -> dict[str, Any]:
    """Return the metadata of a run that began with *before*."""
    return {
        **machine(),
        "boot": _text(BOOT) or None,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "governor": _text(GOVERNOR) or None,
        "mitigations": _mitigations(),
        "clocksource": _text(CLOCK),
        **build(),
        "load_average": list(os.getloadavg()),
        "sysctls": {name.replace("/", "."): _text(Path("/proc/sys", name)) for name in SYSCTLS},
        "nofile": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        **Contention.now().since(before),
    }


def build() -> dict[str, str | None]:
    """Return what this client is made of: slices of one study must not differ in it.

    Two states of a checkout that is not committed are both "-dirty" and look alike from here.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"version": version(), "commit": commit(), "python": python}


def machine() -> dict[str, str | None]:
    """Return what one machine has and another has not: slices of both do not mix."""
    return {"cpu": _cpu(), "kernel": platform.release()}


def version() -> str:
    """Return the installed version."""
    try:
        return metadata.version("etlt")
    except metadata.PackageNotFoundError:  # run from a bare checkout
        return "0+unknown"


def commit() -> str | None:
    """Return the commit, spelt as the daemon spells its own: one look tells whether they differ.

    It is what the image was built from (ETLT_COMMIT), else git's; None outside a checkout.
    """
    built_from = os.environ.get("ETLT_COMMIT")
    if built_from:
        return built_from
    if not (ROOT / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - as etltd does
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu() -> str:
    for line in _text(CPUINFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _mitigations() -> dict[str, str]:
    if not MITIGATIONS.is_dir():
        return {}
    states = {path.name: _text(path) for path in sorted(MITIGATIONS.iterdir())}
    return {name: state for name, state in states.items() if state != "Not affected"}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
