"""A study in TOML: what it may say, and one sentence for everything else."""

from __future__ import annotations

import tomllib

import pytest

from loadclient.compare.bench import load
from loadclient.compare.design import Step
from loadclient.compare.study import Link
from loadclient.compare.studyfile import design_of
from loadclient.daemon import Daemon
from loadclient.options import UsageError, check

WHOLE = """
pairs = 12
slice-seconds = 1.5
seed = 3

[[cell]]
msg-bytes = 512
drain = "short-read"
conns = 200
burst = false
server = { sndbuf = 16384 }

[[cell]]
name = "one write per message"
msg-bytes = 64
shape = "usual crowd"
a = { name = "message", mode = "lt", fan-out = "message" }
b = { mode = "lt", fan_out = "batch" }
"""


def test_a_study_says_everything_about_its_cells() -> None:
    design = design_of(tomllib.loads(WHOLE), "mine")
    first, second, control = design.cells

    assert (design.preset, design.pairs, design.slice_seconds, design.seed) == ("mine", 12, 1.5, 3)
    assert first.name == "512 B, conns 200, staggered, short-read"
    assert (first.shape.conns, first.shape.rate, first.shape.burst) == (200, 50, False)
    assert first.a.options == {"sndbuf": "16384", "drain": "short-read", "reads-per-event": "16"}
    assert (second.name, second.drain) == ("one write per message", "own")
    assert second.shape.name == "usual crowd"
    assert (second.a.name, second.a.options) == ("message", {"fan-out": "message"})
    assert (second.b.name, second.b.options) == ("lt batch", {"fan-out": "batch"})
    assert control.control


def test_senders_may_differ_in_a_cell() -> None:
    design = design_of({"cell": [{"conns": 50, "mix": "5x100x32, 9x2x1024"}]}, "mine")
    cell = design.cells[0]
    options = load(design, cell, Step(0, cell.name, 0, "a"), Daemon(0, ("", 0), "http://"))

    assert cell.name == "32/1024 B, conns 50, 5x100x32,9x2x1024, usual"
    assert (options.mix, options.conns, options.senders) == ("5x100x32,9x2x1024", 50, None)
    assert check(options) is None


def test_each_side_of_a_cell_may_be_several_daemons_on_one_port() -> None:
    """Beside a number of loops, what shares the port is part of the question, and of its name."""
    text = """
        [[cell]]
        instances = 4
        listener = "exclusive"
        [[cell]]
        server = { listener = "reuseport" }
        a = { mode = "et", instances = 2 }
        b = { mode = "et", instances = 1 }
    """
    four, two, _ = design_of(tomllib.loads(text), "mine").cells

    assert four.name == "64 B, all talk, usual, 4 loops by exclusive"
    assert [(arm.instances, arm.listener) for arm in (four.a, four.b)] == [(4, "exclusive")] * 2
    assert (two.a.name, two.a.instances, two.a.listener) == ("et x 2", 2, "reuseport")
    assert (two.b.name, two.b.instances) == ("et x 1", 1)


def test_a_cell_may_say_nothing() -> None:
    assert design_of({"cell": [{}]}, "mine").cells[0].name == "64 B, all talk, usual"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pairs = 10", "at least one"),
        ("cell = 3", "at least one"),
        ("cell = [1]", "at least one"),
        ("pears = 10\n[[cell]]", 'no key "pears"'),
        ("[[cell]]\nsize = 3", 'cell 1: there is no key "size"'),
        ("pairs = 2.5\n[[cell]]", "pairs = 2.5; it must be a whole number from 1 to 1000"),
        ("pairs = true\n[[cell]]", "pairs = True"),
        ('slice-seconds = "long"\n[[cell]]', "it must be a number from 0.5"),
        ("margin = nan\n[[cell]]", "margin = nan"),
        ("[[cell]]\nmsg-bytes = 8", "msg-bytes = 8; it must be a whole number from 32"),
        ('[[cell]]\ndrain = "never"', "one of usual, eagain, short-read"),
        ('[[cell]]\nburst = "no"', "true or false"),
        ('[[cell]]\nmix = "5x100"', 'cell 1: mix = "5x100" is not understood'),
        ('[[cell]]\nmix = "5x9x16"', "cell 1: msg-bytes = 16; it must be a whole number from 32"),
        ('[[cell]]\nrate = 3\nmix = "5x9x32"', "cell 1: rate: the mix says it"),
        ("[[cell]]\nname = 3", "in quotes"),
        ('[[cell]]\nshape = ""', "in quotes"),
        ("[[cell]]\ninstances = 2", 'listener = ""; it must be one of reuseport, exclusive'),
        ('[[cell]]\nlistener = "own"', "it must be one of reuseport, exclusive, shared"),
        ("[[cell]]\ninstances = 0", "instances = 0; it must be a whole number from 1 to 64"),
        (
            '[[cell]]\ninstances = 2\na = { mode = "lt" }\nb = { mode = "et" }',
            "with a and b, instances is an option of theirs",
        ),
        ("[[cell]]\nserver = 3", "must be a table"),
        ('[[cell]]\na = { mode = "lt" }', "give both a and b"),
        ('[[cell]]\na = 3\nb = { mode = "lt" }', "must be a table"),
        ('[[cell]]\na = { mode = "x" }\nb = { mode = "lt" }', "mode must be one of et, lt"),
        ('[[cell]]\na = { mode = "lt" }\nb = { mode = "lt" }', 'both named "lt"'),
        (
            '[[cell]]\ndrain = "eagain"\na = { mode = "lt" }\nb = { mode = "et" }',
            "drain is an option of theirs",
        ),
    ],
)
def test_what_it_may_not_say_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        design_of(tomllib.loads(text), "mine")

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_network_that_cannot_be_is_refused_with_what_was_said() -> None:
    with pytest.raises(UsageError, match="the study: netem = "):
        design_of({"netem": "delay=never", "cell": [{}]}, "x")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(netem="veth", emulation="veth"), "nothing added"),
        (Link(netem="delay=20ms", emulation="netem"), "delay=20ms, by the kernel's netem"),
        (Link(netem="loss=1%", emulation="tap", because="no such qdisc"), "(no netem: no such"),
    ],
)
def test_a_study_says_what_was_between_client_and_daemon(link: Link, words: str) -> None:
    assert words in link.sentence
