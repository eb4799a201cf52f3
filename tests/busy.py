"""What a busy machine makes of a good client: a late one. It still counts right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BUSY = "the client itself was the bottleneck"


def besides_busy(reasons: Iterable[str]) -> list[str]:
    """Return the *reasons* that are not the machine's."""
    return [reason for reason in reasons if not reason.startswith(BUSY)]
