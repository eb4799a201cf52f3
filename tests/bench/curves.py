"""Where it bends: deliveries, CPU, latency and memory against connections, senders and size.

Usage: python tests/bench/curves.py [--rounds N] [--html FILE] (`make curves`)
Every point is saturated by a bounded window, so nothing may be lost and the server sets the pace.
Servers run in rounds in random order; drawn are medians with the range of the rounds. Latency is
that of a full window: what is outstanding over what is delivered, not what a message takes alone.
"""

from __future__ import annotations

import argparse
import html
import random
import sys
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import altair as alt

sys.path.insert(0, str(Path(__file__).parents[2]))

from loadclient.compare.html.looks import MODES, Look
from loadclient.compare.html.plots import decade_ticks, svg
from tests.bench.rivals import RIVALS
from tests.bench.versus import Run, cost, hurry, measure, speed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

SERVERS = {
    "C et": Look("var(--dim)", "diamond", filled=False),
    "etltd et": MODES["et"],
    "etltd lt": MODES["lt"],
}
PLOT = {"width": 250, "height": 170}


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied, and the load at each of its values."""

    name: str
    load: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is seen of a run."""

    name: str
    of: Callable[[Run], float]


AXES = (
    Axis(
        "connections (10 talk, window 100, 64 B)",
        "-c{} -t10 -w100",
        (11, 100, 1000, 5000, 15000),
    ),
    Axis("senders (500 clients, window 500, 64 B)", "-c500 -t{} -w500", (1, 5, 20, 100, 500)),
    Axis("bytes each (100 clients, window 100)", "-c100 -w100 -b{}", (64, 512, 2048, 8000)),
)
OUTCOMES = (
    Outcome("deliveries per second", speed),
    Outcome("server CPU per delivery, ns", lambda run: cost(run) * 1e9),
    Outcome("p99 at a full window, ms", lambda run: run["latency"]["p99"] * 1e3),
    Outcome("server's peak memory, MiB", lambda run: run["peak_bytes"] / 2**20),
)
Curves = dict[tuple[Axis, int, str], list[Run]]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>etltd: scaling curves</title>
<style>
:root {{ --ink: #1b1b1b; --dim: #5c5c5c; --grid: #e4e4e4; --et: #0068b0; --lt: #c25400;
  --page: #fff; }}
body {{ color: var(--ink); background: var(--page); font: 15px/1.5 sans-serif; margin: 1.5rem; }}
.row {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }}
svg {{ display: block; height: auto; max-width: 340px; width: 100%; }}
svg text {{ font: 12px Arial, Helvetica, "Liberation Sans", sans-serif; }}
svg text:not([fill]) {{ fill: var(--ink); }}
svg line:not([stroke]) {{ stroke: var(--grid); }}
td, th {{ padding: 0 .8em; text-align: right; }}
</style>
<h1>Scaling curves</h1>
<p>{how}</p><p>{key}</p>
{figures}
<table><tr>{head}</tr>{rows}</table></html>
"""


def measured(rounds: int, seconds: float) -> Curves:
    """Run every server at every point."""
    runs: Curves = {}
    for axis in AXES:
        for value in axis.values:
            for _ in range(rounds):
                for name in random.sample([*SERVERS], len(SERVERS)):
                    run = measure(RIVALS[name], axis.load.format(value), seconds)
                    runs.setdefault((axis, value, name), []).append(run)
            print(f"{axis.name}: {value}", file=sys.stderr, flush=True)
    return runs


def drawing(runs: Curves, axis: Axis, outcome: Outcome) -> Markup:
    """Return one outcome against one axis, both logarithmic."""
    seen = {
        name: [[outcome.of(run) for run in runs[axis, value, name]] for value in axis.values]
        for name in SERVERS
    }
    flat = [figure for points in seen.values() for point in points for figure in point]
    low, high = min(flat) / 1.6, max(flat) * 1.6
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=list(axis.values), format="~s", title=axis.name),
    )
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    ticks = alt.Axis(values=decade_ticks(low, high), format="~s", title=outcome.name, minExtent=38)
    y = alt.Y("y:Q", scale=scale, axis=ticks)
    layers = [
        layer
        for name, points in seen.items()
        for layer in _line(name, [*zip(axis.values, points, strict=True)], x, y, outcome.name)
    ]
    return svg(reduce(add, layers).properties(**PLOT))  # type: ignore[arg-type]


def _line(
    name: str, points: Sequence[tuple[int, list[float]]], x: alt.X, y: alt.Y, title: str
) -> list[alt.Chart]:
    look = SERVERS[name]
    values = [
        {"x": at, "y": median(seen), "low": min(seen), "high": max(seen), "said": f"{name}, {at}"}
        for at, seen in points
    ]
    base = alt.Chart(alt.InlineData(values=values))
    ranges = base.mark_rule(color=look.color, aria=False, opacity=0.6)
    line = base.mark_line(color=look.color, strokeDash=look.dash, strokeWidth=1.5, aria=False)
    marks = base.mark_point(shape=look.shape, fill=look.fill, stroke=look.color, size=40, opacity=1)
    return [
        ranges.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q"),
        line.encode(x=x, y=y),
        marks.encode(x=x, y=y, description="said:N"),
    ]


def page(runs: Curves, rounds: int) -> str:
    """Return the curves as one file that asks for nothing else."""
    figures = "".join(
        f'<div class="row">{"".join(drawing(runs, axis, outcome) for outcome in OUTCOMES)}</div>'
        for axis in AXES
    )
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in table(runs))
    key = ", ".join(
        f'<span style="color: {look.color}">{look.glyph}</span> {html.escape(name)}'
        for name, look in SERVERS.items()
    )
    how = f"Medians and ranges of {rounds} rounds. {html.escape((__doc__ or '').split('`)')[1])}"
    head = "".join(f"<th>{name}" for name in ("", "", "server", *(one.name for one in OUTCOMES)))
    return PAGE.format(how=how, key=key, figures=figures, head=head, rows=rows)


def table(runs: Curves) -> list[list[str]]:
    """Return the medians, a row for each point of each curve."""
    return [
        [
            axis.name,
            str(value),
            name,
            *(f"{median(map(outcome.of, found)):.4g}" for outcome in OUTCOMES),
        ]
        for (axis, value, name), found in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--html", type=Path, default=Path("report/curves.html"))
    parser.add_argument("--urgent", action="store_true", help="before other work (root)")
    given = parser.parse_args()
    if given.urgent:
        hurry()
    runs = measured(given.rounds, given.seconds)
    given.html.parent.mkdir(parents=True, exist_ok=True)
    given.html.write_text(page(runs, given.rounds), encoding="utf-8")
    print(f"| axis | value | server | {' | '.join(one.name for one in OUTCOMES)} |")
    print("|" + "---|" * (3 + len(OUTCOMES)))
    for row in table(runs):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
