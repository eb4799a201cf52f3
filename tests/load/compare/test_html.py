"""The page says what the study says, asks nobody for anything, and can be read."""

from __future__ import annotations

import csv
import html
import io
import json
import lzma
import re
import shutil
import subprocess
from base64 import b64decode
from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from loadclient.cli import main
from loadclient.compare.design import compared, quick, with_control
from loadclient.compare.html import drawn, findings, page, write_html
from loadclient.compare.html.findings import JUDGED, PRIMARY, reported
from loadclient.compare.html.parts import capital
from loadclient.compare.html.plots import bucket, decade_ticks, ratio_ticks
from loadclient.compare.report import text as told
from loadclient.compare.simulation import World, simulated_study
from loadclient.compare.study import OUTCOMES, Cell, Design, OriginalRow, Study, Woken
from loadclient.compare.verdict import interval
from tests.load.compare.pages import undrawn

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # what the browser itself asks for stays here too
]
DARK = "--blink-settings=preferredColorScheme=0"
LAPTOP, PHONE = 1280, 390  # pixels
NASTY = """<script>alert(1)</script> "x" & <img src=http://a.example/b>"""
DESIGN = with_control(
    replace(quick(), pairs=8, cells=(compared(64), compared(512), compared(64, "eagain")))
)
SMALL = with_control(replace(DESIGN, cells=DESIGN.cells[:1]))  # where only words are looked at
NAMES = [cell.name for cell in DESIGN.cells]
TRUTH = World(a_over_b={NAMES[0]: 0.7, NAMES[1]: 1.3}, noise=0.02, drift=0.1, invalid=0.04)


class Page(HTMLParser):
    """A page's elements, the rows of its tables by id, and the words of its marks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.marks: list[str] = []
        self.words: list[str] = []
        self._rows: list[list[str]] | None = None
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            name = attributes.get("id") or f"raw-{len(self.tables)}"
            self._rows = self.tables.setdefault(name, [])
        elif self._rows is not None:
            if tag == "tr":
                self._rows.append([])
            elif tag in {"td", "th"}:
                self._rows[-1].append("")
            elif tag == "data":
                self._rows[-1][-1] = attributes["value"] or ""
        self._in_title = tag == "title"
        if self._in_title:
            self.marks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._rows = None
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.marks[-1] += data
        elif self._rows and self._rows[-1] and self.elements[-1][0] in {"td", "th"}:
            self._rows[-1][-1] += data.rstrip("\n")
        else:
            self.words.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, name: str) -> list[dict[str, str]]:
        head, *rows = self.tables[f"table-{name}"]
        return [dict(zip(head, row, strict=True)) for row in rows]


@cache
def study() -> Study:
    return simulated_study(DESIGN, TRUTH, seed=3)


@cache
def small() -> Study:
    return simulated_study(SMALL, TRUTH, seed=3)


@cache
def text() -> str:
    return page(study())


@cache
def parsed() -> Page:
    return Page(text())


def number(value: Any) -> str:
    return "-" if value is None else json.dumps(value)


# The figures.


def test_every_ratio_in_the_table_is_the_one_in_the_study() -> None:
    rows = parsed().rows("effects")
    said = [(cell.name, effect) for cell, report in reported(study()) for effect in report.effects]
    assert len(rows) == len(said) == len(DESIGN.cells) * len(OUTCOMES)
    for row, (cell, effect) in zip(rows, said, strict=True):
        assert row["cell"] == cell
        assert row["outcome"] == effect.outcome
        assert row["sentence"] == effect.sentence
        for key in ("pairs", "ratio", "low", "high", "p", "p_holm", "detectable", "pairs_needed"):
            assert row[key] == number(getattr(effect, key)), key


def test_every_ratio_that_is_drawn_says_the_interval_of_the_study() -> None:
    marks = parsed().marks
    for cell, report in reported(study()):
        for effect in report.effects[: len(JUDGED)]:
            assert marks.count(f"{cell.name}: {interval(effect)}") >= 2, "wide and narrow"


def test_medians_latencies_and_counts_are_those_of_the_study() -> None:
    sides = [(cell, side) for cell, report in reported(study()) for side in (report.a, report.b)]
    outcomes = iter(parsed().rows("outcomes"))
    latencies = iter(parsed().tables["table-latency"][1:])
    wakeups = iter(parsed().tables["table-wakeup_events"][1:])
    ledger = iter(parsed().rows("ledger"))
    syscalls = parsed().rows("syscalls")
    for cell, side in sides:
        for spread in side.outcomes.values():
            row = next(outcomes)
            assert (row["cell"], row["arm"]) == (cell.name, side.name)
            assert row["median"] == number(spread.median)
            assert row["lowest slice"] == number(spread.low)
            assert row["highest slice"] == number(spread.high)
        assert next(latencies)[3:] == [number(seconds) for _, seconds in side.latency_curve]
        shares = next(wakeups)[3:]
        assert sorted(shares) == sorted(map(number, side.wakeup_events.values()))
        row = next(ledger)
        assert {key: row[key] for key in side.ledger} == {
            key: number(value) for key, value in side.ledger.items()
        }
        assert row["unaccounted"] == "0"
        mine = [r for r in syscalls if (r["cell"], r["arm"]) == (cell.name, side.name)]
        assert {r["kind"]: r["per message"] for r in mine if r["what"] == "system calls"} == {
            kind: number(calls) for kind, calls in side.syscalls_per_message.items()
        }


def test_the_bars_of_an_arm_add_up_to_its_system_calls() -> None:
    """Reads that found nothing are drawn apart: they must not be drawn twice."""
    cell, report = reported(study())[1]
    start = f"{cell.name}, {report.a.name}, "
    bars = [mark for mark in parsed().marks if mark.startswith(start) and "per message" in mark]
    drawn = {bar.rpartition(":")[0]: float(bar.rpartition(": ")[2].split()[0]) for bar in bars}
    assert len(drawn) == 4  # epoll_wait, recvfrom, recvfrom that found nothing, sendmsg
    assert sum(drawn.values()) == pytest.approx(
        sum(report.a.syscalls_per_message.values()), rel=1e-4
    )


def test_every_point_of_a_latency_curve_is_drawn() -> None:
    curves = [
        point
        for _, report in reported(study())
        for side in (report.a, report.b)
        for point in side.latency_curve
    ]
    assert sum(bool(re.search(r", p[\d.]+: [\d.]+ ms$", mark)) for mark in parsed().marks) == len(
        curves
    )


def test_the_whole_study_can_be_taken_away() -> None:
    links = {
        link["download"]: link["href"] for link in parsed().attributes("a") if "download" in link
    }
    packed = (links["simulated-3.json.xz"] or "").partition("base64,")[2]
    assert Study.from_json(lzma.decompress(b64decode(packed)).decode()) == study()
    rows = list(csv.DictReader(io.StringIO(
        b64decode((links["simulated-3-slices.csv"] or "").partition("base64,")[2]).decode()
    )))  # fmt: skip
    assert len(rows) == len(study().slices)
    for row, one in zip(rows, study().slices, strict=True):
        assert row["outcomes.cpu_ns_per_delivery"] == str(one.outcomes["cpu_ns_per_delivery"])
        assert row["syscalls.recvfrom"] == str(one.syscalls["recvfrom"])


def test_every_number_of_every_slice_is_in_a_table() -> None:
    raw = [table for name, table in parsed().tables.items() if name.startswith("raw-")]
    assert sum(len(table) - 1 for table in raw) == len(study().slices)
    shown = {
        (row["cell"], row["index"]): row
        for head, *rows in raw
        for row in [dict(zip(head, cells, strict=True)) for cells in rows]
    }
    for one in study().slices:
        row = shown[one.cell, str(one.index)]
        for field in ("outcomes", "syscalls", "eagain", "epoll_ctl", "wakeup_events"):
            for key, value in getattr(one, field).items():
                assert row[f"{field}.{key}"] == json.dumps(value)


def test_the_kernels_counts_stand_beside_the_daemons() -> None:
    rows = iter(parsed().rows("kernel"))
    for one in study().kernel:
        for what, count in one.kernel.items():
            row = next(rows)
            assert (row["cell"], row["what"]) == (one.cell, what)
            assert (row["kernel"], row["daemon"]) == (number(count), number(one.daemon[what]))
    assert "The kernel counts what the daemons count" in text()


def test_who_wakes_for_a_connection_is_a_table_of_its_own() -> None:
    woken = Woken(cell=NAMES[0], arm="a", connections=50, loops=200, returns=60, in_vain=10)
    silent = Woken(cell=NAMES[0], arm="b", unavailable="no bpf(2)")
    (row,) = Page(undrawn(replace(small(), woken=(woken, silent)))).rows("woken")
    assert (row["connections"], row["loops woken"], row["accept4 in vain"]) == ("50", "200", "10")


def test_a_kernel_that_contradicts_the_daemon_or_is_silent_is_said() -> None:
    heard, *_, last = small().kernel
    odd = replace(heard, daemon={**heard.daemon, "recvfrom": 23})
    told = undrawn(
        replace(small(), kernel=(odd, replace(last, kernel={}, unavailable="no bpf(2)")))
    )
    assert f"The kernel and the daemons disagree in 1 of {len(heard.kernel)} counts" in told
    assert "recvfrom, the daemon 23" in told
    assert "The kernel says nothing of some arms: no bpf(2)" in told


def test_discarded_slices_are_counted_with_their_reasons() -> None:
    rows = {row["cell"]: row for row in parsed().rows("gates")}
    for cell, report in reported(study()):
        row = rows[cell.name]
        assert int(row["pairs valid"]) == report.pairs
        assert int(row["pairs discarded"]) == report.discarded
        for reason, times in report.discarded_because.items():
            assert f"{reason} ({times})" in row["because (slices)"]
    invalid = sum(not one.valid for one in study().slices)
    assert invalid, "the simulation was to discard some"
    assert f"because {invalid} of {len(study().slices)} slices were not valid" in text()


# What is said.


def test_titles_say_what_was_found() -> None:
    title = "server CPU per delivered message"
    said = "et better in 1 of 3 cells, lt better in 1, "
    assert f"<h1>{title[0].upper()}{title[1:]}: {said}" in text()


def test_the_control_comes_before_everything_else() -> None:
    sections = [attributes["id"] for attributes in parsed().attributes("section")]
    assert sections[0] == "control"
    assert 'id="fit"' in text()


def test_an_unfit_machine_is_said_at_the_top() -> None:
    unfit = undrawn(simulated_study(SMALL, World(a_over_b={NAMES[-1]: 1.5}, noise=0.02)))
    before_main = unfit.partition("<main>")[0]
    assert "This machine is unfit." in before_main
    assert "delivered message: not comparable" in before_main


def test_a_study_that_was_stopped_after_its_planned_slices_is_not_finished() -> None:
    """Discarded pairs were still to be measured again; the text said so, the page did not."""
    stopped = replace(simulated_study(SMALL), complete=False)

    assert "It was stopped before discarded pairs were measured again" in undrawn(stopped)


def test_a_cell_whose_mode_was_not_in_force_is_named() -> None:
    told = undrawn(simulated_study(SMALL, World(wrong_mode=NAMES[0])))
    assert f"<dt>{NAMES[0]}</dt><dd>not comparable: et was to show" in told


def test_a_study_without_data_says_so_and_draws_nothing() -> None:
    empty = page(Study(study_id="empty", started=0.0, design=Design(cells=(compared(64),))))
    assert "<svg" not in empty
    for sentence in (
        "There was no A/A arm",
        "This study is not finished",
        "0 of 20 slices are measured",
        "There are no valid pairs yet",
        "The study has no latencies",
        "The study has no counts of system calls",
        "The study has no fingerprints",
        "The kernel was not asked",
        "This study did not ask for it",
    ):
        assert sentence in empty, sentence


def test_the_original_table_stands_beside_what_it_hides() -> None:
    row = OriginalRow(
        msg_bytes=64, server="never reads", sent_per_second=25100.0, kilobytes_per_second=1606.4
    )
    told = undrawn(replace(small(), original=(row,)))
    assert "By the original&#39;s score a server that never reads makes 25,100 msg/s" in told
    assert Page(told).rows("original")[0]["kilobytes_per_second"] == "1606.4"
    alone = Study(study_id="o", started=0.0, complete=True, design=Design(), original=(row,))
    assert "<h1>By the original&#39;s score a server that never reads" in undrawn(alone)


def test_names_and_notes_cannot_become_part_of_the_page() -> None:
    """A study may come from somebody else: nothing in it may run, or call home."""
    stored = json.loads(small().to_json().replace(NAMES[0], "CELL"))
    stored = json.loads(json.dumps(stored).replace("CELL", json.dumps(NASTY)[1:-1]))
    stored |= {"study_id": NASTY, "notes": [NASTY], "environment": {NASTY: NASTY}}
    for one in stored["slices"]:
        one["reasons"], one["config"] = [NASTY], {NASTY: NASTY}
    found = Page(page(Study.from_json(json.dumps(stored))))
    assert not found.attributes("script")
    assert not found.attributes("img")
    assert NASTY in " ".join(found.words)


def test_the_page_refers_to_nothing_outside_itself() -> None:
    policy = next(m for m in parsed().attributes("meta") if m.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in parsed().elements}
    for tag, attributes in parsed().elements:
        for name in ("src", "href", "srcset", "xlink:href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"url\(|@import", text())


def test_the_page_says_which_measures_are_exploratory() -> None:
    assert "The other measures are exploratory" in text()
    for outcome in OUTCOMES:
        if outcome.lower_is_better is not None:
            title = re.search(rf"{re.escape(capital(outcome.title))}: [^<]*", text())
            assert title is not None, outcome.name
            assert title[0].strip().endswith("(exploratory)") == outcome.exploratory


def test_the_command_draws_a_stored_study_again(tmp_path: Path) -> None:
    stored, drawn = tmp_path / "study.json", tmp_path / "page.html"
    stored.write_text(small().to_json())
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(stored), "--html", str(drawn)])
    assert "simulated-3" in drawn.read_text()


def test_a_cell_without_its_measure_says_so() -> None:
    """An empty place on the page looks like no difference."""
    cell, whole = next(iter(reported(small())))
    bare = replace(whole, effects=(), sentence="too few pairs")

    assert findings.sentence(cell, bare) == "too few pairs"
    assert findings._direction(None) is None
    assert drawn._interval((cell, bare), PRIMARY).text == "not measured"


def test_the_command_tells_a_stored_study_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text was printed once, at the end of half an hour, and could not be had again."""
    stored = tmp_path / "study.json"
    stored.write_text(small().to_json())
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(stored)])
    assert capsys.readouterr().out == told(small())


@pytest.mark.parametrize("text", ["{}", "[", json.dumps({"schema": "etlt.comparison/1"})])
def test_a_file_that_is_no_study_is_refused_in_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, drawn = tmp_path / "study.json", tmp_path / "page.html"
    stored.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(stored), "--html", str(drawn)])
    assert "is not a stored comparison" in capsys.readouterr().err
    assert not drawn.exists()


def test_the_same_study_gives_the_same_page(tmp_path: Path) -> None:
    first = tmp_path / "first.html"
    write_html(study(), first)
    assert html.unescape(first.read_text(encoding="ascii")) == html.unescape(text())
    assert first.stat().st_size < 500_000, "three cells; the full design must stay under 2 MB or so"


@pytest.mark.parametrize(
    ("edge", "words"),
    [("0", "0"), ("1", "1"), ("3.0", "2-3"), ("15", "8-15"), ("20", "≤ 20"), ("+Inf", "more")],
)
def test_a_bucket_is_named_by_what_it_holds(edge: str, words: str) -> None:
    assert bucket(edge) == words


@pytest.mark.parametrize(("low", "high"), [(0.99, 1.01), (0.9, 1.3), (0.2, 3.0), (1e-3, 1e3)])
def test_ticks_are_between_the_ends_and_few(low: float, high: float) -> None:
    for ticks in (ratio_ticks(low, high), decade_ticks(low, high)):
        assert 1 <= len(ticks) <= 9
        assert all(low <= tick <= high for tick in ticks)


def test_arms_in_one_mode_are_told_apart_by_shape() -> None:
    """Two daemons of one mode share its colour, so the second one is hollow."""
    cell = replace(DESIGN.cells[-1], control=False, name="both lt")
    told = page(simulated_study(replace(DESIGN, cells=(cell, DESIGN.cells[-1]))))
    assert "stroke-dasharray" in told
    assert 'fill="var(--page)"' in told


def test_every_setting_of_a_cell_is_shown_once() -> None:
    design = {row[""]: row["value"] for row in parsed().rows("design")}
    cells = parsed().rows("cells")
    assert [row["name"] for row in cells] == NAMES
    assert [row["msg_bytes"] for row in cells] == ["64", "512", "64", "64"]
    assert design["every cell: shape.conns"] == "100"
    assert "shape.conns" not in cells[0]
    kept = {key.removeprefix("every cell: ") for key in design} | set(cells[0])
    assert {field.name for field in fields(Cell)} - {"shape", "a", "b"} <= kept


# In a browser.

LOOK = """
addEventListener("load", () => {
  const found = {errors: window.problems, frames: []};
  for (const frame of document.querySelectorAll("iframe")) {
    const inside = frame.contentDocument, view = frame.contentWindow;
    const seen = {plots: 0, hidden: 0, marks: 0, clipped: [], overlapping: [], colors: {}};
    for (const svg of inside.querySelectorAll("svg")) {
      const box = svg.getBoundingClientRect();
      if (!box.width) { seen.hidden++; continue; }
      seen.plots++;
      const marks = [...svg.querySelectorAll("[role=graphics-symbol]:has(> title)")];
      seen.marks += marks.filter(mark => mark.getBoundingClientRect().width > 0).length;
      const texts = [...svg.querySelectorAll("text")]
        .filter(text => text.textContent.trim() && text.getAttribute("opacity") !== "0")
        .map(text => [text.textContent, text.getBoundingClientRect()]);
      for (const [words, r] of texts)
        if (r.left < box.left - 1 || r.right > box.right + 1 ||
            r.top < box.top - 1 || r.bottom > box.bottom + 1) seen.clipped.push(words);
      texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
        if (a.left < b.right - 1 && b.left < a.right - 1 &&
            a.top < b.bottom - 2 && b.top < a.bottom - 2) seen.overlapping.push([one, other]);
      }));
    }
    seen.overflow = inside.documentElement.scrollWidth - view.innerWidth;
    for (const theme of ["auto", "light", "dark"]) {
      inside.getElementById("theme-" + theme).click();
      const legend = inside.querySelector("#latency .legend span");
      seen.colors[theme] = [inside.documentElement, legend]
        .map((e, i) => view.getComputedStyle(e)[i ? "color" : "backgroundColor"]);
    }
    found.frames.push(seen);
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [CHROMIUM, *FLAGS, profile, "--enable-logging=stderr", "--v=0", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.mark.system
def test_a_browser_draws_everything_in_both_themes_and_widths(tmp_path: Path) -> None:
    """The page itself is untouched, in frames of a laptop's and a phone's width."""
    frame = f'srcdoc="{html.escape(text())}"'
    frames = "".join(
        f'<iframe {frame} style="width:{width}px;height:900px"></iframe>'
        for width in (LAPTOP, PHONE)
    )
    catch = "window.problems = []; onerror = (...what) => window.problems.push(String(what));"
    outside = tmp_path / "outside.html"
    outside.write_text(
        f'<!doctype html><meta charset="utf-8"><script>{catch}{LOOK}</script>'
        f'<pre id="found"></pre>{frames}',
        encoding="utf-8",
    )
    run = chromium(tmp_path, DARK, "--virtual-time-budget=5000", "--dump-dom", outside.as_uri())
    assert "CONSOLE" not in run.stderr, run.stderr
    dumped = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)
    assert dumped, run.stdout[:500]
    found = json.loads(html.unescape(dumped[1]))
    assert found["errors"] == []
    laptop, phone = found["frames"]
    marks = len(parsed().marks) - 1  # the page has a title too
    for seen in (laptop, phone):
        assert seen["plots"] + seen["hidden"] == text().count("<svg")
        assert seen["hidden"] == 7, "six forests and the bars, in their other width"
        assert seen["marks"] > marks * 0.75, "all but those of the other width"
        assert seen["clipped"] == []
        assert seen["overlapping"] == []
        assert seen["overflow"] <= 0
        colors = seen["colors"]
        assert colors["auto"] == colors["dark"] != colors["light"], "this browser prefers dark"
        assert colors["light"][0] == "rgb(255, 255, 255)"


def requests_of(page_path: Path, folder: Path) -> list[str]:
    """Return what a page asked for, by the browser's own log; not what the browser asks itself."""
    folder.mkdir()
    log = folder / "net.json"
    run = chromium(folder, f"--log-net-log={log}", "--dump-dom", page_path.as_uri())
    assert "CONSOLE" not in run.stderr, run.stderr
    events = json.loads(log.read_text(errors="replace"))["events"]
    asked = [event["params"] for event in events if "url" in event.get("params", {})]
    return [p["url"] for p in asked if p.get("initiator", "not an origin") != "not an origin"]


@pytest.mark.system
def test_opening_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    path, control = tmp_path / "page.html", tmp_path / "control.html"
    write_html(study(), path)
    control.write_text("<!doctype html><img src=http://127.0.0.1:1/asked>")
    assert "http://127.0.0.1:1/asked" in requests_of(control, tmp_path / "a"), "it would be seen"
    assert requests_of(path, tmp_path / "b") == []
