"""What a mode and a verdict look like, everywhere: a colour and a shape, never a colour alone.

Blue and orange stay apart for all common kinds of colour blindness. The colours themselves are CSS
variables, so that one drawing serves both themes; style.css says what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadclient.compare.study import Kind

if TYPE_CHECKING:
    from loadclient.compare.study import Cell

GLYPHS = {
    ("circle", True): "●",
    ("circle", False): "○",
    ("square", True): "■",
    ("square", False): "□",
    ("diamond", True): "◆",
    ("diamond", False): "◇",
    ("triangle-up", True): "▲",
}


@dataclass(frozen=True, slots=True)
class Look:
    """A mark's colour and shape."""

    color: str
    shape: str
    filled: bool = True

    @property
    def fill(self) -> str:
        """Return what is inside the shape: of a hollow one, the page."""
        return self.color if self.filled else "var(--page)"

    @property
    def dash(self) -> list[int]:
        """Return how a line of this look is broken."""
        return [] if self.filled else [5, 3]

    @property
    def glyph(self) -> str:
        """Return the shape as a character, for legends and sentences."""
        return GLYPHS[self.shape, self.filled]


MODES = {"et": Look("var(--et)", "circle"), "lt": Look("var(--lt)", "square")}
OTHER_MODE = Look("var(--dim)", "diamond")
CONTROL = Look("var(--dim)", "triangle-up")
EQUIVALENT = Look("var(--ink)", "diamond")
INCONCLUSIVE = Look("var(--dim)", "diamond", filled=False)


def arm_looks(cell: Cell) -> tuple[Look, Look]:
    """Return the looks of both arms; where they are in one mode, the second one is hollow."""
    a, b = MODES.get(cell.a.mode, OTHER_MODE), MODES.get(cell.b.mode, OTHER_MODE)
    return a, replace(b, filled=a != b)


def verdict_look(cell: Cell, kind: Kind | None) -> Look | None:
    """Return the look of a ratio in a forest plot; None if it may not be drawn."""
    if kind is Kind.NOT_COMPARABLE:
        return None
    if cell.control:
        return CONTROL
    a, b = arm_looks(cell)
    looks = {Kind.A_BETTER: a, Kind.B_BETTER: b, Kind.EQUIVALENT: EQUIVALENT}
    return looks.get(kind, INCONCLUSIVE) if kind else INCONCLUSIVE


# Darker and lighter as well as of another hue, and neither of the modes' two.
SYSCALLS = {
    "epoll_wait": "var(--epoll-wait)",
    "epoll_ctl": "var(--epoll-ctl)",
    "recvfrom": "var(--recvfrom)",
    "recvfrom, nothing there": "var(--recvfrom-empty)",
    "sendmsg": "var(--sendmsg)",
    "sendto": "var(--sendto)",
    "send, no room": "var(--send-full)",
}
OTHER_SYSCALL = "var(--other)"


def syscall_color(kind: str) -> str:
    """Return the colour of a kind of system call."""
    return SYSCALLS.get(kind, OTHER_SYSCALL)
