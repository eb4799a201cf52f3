from __future__ import annotations

import pytest

from ebpf import preflight
from ebpf.errors import Refused


def refusal() -> str | None:
    """Ask the kernel itself; having BPF and failing for another reason must not look like this."""
    try:
        preflight.check()
    except Refused as refused:
        return str(refused)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need bpf(2) where the kernel refuses it, and only there."""
    reason = refusal()
    for item in items:
        if reason and item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=f"bpf(2): {reason}"))
