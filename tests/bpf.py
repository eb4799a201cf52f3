"""Whether the kernel's witness may count here."""

from __future__ import annotations

from ebpf import preflight
from ebpf.errors import Refused


def refusal() -> str | None:
    """Ask the kernel itself; having BPF and failing for another reason must not look like this."""
    try:
        preflight.check()
    except Refused as refused:
        return str(refused)
    return None
