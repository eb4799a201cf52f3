"""bpf(2) and /proc/self/fdinfo, without BCC: what may this process do, and what did a program cost.

Nothing here is needed to count. It answers, before BCC is asked, whether the kernel will let us
count (BCC's own errors name the wrong cause), and afterwards what the kernel says of our programs.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

# enum bpf_cmd and enum bpf_prog_type, uapi/linux/bpf.h
BPF_MAP_CREATE = 0
BPF_PROG_LOAD = 5
BPF_ENABLE_STATS = 32
BPF_MAP_TYPE_ARRAY = 2
BPF_PROG_TYPE_RAW_TRACEPOINT = 17

# trace_call_bpf(), kernel/trace/bpf_trace.c, skips a perf tracepoint's program while any such
# program runs on the CPU, and counts that from 6.7 on only.  A raw one is skipped within itself
# alone, and counted, from 6.1 on (backported with its count); before that it is never skipped.
PERF_MISSES = (6, 7)

RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit


@dataclass(frozen=True)
class Architecture:
    """The numbers of one architecture's system call interface."""

    bpf: int
    epoll_wait: int
    epoll_pwait: int
    epoll_ctl: int
    exit: int
    exit_group: int
    rt_sigreturn: int
    # In pt_regs, uapi/asm/ptrace.h: a call's second argument, and its number (orig_rax; x8).
    argument2_offset: int
    number_offset: int

    epoll_pwait2 = 441  # numbers from 424 on are the same everywhere


NO_SUCH_CALL = 0xFFFF
ARCHITECTURES = {
    "x86_64": Architecture(321, 232, 281, 233, 60, 231, 15, 104, 120),
    "aarch64": Architecture(280, NO_SUCH_CALL, 22, 21, 93, 94, 139, 8, 64),
}


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel keeps about one loaded program."""

    runs: int
    run_ns: int
    missed: int | None  # None: this kernel does not say


def release() -> tuple[int, int]:
    """Return the running kernel's version, as (major, minor)."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def bpf(command: int, attributes: bytes) -> int:
    """Give the kernel one command; return the descriptor it makes. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = ARCHITECTURES[os.uname().machine].bpf
    result = int(libc.syscall(number, command, buffer, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def try_to_count() -> None:
    """Do in small what the probe does: make a map, load a tracing program. Raises OSError."""
    # key 4 bytes, value 8 bytes, 1 entry: needs CAP_BPF
    os.close(bpf(BPF_MAP_CREATE, struct.pack("5I", BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0) + bytes(52)))
    code = ctypes.create_string_buffer(RETURN_ZERO, len(RETURN_ZERO))
    text = ctypes.create_string_buffer(b"Dual MIT/GPL")
    attributes = struct.pack(  # a tracing program needs CAP_PERFMON as well
        "2I2Q",
        BPF_PROG_TYPE_RAW_TRACEPOINT,
        len(RETURN_ZERO) // 8,
        ctypes.addressof(code),
        ctypes.addressof(text),
    )
    os.close(bpf(BPF_PROG_LOAD, attributes + bytes(48)))


def enable_run_statistics() -> int:
    """Have the kernel time every BPF program until the returned descriptor is closed.

    Needs CAP_SYS_ADMIN and Linux 5.8. Raises OSError.
    """
    return bpf(BPF_ENABLE_STATS, struct.pack("I", 0))  # BPF_STATS_RUN_TIME


def tells_misses(function: str, running: tuple[int, int]) -> bool:
    """Tell whether kernel *running* says how often it skipped *function*, by its name in BCC."""
    return function.startswith("raw_tracepoint__") or running >= PERF_MISSES


def program_info(
    fd: int, *, misses_are_told: bool, fdinfo: Path = Path("/proc/self/fdinfo")
) -> ProgramInfo:
    """Read what the kernel says of the program behind *fd*; needs no privilege but owning it."""
    text = (fdinfo / str(fd)).read_text()
    fields = dict(re.findall(r"^(\w+):\s*(\d+)$", text, re.MULTILINE))
    return ProgramInfo(
        runs=int(fields.get("run_cnt", 0)),
        run_ns=int(fields.get("run_time_ns", 0)),
        missed=int(fields.get("recursion_misses", 0)) if misses_are_told else None,
    )
