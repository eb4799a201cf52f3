"""Every reason not to believe a slice is the machine's, the client's, a strain or misbehaviour.

A sentence that nobody thought of is misbehaviour: it ends a cell in a daemon's disfavour.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadclient.compare.study import Slice

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = Path(__file__).parents[3] / "loadclient"
SPEAKERS = {  # which functions give reasons, where
    "runner.py": r"_why_no_rest|_hello|_exchange|_await_accepted|_measure",
    "hello.py": r"why_not",
    "server.py": r"_read",
    "ledger.py": r".*_reasons",
    "verdict.py": r".*_reasons|not_stationary",
    "compare/slices.py": r"\w*_gates|slice_of_the_dead",
}
MACHINE = """
the hypervisor took {} of the processors' time
the network's forwarder used {} of a core
the network's forwarder delivered {} of the frames more than 1 ms late
"""
CLIENT = """
the client itself was the bottleneck: 1 % of its sends were more than
the client itself was the bottleneck: when the schedule ended it had come to
the client itself was the bottleneck: a worker used
a worker of the client used {} of a core
"""
STRAIN = """
saturated: {} of {} messages/s offered were sent in time
not stationary: latency in the second half of the phase was
less than 99 % of the offered messages were sent
the daemon's counters were not joined
cannot read the server's metrics at
the server accepted {} connections but delivered nothing
after {} s only {} of {} senders were heard
{} s after the warm-up the server was still delivering it
{} s after the warm-up {} bytes of it were not sent
part of the warm-up had not come {} s after it
the server's side took no more:
messages were still arriving when the drain time was over
"""
MISBEHAVIOUR = """
part of the warm-up was lost
the server closed {} of {} connections before the load began
{} of {} connections were ended by the server
the server was restarted during the run
the daemon ended by itself
the daemon says that it used {} s of processor time, and by the kernel's clock it was
{} of {} messages could not be sent, because the server had ended their connections
{} of the messages looked at were {}
{} of the messages looked at never came, though the bytes add up
the server refused {} of {} messages: {}
the server refused {} of {} messages (too long, or rate limit)
the clients are owed {} copies and received {}: {} were lost without a notice
the clients received {} bytes more than they were owed
the clients sent {} messages, but the server processed {} and {} wait unread
the server left {} of {} messages unread in its sockets
the server enqueued {} copies, but {} messages to {} connections make
the server enqueued {} copies and dropped {}, but the clients received
the server dropped {} copies of which it tells the clients
{} connections came and went, but the server accepted
connections that came and went received {} copies and were told of
while connections came and went, at most {} copies can have been owed to them
the server ended {} connections that were to come and go by themselves
of {} messages to connections that came and went, {} times one {}
{} exports no {} counters: it is not the daemon's
"""
NEVER = """
interrupted during
receiving was off and the server's counters were not joined
after {} s the server counts fewer than {} connections
{} s before the start only {} of {} senders of all parts had been heard
it was not connected in time for --start-at
it was not ready in time for --start-at
"""  # of options that no slice has
WARM_UP = "part of the warm-up {} ("  # how it goes on is in two of the lists
BEGINNINGS = [*f"{MACHINE}{CLIENT}{STRAIN}{MISBEHAVIOUR}{NEVER}".split("\n"), WARM_UP]


def sentences() -> Iterator[str]:
    """Yield every reason in the code; {} is where something is filled in."""
    for path, functions in SPEAKERS.items():
        for node in ast.walk(ast.parse((CODE / path).read_text())):
            if isinstance(node, ast.FunctionDef) and re.fullmatch(functions, node.name):
                yield from filter(None, map(template, said(node)))


def said(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield what a function yields, returns, lists, appends or raises."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Yield, ast.Return)) and node.value is not None:
            yield node.value
        elif isinstance(node, ast.List):
            yield from node.elts
        elif isinstance(node, ast.Call) and re.search(r"Error$|append$", ast.unparse(node.func)):
            yield from node.args


def template(value: ast.expr) -> str:
    """Return a text as it is written, and nothing for what is no text."""
    if isinstance(value, ast.JoinedStr):
        return "".join(template(part) or "{}" for part in value.values)
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return value.value if is_text else ""


def listed(reasons: str) -> list[str]:
    return [one.replace("{}", "7") for one in reasons.strip().split("\n")]


def kind(reason: str) -> tuple[bool, bool, bool, bool]:
    """Return what a slice is for a reason: misbehaved, strained, spoiled, its client late."""
    one = Slice(index=0, cell="c", pair=0, arm="a", started=0.0, reasons=[reason])
    return bool(one.misbehaviour), one.is_strained, one.is_spoiled, one.client_was_late


def test_there_is_no_reason_that_nobody_classified() -> None:
    """One long stall in the warm-up was a misdeed of the daemon, for want of a word."""
    found = list(sentences())
    known = tuple(filter(None, BEGINNINGS))
    filled = {"part of the warm-up was lost", "part of the warm-up had not come {} s after it"}

    assert [one for one in found if not one.startswith(known)] == []
    assert {one for one in known if not any(s.startswith(one) for s in found)} == filled


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (MACHINE, (False, False, True, False)),
        (CLIENT, (False, False, True, True)),
        (STRAIN, (False, True, False, False)),
        (MISBEHAVIOUR, (True, False, False, False)),
    ],
)
def test_each_reason_is_taken_for_what_it_is(reasons: str, expected: tuple[bool, ...]) -> None:
    for reason in listed(reasons):
        assert (reason, kind(reason)) == (reason, expected)


def test_a_stall_of_the_machine_is_not_blamed_on_the_daemon() -> None:
    """Steal stood beside it, and the cell ended with "et misbehaved"."""
    stalled = Slice(
        index=0, cell="c", pair=0, arm="a", started=0.0,
        reasons=["5 s after the warm-up the server was still delivering it", listed(MACHINE)[0]],
    )  # fmt: skip

    assert stalled.is_spoiled
    assert not stalled.misbehaviour
