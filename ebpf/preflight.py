"""Ask the kernel whether the probe can count here, and say in one sentence why not.

Rule: try the real thing first and explain afterwards. Capabilities, seccomp and lockdown are read
only to explain a refusal, so that a way of being permitted that we never heard of still works.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from ebpf import kernel
from ebpf.errors import Refused

CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39  # uapi/linux/capability.h
SECCOMP_MODE_FILTER = 2
MEMLOCK_FREE = (5, 11)  # from here on BPF memory is charged to the cgroup, not RLIMIT_MEMLOCK


@dataclass(frozen=True)
class Circumstances:
    """What may explain a refusal."""

    capabilities: int
    seccomp: int
    lockdown: str
    release: tuple[int, int]

    @classmethod
    def read(cls, status: Path, lockdown: Path) -> Circumstances:
        """Read them from /proc/self/status and the security file system."""
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        try:
            mode = lockdown.read_text()
        except OSError:
            mode = ""
        return cls(
            capabilities=int(fields["CapEff"], 16),
            seccomp=int(fields.get("Seccomp", 0)),
            lockdown=mode,
            release=kernel.release(),
        )

    def missing_capabilities(self) -> list[str]:
        """Name what the probe needs and does not hold."""
        if self.capabilities >> CAP_SYS_ADMIN & 1:
            return []
        wanted = {"CAP_BPF": CAP_BPF, "CAP_PERFMON": CAP_PERFMON}
        return [name for name, bit in wanted.items() if not self.capabilities >> bit & 1]


def explain(code: int, here: Circumstances) -> str:
    """Say in one sentence why bpf(2) failed with errno *code*, and what to type."""
    if code == errno.ENOSYS:
        if here.seccomp == SECCOMP_MODE_FILTER:
            return (
                "bpf(2) is said not to exist: a seccomp filter says so (Docker older than 23 "
                "allows it only with --cap-add SYS_ADMIN), or the kernel was built without "
                "CONFIG_BPF_SYSCALL"
            )
        return "this kernel has no bpf(2); it was built without CONFIG_BPF_SYSCALL"
    if code not in (errno.EPERM, errno.EACCES):
        return f"bpf(2) failed: {os.strerror(code)}"
    if missing := here.missing_capabilities():
        return (
            f"needs {' and '.join(missing)} (or root); in Docker: --cap-add BPF --cap-add PERFMON "
            "(older than 23: --cap-add SYS_ADMIN); systemd: "
            "AmbientCapabilities=CAP_BPF CAP_PERFMON"
        )
    return _explain_in_spite_of_capabilities(here)


def _explain_in_spite_of_capabilities(here: Circumstances) -> str:
    if "[confidentiality]" in here.lockdown:
        return "the kernel is locked down (confidentiality), which forbids tracing; boot without it"
    if here.seccomp == SECCOMP_MODE_FILTER:
        return (
            "bpf(2) is refused although the capabilities are held: a seccomp filter blocks it; "
            "Docker older than 23 allows it only with --cap-add SYS_ADMIN"
        )
    if here.release < MEMLOCK_FREE:
        return (
            "bpf(2) is refused although the capabilities are held: raise the locked-memory limit "
            "(ulimit -l unlimited; systemd: LimitMEMLOCK=infinity)"
        )
    return (
        "bpf(2) is refused although the capabilities are held: a security module or a user "
        "namespace forbids it; run the probe in the first user namespace"
    )


def explain_no_pidfd(error: OSError, here: Circumstances) -> str:
    """Say in one sentence why no process can be taken hold of."""
    if here.seccomp == SECCOMP_MODE_FILTER:
        return (
            f"pidfd_open(2) is refused ({error.strerror}): a seccomp filter blocks it; a Docker "
            "that knows the call (20.10 on) allows it, or --security-opt seccomp=unconfined"
        )
    if error.errno == errno.ENOSYS:
        return "needs Linux 5.3 or newer: this kernel has no pidfd_open(2)"
    return f"pidfd_open(2) failed: {error.strerror}"


def check(
    status: Path = Path("/proc/self/status"),
    lockdown: Path = Path("/sys/kernel/security/lockdown"),
) -> None:
    """Raise Refused unless processes can be held, and maps and tracing programs made, here."""
    if os.uname().machine not in kernel.ARCHITECTURES:
        known = " and ".join(kernel.ARCHITECTURES)
        raise Refused(f"this machine is {os.uname().machine}; the probe knows {known}")
    try:
        kernel.try_to_count()
    except OSError as error:
        here = Circumstances.read(status, lockdown)
        raise Refused(explain(error.errno or 0, here)) from error
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise Refused(explain_no_pidfd(error, Circumstances.read(status, lockdown))) from error
