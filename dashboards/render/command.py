"""What `etlt-dashboards render` does: each board in each theme and width, and a verdict.

Exit status: 0 every panel is drawn; 1 a panel is empty, in error or clipped, or has a label that is
cut off, or nothing could be drawn here; 2 usage.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlencode, urlsplit

from cyclopts import Parameter, validators

from dashboards.render import findings
from dashboards.render.browser import Browser, find
from dashboards.render.bundle import bundle
from dashboards.render.errors import CannotRenderError, UsageError
from dashboards.render.findings import Look, Picture
from dashboards.render.server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cyclopts import Token

GENERATED = Path(__file__).parents[1] / "generated"
Theme = Literal["dark", "light"]
THEMES: tuple[Theme, ...] = ("dark", "light")
WIDTHS = (1440, 2560)  # a laptop's, a wall screen's
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOMENT = re.compile(r"now(?:-(\d{1,6})([smhd]))?|(\d{1,11})")
DONE, FAILED, USAGE = 0, 1, 2


def url(_type: object, tokens: Sequence[Token]) -> str:
    """Convert to the address of a Prometheus. Raises ValueError."""
    text = tokens[0].value
    refusal = ValueError(f'"{text}" is not a URL such as http://127.0.0.1:9090')
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        raise refusal from None
    if not usable or not text.isprintable() or " " in text or parts.query or parts.fragment:
        raise refusal
    return text.rstrip("/")


def moment(_type: object, tokens: Sequence[Token]) -> str:
    """Check a moment: now, now-5m, or seconds since 1970. Raises ValueError."""
    text = tokens[0].value
    if not MOMENT.fullmatch(text):
        raise ValueError(f'"{text}" is not now, now-5m (s, m, h, d) or seconds since 1970')
    return text


def assignment(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Check values of variables. Raises ValueError."""
    for token in tokens:
        if not re.fullmatch(r"\w+=.*", token.value):
            raise ValueError(f'"{token.value}" is not NAME=VALUE')
    return tuple(token.value for token in tokens)


Moment = Annotated[str, Parameter(converter=moment, n_tokens=1)]


@Parameter(name="*", negative_iterable=())
@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """What to draw, from where, and how large."""

    prometheus: Annotated[str, Parameter(converter=url, n_tokens=1)]
    """Address of the Prometheus that answers the boards' queries."""
    out: Path
    """Folder for pictures (.png), pages (.html) and what came of each panel (report.json)."""
    board: tuple[str, ...] = ()
    """Names of boards, or paths of board files; several times. Without: all generated ones."""
    theme: tuple[Theme, ...] = THEMES
    """Grafana's theme; several times. Without: both."""
    width: Annotated[tuple[int, ...], Parameter(validator=validators.Number(gte=600, lte=7680))] = (
        WIDTHS
    )
    """Pixels; several times. Without: a laptop's (1440) and a wall screen's (2560)."""
    from_: Annotated[Moment, Parameter(name="--from")] = "now-5m"
    """Begin of the time shown: now-5m, or seconds since 1970."""
    to: Moment = "now"
    """End of the time shown."""
    scrape_interval: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=3600))] = 15
    """Seconds between scrapes, as Grafana's data source is told them: sets $__rate_interval."""
    var: Annotated[tuple[str, ...], Parameter(converter=assignment)] = ()
    """A variable's value, as NAME=VALUE; several times."""


def render(*, options: RenderOptions) -> int:
    """Draw the boards with Grafana's own components in Chromium, from a real Prometheus.

    Exit codes: 0 every panel is drawn; 1 a panel is empty, in error or clipped, or a label is cut
    off (it says which), or nothing could be drawn here (it says what is missing); 2 usage.
    """
    try:
        return _render(options)
    except UsageError as error:
        print(f"etlt-dashboards: {error}", file=sys.stderr)
        return USAGE
    except CannotRenderError as error:
        print(f"etlt-dashboards: {error}", file=sys.stderr)
        return FAILED


def _render(options: RenderOptions) -> int:
    boards = chosen(options.board)
    start, end = span(options, time.time())
    make_folder(options.out)
    find()  # before minutes are spent on the page
    page = bundle()
    with serving(page, boards, options.prometheus) as address, Browser() as browser:
        pictures = []
        for look in _looks(boards, options):
            query = _query(options, look, start, end)
            pictures.append(_draw(browser, f"{address}/?{query}", look, options.out))
            print(pictures[-1].line(), flush=True)
    return _conclude(pictures, options.out)


def chosen(names: Sequence[str]) -> dict[str, Path]:
    """Return the files of the boards by name. Raises UsageError."""
    generated = {path.stem: path for path in sorted(GENERATED.glob("*.json"))}
    if not names:
        return generated
    boards = {}
    for name in names:
        path = generated.get(name, Path(name))
        if not path.is_file():
            known = ", ".join(generated)
            raise UsageError(f'--board "{name}" is neither one of {known} nor a file.')
        boards[path.stem] = path
    return boards


def span(options: RenderOptions, now: float) -> tuple[int, int]:
    """Return begin and end in whole seconds since 1970. Raises UsageError."""
    start, end = (_seconds(text, int(now)) for text in (options.from_, options.to))
    if start >= end:
        raise UsageError(f"--from {options.from_} is not before --to {options.to}.")
    return start, end


def make_folder(out: Path) -> None:
    """Make the folder for the pictures, if need be. Raises UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f'--out "{out}" is there and is no folder.') from error
    except OSError as error:
        raise UsageError(f'--out "{out}": no such folder can be made: {error.strerror}.') from error


def _seconds(text: str, now: int) -> int:
    match = MOMENT.fullmatch(text)
    assert match  # noqa: S101 - the converter has checked it
    amount, unit, absolute = match.groups()
    if absolute:
        return int(absolute)
    return now - int(amount) * UNITS[unit] if amount else now


def _looks(boards: dict[str, Path], options: RenderOptions) -> Iterator[Look]:
    for board in boards:
        for theme in dict.fromkeys(options.theme):
            for width in dict.fromkeys(options.width):
                yield Look(board, theme, width)


def _query(options: RenderOptions, look: Look, start: int, end: int) -> str:
    """Return what the page is told, in its address."""
    told = [
        *look._asdict().items(),
        *(("from", start * 1000), ("to", end * 1000), ("raw", options.from_)),
        ("scrape", options.scrape_interval),
        *(_variable(text) for text in options.var),
    ]
    return urlencode(told)


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return f"var-{name}", value


def _draw(browser: Browser, address: str, look: Look, out: Path) -> Picture:
    browser.show(address, look.width)
    browser.evaluate(findings.STANDS_STILL)
    browser.photograph(out / f"{look.name}.png", look.width)
    dump = browser.evaluate("document.documentElement.outerHTML")
    (out / f"{look.name}.html").write_text(f"<!doctype html>\n{dump}\n", encoding="utf-8")
    return Picture(look, browser.evaluate(findings.READ), tuple(browser.exceptions))


def _conclude(pictures: list[Picture], out: Path) -> int:
    """Write the report, say what is wrong, and return the exit status."""
    found = [picture.as_json() for picture in pictures]
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for text in findings.queried_only(pictures):
        print(text)
    wrong = findings.problems(pictures)
    for text in wrong:
        print(text, file=sys.stderr)
    return FAILED if wrong else DONE
