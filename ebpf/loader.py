"""Compile, attach and read the kernel side. The only importer of bcc, and only when asked to load.

Rules: BCC gets our stub headers, never the host's (a header of another kernel compiles, and reads
wrong fields silently). Nothing is counted before `assign` names a target, so attaching to three
places one after the other loses and invents nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from ebpf import kernel
from ebpf.decode import CALL_FIELDS, LOOP_FIELDS, MapRows, ThreadRow
from ebpf.errors import Refused
from ebpf.targets import NamespacedPid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCE = Path(__file__).with_name("probe.bpf.c")
HEADERS = Path(__file__).with_name("headers")

TARGETS = 16  # compared in line for every system call of the machine: about 1/2 ns each
GROUPS = 8  # distinct (mode, comm); 172 kB per group and CPU, 20 kB with LITE
SYSCALLS = 512  # as in probe.bpf.c

BPF_NOEXIST = 1  # uapi/linux/bpf.h

PREVIOUS_STATE_ARGUMENT = (5, 18)  # of the raw sched_switch

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))  # where BCC looks

Attach = Literal["auto", "raw", "perf"]


@dataclass(frozen=True, slots=True)
class Build:
    """What the kernel side is compiled for."""

    lite: bool = False
    all_threads: bool = False
    namespaced: bool = False
    attach: Attach = "auto"

    def definitions(self, machine: str, release: tuple[int, int]) -> dict[str, int]:
        """Return every -D of probe.bpf.c."""
        numbers = kernel.ARCHITECTURES[machine]
        auto = self.attach == "auto"
        return {
            "TARGETS": TARGETS,
            "GROUPS": GROUPS,
            "LITE": self.lite,
            "ALL_THREADS": self.all_threads,
            "NAMESPACED": self.namespaced,
            "RAW_SYSCALLS": self.attach != "perf",  # older than pidfd_open(2), which we need
            "RAW_SWITCH": release >= PREVIOUS_STATE_ARGUMENT if auto else self.attach == "raw",
            "NR_EPOLL_WAIT": numbers.epoll_wait,
            "NR_EPOLL_PWAIT": numbers.epoll_pwait,
            "NR_EPOLL_PWAIT2": numbers.epoll_pwait2,
            "NR_EPOLL_CTL": numbers.epoll_ctl,
            "NR_EXIT": numbers.exit,
            "NR_EXIT_GROUP": numbers.exit_group,
            "NR_RT_SIGRETURN": numbers.rt_sigreturn,
            "ARG2_OFFSET": numbers.argument2_offset,
            "NUMBER_OFFSET": numbers.number_offset,
        }


def source(build: Build) -> str:
    """Return the whole program as it will be compiled."""
    values = build.definitions(os.uname().machine, kernel.release())
    lines = [f"#define {name} {int(value)}" for name, value in values.items()]
    return "\n".join([*lines, SOURCE.read_text()])


class Probe:
    """The attached programs and their maps. Counts from the first `assign` on; then `close`."""

    def __init__(self, build: Build) -> None:
        """Compile and attach. Raises Refused."""
        text = source(build)
        if "#define RAW_SWITCH 0" in text or "#define RAW_SYSCALLS 0" in text:
            _check_tracefs()
        started = time.monotonic()
        self._bpf = _load(text)
        self.load_seconds = time.monotonic() - started
        self._programs = {
            name.decode().rsplit("__", 1)[-1]: (
                function.fd,
                kernel.tells_misses(name.decode(), kernel.release()),
            )
            for name, function in self._bpf.funcs.items()
        }
        self._last_groups: dict[int, int] = {}  # by tgid, of processes that are counted no more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach. The counts are gone."""
        self._bpf.cleanup()

    def assign(self, slot: int, group: int, target: int | NamespacedPid) -> None:
        """Count *target* under *group* from now on: a kernel pid, or one to be recognised."""
        config = self._config()
        config.group[slot] = group
        if isinstance(target, NamespacedPid):
            config.tgid[slot] = 0
            wanted = config.wanted[slot]
            wanted.device, wanted.inode, wanted.pid = target.device, target.inode, target.pid
        else:
            config.tgid[slot] = target
        self._table("config")[0] = config

    def regroup(self, slot: int, group: int) -> None:
        """Count the target in *slot* under another *group* from now on."""
        config = self._config()
        config.group[slot] = group
        self._table("config")[0] = config

    def release(self, slot: int) -> int:
        """Stop counting the target in *slot*; return the number the kernel knew it by, or 0."""
        config = self._config()
        tgid = int(config.tgid[slot])
        self._last_groups[tgid] = int(config.group[slot])
        config.tgid[slot] = 0
        config.wanted[slot].pid = 0
        self._table("config")[0] = config
        return tgid

    def tgid_of(self, slot: int) -> int:
        """Return the number by which the kernel knows the target in *slot*; 0: not met yet."""
        return int(self._config().tgid[slot])

    def adopt(self, thread: ThreadRow, tid: int) -> None:
        """Make *tid* known as what it was doing when we came, unless it has been met since.

        Safe at any time: if it has left that call meanwhile, its next entry overwrites this record.
        """
        table = self._table("threads")
        leaf = table.Leaf(
            entered_ns=thread.entered_ns,
            first_wait_ns=thread.first_wait_ns,
            nr=thread.nr,
            tgid=thread.tgid,
            group=thread.group,
            slept=thread.slept,
            is_loop=thread.is_loop,
        )
        key = table.Key(tid)
        bcc = _import_bcc()
        bcc.lib.bpf_update_elem(table.map_fd, ctypes.byref(key), ctypes.byref(leaf), BPF_NOEXIST)

    def forget_threads(self, tgid: int) -> None:
        """Drop the thread records of a process that is gone; exit_group(2) leaves them behind."""
        self._last_groups.pop(tgid, None)
        for tid, thread in self._known_threads():
            if thread.tgid == tgid:
                self.forget_thread(tid)

    def forget_thread(self, tid: int) -> None:
        """Drop the record of a thread that is gone; another thread's execve(2) leaves it behind."""
        table = self._table("threads")
        with suppress(KeyError):
            del table[table.Key(tid)]

    def threads(self) -> dict[int, ThreadRow]:
        """Return what every known thread is doing, by its tid.

        Its group is its process's: its own record keeps the one of its last entry.
        """
        config = self._config()
        groups = self._last_groups | dict(zip(config.tgid, config.group, strict=True))
        return {
            tid: ThreadRow(
                entered_ns=thread.entered_ns,
                first_wait_ns=thread.first_wait_ns,
                nr=thread.nr,
                tgid=thread.tgid,
                group=groups.get(thread.tgid, thread.group),
                slept=bool(thread.slept),
                is_loop=bool(thread.is_loop),
            )
            for tid, thread in self._known_threads()
        }

    def read(self) -> MapRows:
        """Return the counts. No moment is claimed: CPUs and maps are read one after another."""
        return MapRows(
            calls=dict(self._calls()),
            loops={group: self._per_cpu("loops", group, LOOP_FIELDS) for group in range(GROUPS)},
            errors={
                (key.value >> 32, key.value >> 16 & 0xFFFF, key.value & 0xFFFF): sum(cpus)
                for key, cpus in self._table("errors").items()
            },
            threads=list(self.threads().values()),
            taken_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),  # bpf_ktime_get_ns's clock
        )

    def clear(self, group: int) -> None:
        """Set all counts of *group*, which nobody counts into, to nought."""
        seen, calls, errors = (self._table(name) for name in ("seen", "calls", "errors"))
        for nr, is_used in enumerate(bytes(seen[group].nr)):
            if is_used:
                self._zero(calls, group * SYSCALLS + nr)
        seen[group] = seen.Leaf()
        self._zero(self._table("loops"), group)
        for key in list(errors):
            if key.value >> 32 == group:
                del errors[key]

    @staticmethod
    def _zero(table: Any, key: int) -> None:
        table[ctypes.c_int(key)] = table.Leaf()

    def programs(self) -> Mapping[str, kernel.ProgramInfo]:
        """Return what the kernel says of each program, by the tracepoint's name."""
        return {
            name: kernel.program_info(fd, misses_are_told=told)
            for name, (fd, told) in self._programs.items()
        }

    def _table(self, name: str) -> Any:
        return self._bpf[name.encode()]  # BCC warns of str

    def _known_threads(self) -> Iterator[tuple[int, Any]]:
        """Read each thread's record once: the walk begins anew when its key has been deleted."""
        table = self._table("threads")
        for tid in {key.value for key in table}:
            with suppress(KeyError):  # it has ended meanwhile
                yield tid, table[table.Key(tid)]

    def _config(self) -> Any:
        return self._table("config")[0]

    def _calls(self) -> Iterator[tuple[tuple[int, int], list[tuple[int, ...]]]]:
        """Read the rows in use only: an array of 4096 rows takes BCC 60 ms, 30 rows 0.2 ms."""
        for group in range(GROUPS):
            for nr, is_used in enumerate(bytes(self._table("seen")[group].nr)):
                if is_used:
                    key = group * SYSCALLS + nr
                    yield (group, nr), self._per_cpu("calls", key, CALL_FIELDS)

    def _per_cpu(self, table: str, key: int, fields: tuple[str, ...]) -> list[tuple[int, ...]]:
        slots = "events" if table == "loops" else "duration"
        return [
            (*(getattr(row, field) for field in fields), *getattr(row, slots))
            for row in self._table(table)[ctypes.c_int(key)]
        ]


def _check_tracefs() -> None:
    try:
        is_there = any((mount / "events").is_dir() for mount in TRACEFS)
    except PermissionError:
        raise Refused(
            "perf tracepoints need to read tracefs, which is root's: run as root, or add "
            "CAP_DAC_READ_SEARCH (Docker: --cap-add DAC_READ_SEARCH; systemd: "
            "AmbientCapabilities=); raw ones need Linux 5.18 and no tracefs"
        ) from None
    if not is_there:
        raise Refused(
            "perf tracepoints need tracefs: mount -t tracefs none /sys/kernel/tracing "
            "(Docker: -v /sys/kernel/tracing:/sys/kernel/tracing:ro); raw ones need Linux 5.18"
        )


def _load(text: str) -> Any:
    bcc = _import_bcc()
    with _stub_headers(), _captured_stderr() as captured:
        try:
            return bcc.BPF(text=text.encode())
        except Exception as error:
            captured.seek(0)
            noise = captured.read().decode(errors="replace").strip().splitlines()
            detail = next((line for line in noise if "error" in line.lower()), str(error))
            raise Refused(f"the kernel side does not load: {detail.strip()}") from error


def _import_bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415  it is large, and --help and the decoders do without

        bcc.BPF  # noqa: B018  PyPI's `bcc` is another project and has none
    except (ImportError, AttributeError):
        raise Refused(
            f"BCC's Python module is not importable by {sys.executable}: apt-get install "
            "python3-bpfcc, and run with /usr/bin/python3 or a venv of it that has "
            "--system-site-packages (the `bcc` on PyPI is another project)"
        ) from None
    return bcc


@contextmanager
def _stub_headers() -> Iterator[None]:
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(HEADERS)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


def _scratch() -> int:
    """Return a file in memory, as a read-only container has no place for one; or one of nothing."""
    try:
        return os.memfd_create("stderr")
    except OSError:  # a seccomp filter; a refusal is explained less well then
        return os.open(os.devnull, os.O_RDWR)


@contextmanager
def _captured_stderr() -> Iterator[Any]:
    """Keep what clang and libbpf print by themselves; it explains a refusal, or is noise."""
    sys.stderr.flush()
    saved = os.dup(2)
    with os.fdopen(_scratch(), "w+b") as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
