"""The drawings: Vega-Lite charts, made into SVG once, when the page is written.

Why drawn beforehand and not in the browser: an SVG with CSS variables for colours follows the
theme, prints as it is, has a description for every mark, and needs no script in the page; some CI
servers and mail programs let none run. Small drawings of equal size are laid out by the page, so
that they serve a phone as well; only the forest has a narrow edition.

Rule: colours are CSS variables, marks have a description with their figures, and words that could
be long stand in the page, where they wrap, or have a limit here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil, floor, log10
from operator import add
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import altair as alt
import vl_convert
from markupsafe import Markup

from loadclient.compare.html.looks import MODES, syscall_color

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadclient.compare.html.looks import Look

SVG = "http://www.w3.org/2000/svg"
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"  # of one width nearly everywhere
FONT_SIZE = 12
PLOT = (230, 150)  # of a small drawing, in pixels, without its axes
MAXIMUM_PLACE = 0.7  # decades right of the last percentile
NARROW, WIDE = 330, 940
NAME_LIMIT, TEXT_LIMIT = 270, 160  # pixels left and right of the wide forest, at most
LETTER = 6.3  # pixels, on average
HEADER_GAP = -6  # pixels: what Vega leaves under a header is too much for two bars
Y_AXIS = 38  # pixels for its labels, in every small drawing, so that all are of one width
SHORT = "format(datum.value, '.3~s')"  # 500k; the axis' own format says 0k too
ROW_WIDE, ROW_NARROW = 30, 56
LEAST_SHOWN = 1e-3  # share of wakeups below which a bucket is only in the table

GEOMETRY = {"d", "transform", "x", "x2", "y", "y2", "width", "height"}
EMPTY = ("", "M0,0h0v0h0Z")  # paths that draw nothing
DEFAULTS = (  # what the page's style says once, or what is so anyway
    ("aria-roledescription", "group mark container"),
    ("class", "mark-group role-axis"),
    ("class", "mark-group role-scope"),
    ("class", "mark-rule role-axis-domain"),
    ("class", "mark-rule role-axis-grid"),
    ("class", "mark-rule role-axis-tick"),
    ("class", "mark-text role-axis-label"),
    ("class", "mark-text role-axis-title"),
    ("font-family", FONT),
    ("font-size", f"{FONT_SIZE}px"),
    ("font-weight", "normal"),
    ("opacity", "1"),
    ("pointer-events", "none"),
    ("role", "graphics-object"),
    ("stroke-width", "1"),
)
BY_TAG = ((f"{{{SVG}}}text", "fill", "var(--ink)"), (f"{{{SVG}}}line", "stroke", "var(--grid)"))

Row = dict[str, Any]
Chart = alt.Chart | alt.LayerChart | alt.FacetChart


def svg(chart: Chart) -> Markup:
    """Return the drawing as a part of a page."""
    spec = (
        chart.configure(background="transparent", font=FONT, padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            domainColor="var(--dim)",
            gridColor="var(--grid)",
            labelColor="var(--ink)",
            labelFontSize=FONT_SIZE,
            labelOverlap="greedy",
            tickColor="var(--dim)",
            titleColor="var(--ink)",
            titleFontSize=FONT_SIZE,
            titleFontWeight="normal",
            titlePadding=8,
        )
        .configure_header(labelColor="var(--ink)", labelFontSize=FONT_SIZE, title=None)
        .configure_text(color="var(--ink)", fontSize=FONT_SIZE)
        .to_dict()
    )
    return _tidied(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE))


def _tidied(text: str) -> Markup:
    """Return the SVG in fewer bytes, with each mark's description as its name and tooltip."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(text)  # noqa: S314 - the library's own output
    for parent in list(root.iter()):
        for child in [child for child in parent if child.get("d") in EMPTY]:
            parent.remove(child)
    for mark in root.iter():
        for name in GEOMETRY & mark.attrib.keys():
            mark.set(name, re.sub(r"-?\d+\.\d{2,}", _tenths, mark.attrib[name]))
        by_tag = ((name, value) for tag, name, value in BY_TAG if mark.tag == tag)
        for name, value in (*DEFAULTS, *by_tag):
            if mark.get(name) == value:
                del mark.attrib[name]
        if mark.get("role") == "graphics-symbol" and mark.get("aria-roledescription") != "axis":
            ET.SubElement(mark, f"{{{SVG}}}title").text = mark.attrib.pop("aria-label", "")
            del mark.attrib["aria-roledescription"]
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - escaped by the library


def _tenths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}"


@dataclass(frozen=True, slots=True)
class Interval:
    """One line of a forest plot; without a look there is nothing to draw but the text."""

    name: str
    text: str
    look: Look | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def forest(rows: Sequence[Interval], margin: float, ratio_of: str) -> tuple[Markup, Markup]:
    """Return the ratios with their intervals, for a wide page and for a narrow one."""
    ends = [end for row in rows if row.look for end in (row.low, row.high) if end]
    low, high = min((0.95, *ends)), max((1.05, *ends))
    scale = alt.Scale(type="log", domain=[low / 1.01, high * 1.01], nice=False, zero=False)
    axis = alt.Axis(values=ratio_ticks(low, high), format="~r", title=ratio_of)
    x = alt.X("low:Q", scale=scale, axis=axis)
    return tuple(_forest(rows, margin, x, wide=wide) for wide in (True, False))  # type: ignore[return-value]  # two


def _forest(rows: Sequence[Interval], margin: float, x: alt.X, *, wide: bool) -> Markup:
    extent = min(NAME_LIMIT, max(LETTER * len(row.name) for row in rows))
    width = round(WIDE - extent - TEXT_LIMIT) if wide else NARROW
    names = alt.Axis(
        title=None, labelLimit=extent, minExtent=extent, ticks=False, domain=False, offset=4
    )
    y = alt.Y("name:N", sort=None, axis=names if wide else None)
    band = alt.Chart(alt.InlineData(values=[{"low": 1 / (1 + margin), "high": 1 + margin}]))
    one = alt.Chart(alt.InlineData(values=[{"low": 1}]))
    layers = [
        band.mark_rect(color="var(--band)", aria=False).encode(x=x, x2="high:Q"),
        one.mark_rule(color="var(--dim)", aria=False).encode(x=x),
        *_intervals([row for row in rows if row.look and row.ratio], x, y),
        *_forest_words(rows, y, width, wide=wide),
    ]
    step = ROW_WIDE if wide else ROW_NARROW
    chart = alt.layer(*layers).properties(width=width, height=step * len(rows))
    return svg(chart)


def _intervals(rows: Sequence[Interval], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    values = [
        {"name": row.name, "low": row.low, "high": row.high, "ratio": row.ratio,
         "color": row.look.color, "fill": row.look.fill, "shape": row.look.shape,
         "said": f"{row.name}: {row.text}"}
        for row in rows if row.look
    ]  # fmt: skip
    stroke, shape = alt.Stroke("color:N", scale=None), alt.Shape("shape:N", scale=None)
    base = _base(values).encode(y=y, stroke=stroke)
    points: alt.Chart = base.mark_point(size=90, opacity=1, strokeWidth=1.5).encode(
        x="ratio:Q", fill=alt.Fill("fill:N", scale=None), shape=shape, description="said:N"
    )
    rules: alt.Chart = base.mark_rule(strokeWidth=2, aria=False).encode(x=x, x2="high:Q")
    return [rules, points]


def _forest_words(rows: Sequence[Interval], y: alt.Y, width: int, *, wide: bool) -> list[alt.Chart]:
    """Return the texts beside the intervals, or above and below where there is no room beside."""
    values = [{"name": row.name, "text": row.text} for row in rows]
    base = alt.Chart(alt.InlineData(values=values)).encode(y=y)
    if wide:
        mark = base.mark_text(align="left", limit=TEXT_LIMIT, aria=False)
        return [mark.encode(text="text:N", x=alt.value(width + 12))]
    above = base.mark_text(align="left", dy=-16, limit=width, aria=False)
    below = base.mark_text(align="right", dy=17, limit=width, color="var(--dim)", aria=False)
    return [
        above.encode(text="name:N", x=alt.value(0)),
        below.encode(text="text:N", x=alt.value(width)),
    ]


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return round ratios between the ends, and at most eight."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
        if last - first < 8:
            return [round(step * n, 2) for n in range(max(first, 1), last + 1)]
    return decade_ticks(low, high)


def decade_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of every decade between the ends; powers of ten alone if they are many."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1, 2, 5) if log10(high / low) < 2.5 else (1,)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [low]


@dataclass(frozen=True, slots=True)
class Point:
    """A value of one arm, where it belongs, and what it says of itself."""

    x: float
    y: float
    said: str
    low: float | None = None
    high: float | None = None


def by_size(arms: Sequence[tuple[Look, Sequence[Point]]], title: str) -> Markup:
    """Return medians against message size, with the range of the slices."""
    sizes = sorted({point.x for _, points in arms for point in points})
    apart = [1 / 1.03, 1.03]  # side by side, or one would hide the other
    ends = (sizes[0] / 1.15, sizes[-1] * 1.15)
    axis = alt.Axis(values=sizes, format="~d", title="message size (bytes)")
    x = alt.X("x:Q", scale=alt.Scale(type="log", domain=ends, nice=False), axis=axis)
    y = alt.Y("y:Q", scale=alt.Scale(zero=True), axis=_y_axis(title, tickCount=5, labelExpr=SHORT))
    layers = []
    for (look, points), shift in zip(arms, apart, strict=True):
        base = _base([{**_values(point), "x": point.x * shift} for point in points])
        ranges = base.mark_rule(color=look.color, aria=False, opacity=0.8)
        layers += [
            ranges.encode(x=x, y=alt.Y("low:Q").title(title), y2="high:Q"),
            *_line(base, look, x, y),
        ]
    return svg(_small(layers))


def latency(arms: Sequence[tuple[Look, Sequence[Point]]]) -> Markup:
    """Return latency in ms against percentile; each decade to the right is ten times rarer."""
    places = [percentile_place(point.x) for _, points in arms for point in points if point.x < 1]
    maximum = max(places, default=1.0) + MAXIMUM_PLACE
    marks = {percentile_place(f): f"p{100 * f:g}" for f in (0.5, 0.9, 0.99, 0.999)}
    shown = {place: text for place, text in marks.items() if place < maximum} | {maximum: "max"}
    names = " : ".join(f"datum.value < {place + 0.01} ? '{text}'" for place, text in shown.items())
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[0, maximum + 0.15], nice=False),
        axis=alt.Axis(
            values=list(shown), labelExpr=f"{names} : ''", title="percentile of messages"
        ),
    )
    heights = [point.y for _, points in arms for point in points if point.y > 0]
    low, high = min(heights, default=0.1) / 1.1, max(heights, default=1.0) * 1.1
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=_y_axis("latency, corrected (ms)", values=decade_ticks(low, high), format="~r"),
    )
    layers = []
    for look, points in arms:
        values = [
            {**_values(point), "x": percentile_place(point.x) if point.x < 1 else maximum}
            for point in points
            if point.y > 0
        ]
        layers += _line(_base(values), look, x, y, size=28)
    return svg(_small(layers))


def percentile_place(fraction: float) -> float:
    """Return how many decades of rarity *fraction* is from 0: 0.9 is 1, 0.99 is 2."""
    return -log10(1 - fraction)


def distribution(arms: Sequence[tuple[Look, Mapping[str, float]]], title: str) -> Markup:
    """Return the shares of wakeups (or batches) by how much each carried."""
    edges = sorted(
        {edge for _, shares in arms for edge, share in shares.items() if share >= LEAST_SHOWN},
        key=float,
    )
    order = [_lowest(edge) for edge in edges]
    axis = alt.Axis(title=f"{title}, from", labelAngle=0, labelPadding=6)
    x = alt.X("x:N", sort=order, axis=axis)
    y = alt.Y("y:Q", axis=_y_axis("share", format="%", tickCount=5))
    layers = []
    for place, (look, shares) in enumerate(arms):
        values = [
            {"x": _lowest(edge), "y": shares.get(edge, 0.0), "arm": str(place),
             "said": f"{bucket(edge)}: {shares.get(edge, 0.0):.4%}"}
            for edge in edges
        ]  # fmt: skip
        offset = alt.XOffset("arm:N", scale=alt.Scale(domain=["0", "1"], paddingOuter=0.5))
        base = _base(values)
        layers += [
            base.mark_bar(color=look.color, size=3, aria=False).encode(x=x, xOffset=offset, y=y),
            _points(base, look).encode(x=x, xOffset=offset, y=y),
        ]
    return svg(_small(layers))


def bucket(edge: str) -> str:
    """Return the counts that a bucket with this upper edge holds: 15 is 8 to 15."""
    high = float(edge)
    if high == float("inf"):
        return "more"
    top = int(high)
    low = (top + 1) // 2
    if top & (top + 1):
        return f"≤ {top}"  # not a power of two less one: where it begins is not known
    return str(top) if low >= top else f"{low}-{top}"


def _lowest(edge: str) -> str:
    return bucket(edge).partition("-")[0]


def stacked(rows: Iterable[Row], width: int = NARROW) -> Markup:
    """Return system calls per message by kind: a bar per arm, grouped by cell.

    Each row has cell, arm, kind, calls and said.
    """
    values = [
        {**row, "color": syscall_color(row["kind"]), "place": place}
        for place, row in enumerate(rows)
    ]
    chart = _base(values).mark_bar(stroke="var(--page)", strokeWidth=1, height=16)
    return svg(
        chart.encode(
            x=alt.X("calls:Q", axis=alt.Axis(title="system calls per message", tickCount=6)),
            y=alt.Y("arm:N", sort=None, axis=_arms_axis()),
            color=alt.Color("color:N", scale=None),
            order=alt.Order("place:Q"),
            description="said:N",
        )
        .properties(width=width, height=alt.Step(20))
        .facet(row=_cell_rows(values, width), spacing=10)
        .resolve_scale(y="independent")
    )


def _arms_axis() -> alt.Axis:
    """Return an axis of the arms' names, each in the color of its mode."""
    colors = [
        {"test": f"indexof('{look.glyph}{twin.glyph}', datum.label[0]) >= 0", "value": look.color}
        for look in MODES.values()
        for twin in [replace(look, filled=False)]
    ]
    return alt.Axis(
        title=None,
        ticks=False,
        labelLimit=110,
        labelColor={"condition": colors, "value": "var(--ink)"},
    )


def _cell_rows(values: Sequence[Row], width: int) -> alt.Row:
    """Return a group for each cell, in the order of the rows, with its name above."""
    header = alt.Header(
        labelOrient="top",
        labelAnchor="start",
        labelAngle=0,
        labelLimit=width + 60,
        labelPadding=HEADER_GAP,
    )
    return alt.Row("cell:N", sort=list(dict.fromkeys(row["cell"] for row in values)), header=header)


def _line(base: alt.Chart, look: Look, x: alt.X, y: alt.Y, size: int = 60) -> list[alt.Chart]:
    line = base.mark_line(color=look.color, strokeDash=look.dash, strokeWidth=1.5, aria=False)
    return [line.encode(x=x, y=y), _points(base, look, size).encode(x=x, y=y)]


def _points(base: alt.Chart, look: Look, size: int = 60) -> alt.Chart:
    points: alt.Chart = base.mark_point(
        shape=look.shape, fill=look.fill, stroke=look.color, size=size, opacity=1
    ).encode(description="said:N")
    return points


def _base(values: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(values)))


def _values(point: Point) -> Row:
    return {"x": point.x, "y": point.y, "said": point.said, "low": point.low, "high": point.high}


def _y_axis(title: str, **more: Any) -> alt.Axis:
    return alt.Axis(title=title, minExtent=Y_AXIS, maxExtent=Y_AXIS, **more)


def _small(layers: Sequence[alt.Chart]) -> alt.LayerChart:
    width, height = PLOT
    chart: alt.LayerChart = reduce(add, layers)  # type: ignore[assignment]  # of two and more
    return chart.properties(width=width, height=height)
