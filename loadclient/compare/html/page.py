"""Puts the page together: template, style, and the study itself to take away.

Rule: the page asks the network for nothing and runs no script; its Content-Security-Policy makes
the browser hold it to that. The same study gives the same bytes.
"""

from __future__ import annotations

import json
import lzma
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadclient.compare.design import plan
from loadclient.compare.html import tables
from loadclient.compare.html.findings import headline
from loadclient.compare.html.parts import capital
from loadclient.compare.html.sections import sections
from loadclient.report import spoken
from loadclient.session import write_whole

if TYPE_CHECKING:
    from loadclient.compare.html.tables import Table, Value
    from loadclient.compare.study import Study

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Download:
    """A file inside the page."""

    filename: str
    words: str
    url: str


def write_html(study: Study, path: Path) -> None:
    """Write the study's report to *path*, as one file that needs no other."""
    ascii_only = page(study).encode("ascii", "xmlcharrefreplace").decode()  # in any locale
    write_whole(path, ascii_only)


def page(study: Study) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "plain": plain, "prose": prose}
    raw = tables.raw(study.slices)
    return environment.get_template("page.html.j2").render(
        study=study,
        headline=headline(study),
        when=_when(study),
        why_unfit=capital(study.fitness.sentence.removeprefix("Unfit: ")),
        missing=_missing(study),
        sections=sections(study),
        raw=raw,
        raw_by_cell=_by_cell(raw),
        downloads=_downloads(study, raw),
    )


def figure(value: float) -> str:
    """Return a number for people; the whole of it is in the element's value."""
    if isinstance(value, int) or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def plain(value: Value) -> str:
    """Return a raw value, all of it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def prose(text: str) -> str:
    """Return text for a paragraph, in which no number is parted from its % sign."""
    return text.replace(" %", "\u00a0%")


def _when(study: Study) -> str:
    started = datetime.fromtimestamp(study.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if study.finished is None:
        return started
    return f"{started}, {spoken(study.finished - study.started)}"


def _missing(study: Study) -> str:
    """Return a sentence if the study is not finished."""
    planned = sum(len(block.steps) for block in plan(study.design))
    if study.complete:
        return ""
    if len(study.slices) < planned:
        return f"{len(study.slices)} of {planned} slices are measured."
    return "It was stopped before discarded pairs were measured again or the kernel was asked."


def _by_cell(raw: Table) -> dict[str, list[list[Value]]]:
    place = list(raw.columns).index("cell") if raw.rows else 0
    rows: dict[str, list[list[Value]]] = {}
    for row in raw.rows:
        rows.setdefault(str(row[place]), []).append(list(row))
    return rows


def _downloads(study: Study, raw: Table) -> list[Download]:
    packed = lzma.compress(study.to_json().encode())  # half of what gzip makes of histograms
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in study.study_id) or "study"
    return [
        Download(
            f"{name}.json.xz",
            "The whole study, histograms included (JSON, xz)",
            f"data:application/x-xz;base64,{b64encode(packed).decode()}",
        ),
        Download(
            f"{name}-slices.csv",
            "All slices (CSV)",
            f"data:text/csv;base64,{b64encode(tables.as_csv(raw).encode()).decode()}",
        ),
    ]
