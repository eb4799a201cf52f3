"""The command against real daemons, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.compare import store
from loadclient.compare.bench import GivenDaemons, OwnDaemons
from loadclient.compare.choices import CompareOptions, decided, spelt
from loadclient.compare.design import compared, plan
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.simulation import World, simulated_slices, simulated_study
from loadclient.compare.study import Design, Kind, Slice, Study
from loadclient.daemon import running_daemon
from loadclient.network.conditions import parse
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SMALL = ("--pairs", "6", "--conns", "10", "--slice-seconds", "0.5", "--settle-seconds", "0")
STUDY = """
pairs = 6
slice-seconds = 0.5
settle-seconds = 0

[[cell]]
conns = 10
rate = 20
"""


def compare(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, arguments)])
    return left.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mistake(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused before anything is measured; return its sentence."""

    def run(*arguments: object) -> str:
        code = compare(*arguments)
        out, err = capfd.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.count("\n") == 1
        assert not list(folder.glob("**/*.jsonl"))
        return err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--quick", "--preset", "original"), "--quick: it contradicts --preset original"),
        (("--quick", "--pairs", "5"), "--pairs 5: at least 6"),
        (("--quick", "--pairs", "6"), "--pairs 6: with 3 cells at least 7"),
        (("--pairs", "0"), "--pairs"),
        (("--pairs", "six"), '"six" is not a whole number'),
        (("--msg-bytes", "64,8"), '"8" is not a whole number from 32 to 1048576'),
        (("--msg-bytes", "64,"), '"" is not a whole number'),
        (("--drain", "now"), '"now" is not one of usual, eagain, short-read'),
        (("--modes", "et"), '"et" is not two different modes'),
        (("--modes", "et,xt"), '"xt" is not one of et, lt'),
        (("--slice-seconds", "0.1"), "--slice-seconds"),
        (("--slice-seconds", "nan"), '"nan" is not a finite number'),
        (("--instances", "1,0"), '"0" is not a whole number from 1 to 64'),
        (("--instances", "2", "--listener", "own"), '"own" is not one of reuseport, exclusive'),
        (("--listener", "shared"), "--listener: it means nothing without --instances"),
        (("--instances", "1,2", "--pairs", "6"), "--pairs 6: with 2 cells at least 7"),
        (("--study", "none.toml"), 'none.toml": No such file'),
        (("--resume", "none.jsonl"), "No such file"),
        (("--resume", "none.jsonl", "--quick"), "--quick: a resumed study is already decided"),
        (("--html", "no/where.html", "--quick"), 'the folder "no" does not exist'),
        (("--json", "no/where.json", "--quick"), 'the folder "no" does not exist'),
        (("--raw", "no/where.jsonl", "--quick"), 'the folder "no" does not exist'),
        (("--a", "127.0.0.1:9000"), "give all four, or none"),
        (("--preset", "original", "--pairs", "9"), "--pairs: it means nothing with"),
        (("--preset", "original", "--json", "no/x"), 'the folder "no" does not exist'),
        (("--preset", "best"), "--preset"),
        (("--quick", "--raw", "x.json"), '--raw "x.json": --json (the whole study, unless'),
        (("--quick", "--raw", "x", "--json", "./x"), '--raw "x": --json would be the same file'),
        (("--quick", "--json", "x", "--html", "x"), '--json "x": --html would be the same file'),
        (("--quick", "--netem", "20ms"), '--netem: "20ms": "20ms" is not understood; it must be'),
        (("--preset", "original", "--netem", "veth"), "--netem: it means nothing with"),
    ],
)
def test_a_mistake_is_one_sentence(
    mistake: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in mistake(*arguments)


@pytest.mark.parametrize(
    ("value", "words"),
    [("64,512", "with 2 cells at least 7"), ("64 512", '"64 512" is not a whole number')],
)
def test_the_environment_means_what_the_flag_means(
    mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    """A list is one word with commas; with spaces, nothing may be taken and the rest dropped."""
    monkeypatch.setenv("LOADCLIENT_MSG_BYTES", value)

    assert words in mistake("--pairs", 6)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--a": "9000"}, '--a: "9000" is not HOST:PORT'),
        ({"--b": "host:99999"}, '--b: "host:99999" is not HOST:PORT'),
        ({"--instances": "2"}, "daemons of yours are what they are"),
        ({"--b-metrics": "127.0.0.1:9700/metrics"}, "is not a URL such as http://"),
        ({"--drain": "eagain"}, "decides them itself"),
        ({"--study": "s.toml"}, "--a: the cells are in the --study file"),
    ],
)
def test_a_mistake_about_given_daemons_is_one_sentence(
    mistake: Callable[..., str], folder: Path, changed: dict[str, str], words: str
) -> None:
    (folder / "s.toml").write_text("[[cell]]\n")
    given = {
        "--a": "127.0.0.1:9000",
        "--a-metrics": "http://127.0.0.1:1/metrics",
        "--b": "127.0.0.1:9001",
        "--b-metrics": "http://127.0.0.1:1/metrics",
    }

    assert words in mistake(*(word for pair in (given | changed).items() for word in pair))


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ("[[cell]\n", "s.toml"),
        ("[[cell]]\nsenders = 200\n", "there are only 100 connections"),
        ("[[cell]]\nnever-readers = 99\n", "nobody hears itself"),
        ("[[cell]]\n[[cell]]\n", "two cells are named"),
        ("pairs = 3\n[[cell]]\n", "no finite 95% interval"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_at_once(
    mistake: Callable[..., str], folder: Path, study: str, words: str
) -> None:
    (folder / "s.toml").write_text(study)

    assert words in mistake("--study", "s.toml")


def test_a_study_is_not_gone_on_with_by_another_build(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its slices would differ in more than was asked, and half of them in nothing that shows."""
    design = Design(pairs=6, cells=(compared(64),))
    raw = folder / "raw.jsonl"
    store.begin(raw, store.Header(study_id="x", started=0, command="", design=design))
    one = Slice(index=0, cell="64 B", pair=0, arm="a", started=0, client={"commit": "0123abcd"})
    store.append(raw, one)

    assert compare("--resume", raw) == 2
    err = capfd.readouterr().err
    assert "--resume: the slices so far are of commit 0123abcd, and this is " in err


def test_a_study_that_could_show_nothing_is_not_gone_on_with(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Somebody shortened its design in the file."""
    raw = folder / "raw.jsonl"
    design = Design(pairs=3, cells=(compared(64),))
    store.begin(raw, store.Header(study_id="x", started=0, command="", design=design))

    assert compare("--resume", raw) == 2
    assert "--resume: --pairs 3: at least 6" in capfd.readouterr().err


@pytest.mark.parametrize(
    "more", [("--quick",), ("--preset", "quick"), ("--modes", "lt,et"), ("--conns", "5")]
)
def test_what_a_study_decides_is_not_decided_twice(
    mistake: Callable[..., str], folder: Path, more: tuple[str, ...]
) -> None:
    (folder / "s.toml").write_text("[[cell]]\n")

    assert f"{more[0]}: the cells are in the --study file" in mistake("--study", "s.toml", *more)


def test_a_study_without_a_seed_draws_one(folder: Path) -> None:
    (folder / "s.toml").write_text("[[cell]]\n")
    (folder / "seeded.toml").write_text("seed = 5\n[[cell]]\n")

    drawn = {decided(CompareOptions(study=folder / "s.toml"), []).seed for _ in range(5)}
    assert len(drawn) > 1
    assert decided(CompareOptions(study=folder / "seeded.toml"), []).seed == 5
    assert decided(CompareOptions(study=folder / "seeded.toml", seed=6), []).seed == 6


def test_somebody_elses_file_is_not_overwritten(folder: Path, capfd: object) -> None:
    (folder / "mine.jsonl").write_text("precious\n")

    assert compare("--quick", "--raw", "mine.jsonl") == 2
    assert (folder / "mine.jsonl").read_text() == "precious\n"
    assert "the file exists" in capfd.readouterr().err


def test_the_modes_can_be_turned_round() -> None:
    options = CompareOptions(modes=("lt", "et"), msg_bytes=(64, 512), drain=("eagain",), conns=7)
    design = decided(options, [])

    assert [(cell.a.name, cell.b.name) for cell in design.cells] == [
        ("lt", "et"), ("lt", "et"), ("et again", "et"),
    ]  # fmt: skip
    assert {cell.shape.conns for cell in design.cells} == {7}
    assert spelt(options, 4) == (
        "loadclient compare --modes lt,et --msg-bytes 64,512 --drain eagain --conns 7 --seed 4"
    )
    assert spelt(CompareOptions(quick=True, probe=False), None) == (
        "loadclient compare --quick --no-probe"
    )


def test_a_network_is_part_of_the_design_and_of_the_command() -> None:
    options = CompareOptions(netem=parse("loss=1,delay=20"), probe=False)
    design = decided(options, [])

    assert design.netem == "delay=20ms,loss=1%"
    assert not any(cell.shape.churn for cell in design.cells)  # a reset may be lost
    assert any(cell.shape.churn for cell in decided(CompareOptions(), []).cells)
    assert spelt(options, None) == "loadclient compare --netem delay=20ms,loss=1% --no-probe"


def test_a_preset_keeps_its_cells_when_only_numbers_change() -> None:
    design = decided(CompareOptions(quick=True, pairs=12, slice_seconds=3, seed=9), [])

    assert (design.preset, design.pairs, design.slice_seconds, design.seed) == ("quick", 12, 3, 9)
    assert len(design.cells) == 4


def whole_pairs(slices: Iterable[Slice]) -> list[Slice]:
    """Return those whose other slice was measured, too."""
    slices = sorted(slices, key=lambda one: one.index)
    arms = Counter((one.cell, one.pair) for one in slices)
    return [one for one in slices if arms[one.cell, one.pair] == 2]


@pytest.mark.system
def test_an_interrupted_study_is_gone_on_with_and_measures_what_is_missing(
    folder: Path, capfd: object
) -> None:
    """What was measured stays as it was, and the rest of the plan is all that is measured."""
    (folder / "s.toml").write_text(STUDY)
    raw = folder / "raw.jsonl"
    command = ["compare", "--study", "s.toml", "--raw", str(raw), "--no-probe"]
    begun = subprocess.Popen(
        [sys.executable, "-m", "loadclient", *command],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: raw.exists() and raw.read_text().count("\n") > 1, 60)
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=60)
    before = store.read(raw)

    assert begun.returncode == 130
    assert "NOT FINISHED" in out
    assert f"go on with: loadclient compare --resume {raw}" in err
    assert Study.from_json((folder / "raw.json").read_text()).complete is False

    design = before.header.design
    steps = [step for block in plan(design) for step in block.steps]
    drawn = simulated_slices(design, World())  # they stand for a long evening
    for step in steps:
        if step.pair != steps[-1].pair and step.index not in before.slices:
            store.append(raw, drawn[step.index])
    kept = whole_pairs(store.read(raw).slices.values())
    assert compare("--resume", raw) == 4  # drawn and measured ones are of different builds
    study = Study.from_json((folder / "raw.json").read_text())

    assert study.complete
    assert len(kept) >= 2 * len(design.cells) * (design.pairs - 2)
    assert kept == [one for one in study.slices if one in kept]
    assert {step.index for step in steps} <= {one.index for one in study.slices}
    assert "slices come from different builds" in study.cells[0].sentence
    assert "verdicts" in capfd.readouterr().out


def test_a_daemon_that_does_not_take_its_options_is_found_before_the_first_slice(
    mistake: Callable[..., str], folder: Path
) -> None:
    """It left a file of slices, and the advice to go on with what cannot go on."""
    (folder / "s.toml").write_text(STUDY + 'server = { sndbuf = "lots" }\n')
    said = mistake("--study", "s.toml")

    assert "the daemon does not take its options; it says: etltd: Invalid value" in said


def test_a_daemon_that_never_looks_at_its_options_is_a_sentence(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine so busy that Python does not start: it was a traceback."""
    monkeypatch.setattr("loadclient.daemon.START_SECONDS", 0.001)

    assert compare("--quick", "--raw", "x.jsonl") == 1
    said = capfd.readouterr().err
    assert said == "loadclient: the daemon did not look at its options within 0.001 s\n"
    assert not list(folder.iterdir())


def test_a_stored_study_is_no_file_of_slices_and_the_sentence_says_where_they_are(
    mistake: Callable[..., str], folder: Path
) -> None:
    (folder / "x.json").write_text(simulated_study().to_json())

    assert "slices are in the .jsonl that --raw named" in mistake("--resume", "x.json")


def test_an_option_that_the_environment_sets_is_refused_with_its_name(
    mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had typed it, and was told to leave it out."""
    monkeypatch.setenv("LOADCLIENT_CONNS", "50")

    assert "--conns (the environment has LOADCLIENT_CONNS): a" in mistake("--resume", "x.jsonl")


@pytest.mark.system
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_full_disk_takes_a_file_and_not_what_was_told(
    option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """After half an hour of measuring, only the error was said."""
    code = compare(
        "--preset", "original", "--conns", 4, "--rate", 10, "--slice-seconds", 0.5,
        "--msg-bytes", 64, option, "/dev/full",
    )  # fmt: skip
    out, err = capfd.readouterr()

    assert code == 1
    assert "achieved" in out or "original" in out
    assert f'loadclient: {option} "/dev/full": it could not be written: No space left' in err


@pytest.mark.system
def test_two_given_daemons_are_compared_by_what_they_say_they_are(folder: Path) -> None:
    with (
        running_daemon("et", folder / "a.log") as a,
        running_daemon("lt", folder / "b.log") as b,
    ):
        code = compare(
            "--a", f"127.0.0.1:{a.address[1]}", "--a-metrics", a.metrics,
            "--b", f"127.0.0.1:{b.address[1]}", "--b-metrics", b.metrics,
            "--json", "x.json", "--html", "x.html", "--quiet", "--rate", 10, *SMALL,
        )  # fmt: skip
    study = Study.from_json((folder / "x.json").read_text())
    cell = study.cells[0]

    assert code in {0, 4}
    assert (cell.a.name, cell.b.name) == ("et", "lt")
    assert study.design.pairs_per_daemon == study.design.pairs
    assert re.search("pairs share two processes|made the client late", str(cell.not_comparable))
    assert {effect.verdict for effect in cell.effects} == {Kind.NOT_COMPARABLE, None}
    assert "share two processes" in study.fitness.sentence or not study.cells[-1].pairs
    assert [check.claim for check in cell.fingerprint if not check.holds] == [
        f"the kernel has at least 10 connections registered, {kind}-triggered"
        for kind in ("edge", "level")
    ]  # they are not ours to look into
    assert any("not restarted" in note for note in study.notes)
    assert cell.a.eagain_per_message["recvfrom"] == pytest.approx(1, rel=0.1)
    assert cell.b.eagain_per_message["recvfrom"] == 0
    assert sum(cell.a.wakeup_events.values()) == pytest.approx(1)
    assert study.kernel == ()
    assert cell.cell in (folder / "x.html").read_text()


def test_a_process_that_is_gone_cannot_be_asked_about(folder: Path) -> None:
    """The study goes on without the kernel and says so, and does not ask again."""
    with running_daemon("lt", folder / "gone.log") as gone:
        pass
    design = Design(cells=(compared(64), compared(128)))
    heard, complete = ask_the_kernel(design, GivenDaemons(gone, gone), lambda _: None)

    assert complete
    assert [one.cell for one in heard] == [design.cells[0].name]
    assert heard[0].unavailable.startswith("etlt-probe: ")


@pytest.mark.kernel
@pytest.mark.system
def test_the_kernel_counts_what_the_daemon_counts() -> None:
    """The third witness, in slices of its own: every count of both is the same."""
    design = Design(slice_seconds=0.5, settle_seconds=0, cells=(compared(64),))
    heard, complete = ask_the_kernel(design, OwnDaemons(), lambda _: None)
    et, lt = heard

    assert complete
    assert et.unavailable == ""
    assert et.contradictions == lt.contradictions == []
    assert et.messages == lt.messages >= 2500
    assert et.kernel["recvfrom that found nothing"] > 1000  # fewer where messages came together
    assert lt.kernel["recvfrom that found nothing"] == 0


@pytest.mark.system
def test_the_originals_score_is_earned_by_a_server_that_never_reads(
    folder: Path, capfd: object
) -> None:
    code = compare(
        "--preset", "original", "--conns", 20, "--rate", 20, "--slice-seconds", 1,
        "--msg-bytes", 64, "--json", "o.json",
    )  # fmt: skip
    rows = json.loads((folder / "o.json").read_text())["original"]
    et, lt, silent = rows

    assert code == 0
    assert [row["server"] for row in rows] == ["et", "lt", "never reads"]
    assert [row["sent_per_second"] for row in rows] == pytest.approx([400] * 3, rel=0.1)
    assert (et["processed"], lt["processed"], silent["processed"]) == (400, 400, None)
    assert silent["unread_at_server_bytes"] + silent["in_send_buffers_bytes"] == 400 * 64
    assert silent["unread_at_server_bytes"] > 0
    assert silent["delivery_ratio"] is None
    assert et["delivery_ratio"] == lt["delivery_ratio"] == 1.0
    assert et["unread_at_clients_bytes"] > 0
    assert "never reads" in capfd.readouterr().out
