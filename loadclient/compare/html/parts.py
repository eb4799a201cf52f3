"""What a page is made of: sections with figures, sentences and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from loadclient.compare.html.looks import Look
    from loadclient.compare.html.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing with its title; two drawings are one for wide and one for narrow pages."""

    title: str
    drawings: tuple[Markup, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A cell and a sentence about it."""

    name: str
    words: str
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page."""

    name: str
    subject: str  # what it is about, for the list of contents
    title: str  # what was found
    paragraphs: Sequence[str] = ()
    items: Sequence[Item] = ()
    legend: Sequence[tuple[str, str, str]] = ()  # glyph, colour, words
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def capital(text: str) -> str:
    """Return the text as a title begins."""
    return text[:1].upper() + text[1:]
