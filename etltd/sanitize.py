r"""Messages without control characters; pure.

A message is any bytes up to its newline, and ``nc`` shows them to a terminal as they are. So a
peer can clear the screens of all others, rename their windows, or overwrite its own ``[USERn]``
with another's by a carriage return. What is taken out:

1. the controls of ASCII, ``\x00`` to ``\x1f`` and ``\x7f``, but for tab (and the newline, which
   ends the message);
2. the controls that ISO 8859 and Unicode have beside them (C1, U+0080 to U+009F), where UTF-8
   spells one;
3. the bytes ``\x80`` to ``\x9f`` that are no part of a character in UTF-8: a terminal may take them
   for C1. One that is set to an 8-bit encoding is not safe for that: it takes a letter's own bytes
   for C1, too (``Û`` is ``\xc3\x9b``), and letters stay whole.

All else stays, byte for byte: also what is not UTF-8, and characters that only change the
direction of text. No line is added or lost, so what is counted as a message does not change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from etltd.wire import prefixed

if TYPE_CHECKING:
    from etltd.stats import LoopStats

CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n"})
C1 = re.compile("[\x80-\x9f\udc80-\udc9f]")  # as characters, and as bytes that are none


def clean(block: bytes) -> bytes:
    """Return *block* without control characters, its tabs and newlines apart."""
    block = block.translate(None, CONTROLS)
    if block.isascii():
        return block
    # First the controls, then this: what stood apart may spell a character when they are gone.
    text = block.decode("utf-8", "surrogateescape")
    return C1.sub("", text).encode("utf-8", "surrogateescape")


class Sanitizer:
    """Does what `etltd.wire.prefixed` does, to lines that are clean; counts what it took out."""

    def __init__(self, stats: LoopStats) -> None:
        self._stats = stats

    def prefixed(self, prefix: bytes, block: bytes, lines: int) -> bytes:
        """Return the clean *lines* of *block* with *prefix* before each."""
        cleaned = clean(block)
        self._stats.sanitized_bytes += len(block) - len(cleaned)
        return prefixed(prefix, cleaned, lines)
