"""Which processes are meant, and by what number the kernel knows them.

Rules: a process is held by a pidfd from before its name is read, so a reused pid is never taken for
it. The mode is what the process says of itself: the daemon names itself ``etltd-et`` or
``etltd-lt``, and no flag of ours can get that wrong. The probe never watches itself.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h
MODES = {"etltd-et": "et", "etltd-lt": "lt"}
STARTING = "etltd"  # the console script, from exec(2) until the daemon names itself
PF_KTHREAD = 0x00200000
ELF_32_BIT = b"\x7fELF\x01"  # EI_MAG, EI_CLASS; elf(5)
COMM_BYTES = 15  # TASK_COMM_LEN less the terminator; the kernel cuts longer names


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for."""

    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()

    def names(self, comm: str) -> bool:
        """Tell whether a process called *comm* is meant: by prefix, so `etltd` means both modes."""
        return any(comm.startswith(prefix[:COMM_BYTES]) for prefix in self.comms)


@dataclass(frozen=True, slots=True)
class NamespacedPid:
    """A process as seen inside a pid namespace, which device and inode identify."""

    device: int
    inode: int
    pid: int


@dataclass(frozen=True, slots=True)
class Target:
    """One watched process."""

    pid: int
    comm: str
    pidfd: int
    namespaced: NamespacedPid | None  # None: the kernel's own number is `pid`

    @property
    def mode(self) -> str:
        """Return et or lt as the process itself says; unknown for any other program."""
        return MODES.get(self.comm, "unknown")

    @property
    def is_starting(self) -> bool:
        """Tell whether this is a daemon that has not yet named itself after its mode."""
        return self.comm == STARTING

    def is_alive(self) -> bool:
        """Tell whether the process still exists."""
        return is_alive(self.pidfd)


def is_alive(pidfd: int) -> bool:
    """Tell whether the process behind *pidfd* still exists (pidfd_open(2): readable at exit)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def read_comm(pid: int, proc: Path = PROC) -> str:
    """Return the name of process *pid*, as `printable`. Raises OSError if there is none."""
    name = (proc / str(pid) / "comm").read_bytes().decode(errors="replace")
    return printable(name.removesuffix("\n"))


def printable(text: str) -> str:
    """Return *text* with what is no character to be seen spelled out.

    A process may give itself any name, also one that clears the screen of whoever looks at it.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def find_by_name(wanted: Wanted, proc: Path = PROC) -> Iterator[int]:
    """Yield the pids of the processes whose name is wanted."""
    if not wanted.comms:
        return
    for entry in os.listdir(proc):  # noqa: PTH208  names are all we need
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                comm = read_comm(int(entry), proc)
            except OSError:  # it ended while we looked
                continue
            if wanted.names(comm):
                yield int(entry)


def in_first_namespace(proc: Path = PROC) -> bool:
    """Tell whether the numbers we see are the kernel's own."""
    return (proc / "self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE


def locate(pid: int, proc: Path = PROC) -> NamespacedPid | None:
    """Return how the kernel side can recognise *pid*; None means by that very number."""
    if in_first_namespace(proc):
        return None
    text = (proc / str(pid) / "status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("NSpid:"))
    inner = [int(number) for number in line.split()[1:]]
    owner = "self" if len(inner) == 1 else str(pid)
    try:
        namespace = (proc / owner / "ns/pid").stat()
    except PermissionError:
        raise Refused(
            f"process {pid} is in a pid namespace below the probe's, which may not look into it: "
            "add CAP_SYS_PTRACE (Docker: --cap-add SYS_PTRACE), or share its namespace"
        ) from None
    return NamespacedPid(namespace.st_dev, namespace.st_ino, inner[-1])


def process_of(pid: int, proc: Path = PROC) -> int:
    """Return the process that *pid* is a thread of; /proc answers to both, pidfd_open(2) not."""
    try:
        text = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError:  # it has just ended
        return pid
    found = (int(line.split()[1]) for line in text.splitlines() if line.startswith("Tgid:"))
    return next(found, pid)


def is_kernel_thread(pid: int, proc: Path = PROC) -> bool:
    """Tell whether *pid* is a thread of the kernel (PF_KTHREAD, linux/sched.h)."""
    try:
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return False
    return bool(int(fields[6]) & PF_KTHREAD)


def refuse_other_interface(pid: int, proc: Path = PROC) -> None:
    """Raise Refused for a 32-bit program: its system calls have numbers of their own.

    Where its file may not be read, nothing is known and nothing is said.
    """
    try:
        with (proc / str(pid) / "exe").open("rb") as program:
            magic = program.read(5)
    except OSError:
        return
    if magic == ELF_32_BIT:
        raise Refused(
            f"process {pid} is a 32-bit program, whose system calls have other numbers than this "
            "machine's: run a 64-bit build of it"
        )


def open_target(pid: int, proc: Path = PROC) -> Target | None:
    """Take hold of process *pid*; None if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if not (proc / str(pid)).exists():  # EINVAL, ENOENT: it ended while the kernel looked
            return None
        raise Refused(f"process {pid} cannot be taken hold of: {error.strerror}") from error
    try:
        refuse_other_interface(pid, proc)
        target = Target(pid, read_comm(pid, proc), pidfd, locate(pid, proc))
    except (FileNotFoundError, ProcessLookupError):  # ENOENT, or ESRCH once the file was open
        target = None
    except BaseException:
        os.close(pidfd)
        raise
    if target is None or not target.is_alive():  # the name may be a successor's
        os.close(pidfd)
        return None
    return target


def tasks(pid: int, proc: Path = PROC) -> list[Path]:
    """Return the directory of each thread of process *pid*; none if it has just ended."""
    try:
        return list((proc / str(pid) / "task").iterdir())
    except OSError:
        return []


def calls_in_progress(target: Target, proc: Path = PROC) -> Iterator[tuple[int, int]]:
    """Yield (thread, system call number) of the threads that are in a call now.

    Nothing where the kernel's numbers of the threads are not to be seen from here, or where we may
    not look: that takes CAP_SYS_PTRACE, or the same user and no capabilities the target has not.
    """
    if target.namespaced is not None:
        return
    for task in tasks(target.pid, proc):
        try:
            number = (task / "syscall").read_text().split()[0]
        except OSError:  # it has just ended, or we may not look
            continue
        if number.isdigit():  # else `running`, or -1 for blocked outside a call
            yield int(task.name), int(number)


def _options(proc: Path) -> str:
    """Return the options *proc* is mounted with; none if that is not known."""
    try:
        mounts = (proc / "self/mounts").read_text().splitlines()
    except OSError:
        return ""
    return next((m.split()[3] for m in reversed(mounts) if m.split()[1] == str(proc)), "")


def check_pids(wanted: Wanted, proc: Path = PROC) -> None:
    """Raise Refused for a pid that cannot be watched."""
    for pid in wanted.pids:
        if pid == os.getpid():
            raise Refused(
                f"pid {pid} is the probe itself: share the server's pid namespace "
                '(docker run --pid container:NAME; compose: pid: "service:NAME")'
            )
        if not (proc / str(pid)).exists():
            if "hidepid" in _options(proc):
                raise Refused(
                    f"no process {pid} is to be seen here, where /proc hides other users' "
                    "processes (hidepid): run as its user or as root, or add CAP_SYS_PTRACE"
                )
            raise Refused(
                f"no process {pid} here: the probe must share the target's pid namespace "
                '(docker run --pid container:NAME; compose: pid: "service:NAME") or the host\'s '
                "(--pid host)"
            )
        if (leader := process_of(pid, proc)) != pid:
            raise Refused(f"{pid} is a thread of process {leader}: --pid {leader}")
        try:
            read_comm(pid, proc)
        except PermissionError:
            raise Refused(
                f"/proc/{pid} may not be read (hidepid): run as its user or as root, or add "
                "CAP_SYS_PTRACE"
            ) from None
        except OSError:  # it has just ended; that is said later
            continue
        if is_kernel_thread(pid, proc):
            raise Refused(f"{pid} is a thread of the kernel, which makes no system calls")
