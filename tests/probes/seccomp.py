"""Refuse one system call, as a container's filter would, and run a command under it.

Usage: python -m tests.probes.seccomp NAME ERRNO COMMAND...
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from ebpf import syscalls

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38  # linux/prctl.h
SECCOMP_MODE_FILTER = 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000  # linux/seccomp.h


def number_of(call: str) -> int:
    return {name: nr for nr, name in syscalls.names(os.uname().machine).items()}[call]


def refuse(call: int, code: int) -> None:
    """Have the kernel answer *call* with errno *code* from now on, here and in what we start."""
    program = b"".join(
        (
            struct.pack("HBBI", LOAD_WORD, 0, 0, 0),  # the number of the call
            struct.pack("HBBI", JUMP_IF_EQUAL, 0, 1, call),
            struct.pack("HBBI", RETURN, 0, 0, RET_ERRNO | code),
            struct.pack("HBBI", RETURN, 0, 0, RET_ALLOW),
        )
    )
    text = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(text))
    )
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header) == 0


if __name__ == "__main__":
    refuse(number_of(sys.argv[1]), getattr(errno, sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - the command is the caller's
