"""The highest rate that holds: found, confirmed, and never a lucky one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadclient.cli import main
from loadclient.compare.bisection import Bracket, Question, bisection
from loadclient.compare.search import SearchResult, Trial, judge, line, summary
from loadclient.result import RunResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadclient.daemon import Daemon

PRECISION = 0.05


def answered(
    holds: Callable[[Question], bool], lowest: float = 1, highest: float = 1000
) -> tuple[Bracket, list[Question]]:
    asked = []
    questions = bisection(lowest, highest, PRECISION, 3)
    try:
        question = next(questions)
        while True:
            asked.append(question)
            question = questions.send(holds(question))
    except StopIteration as end:
        return end.value, asked


@given(st.floats(1, 1000))
def test_a_limit_is_found_to_the_precision(limit: float) -> None:
    bracket, asked = answered(lambda question: question.rate <= limit)

    assert bracket.held <= limit
    assert (
        bracket.failed is None or limit < bracket.failed <= bracket.held * (1 + PRECISION) * 1.001
    )
    assert asked[-3:] == [Question(bracket.held, confirming=True)] * 3
    assert len(asked) < 25


def test_where_nothing_fails_the_highest_is_the_answer() -> None:
    bracket, asked = answered(lambda _: True, highest=100)

    assert bracket == Bracket(100, None)
    assert [question.rate for question in asked[:8]] == [1, 2, 4, 8, 16, 32, 64, 100]


def test_where_nothing_holds_there_is_no_answer() -> None:
    assert answered(lambda _: False) == (Bracket(None, 1), [Question(1, confirming=False)])


def test_a_lucky_rate_is_not_confirmed() -> None:
    """It held on the way up, and never again: the answer is below it."""
    bracket, _ = answered(lambda question: question.rate <= (100 if question.confirming else 110))

    assert 100 / 1.06 <= bracket.held <= 100
    assert bracket.failed <= 110


@given(st.floats(1, 1.2), st.floats(1, 1.2))
@example(1, 1.045)  # the last that is lucky is 2 ** (1 / 16), less than the precision above 1
def test_the_lowest_rate_is_asked_before_there_is_no_answer(limit: float, luck: float) -> None:
    """The last lucky rate was so near to it that the step below went past it: "no rate holds"."""
    bracket, asked = answered(
        lambda question: question.rate <= limit * (1 if question.confirming else luck)
    )

    assert 1 <= bracket.held <= limit < bracket.failed <= bracket.held * (1 + PRECISION) * 1.001
    assert asked[-3:] == [Question(bracket.held, confirming=True)] * 3


def test_if_even_the_lowest_cannot_be_confirmed_there_is_no_answer() -> None:
    bracket, _ = answered(lambda question: not question.confirming, highest=1)

    assert bracket == Bracket(None, 1)


def run(**changes: object) -> RunResult:
    fields = {"run_id": "r", "delivery_ratio": 1.0, "latency_seconds": {"p99": 0.02}}
    return RunResult(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({}, ""),
        ({"invalid_reasons": ["it was late", "and more"]}, "it was late"),
        ({"delivery_ratio": 0.9}, "delivery ratio 0.900000"),
        ({"delivery_ratio": None}, "delivery ratio 0.000000"),
        ({"latency_seconds": {"p99": 0.2}}, "p99 200 ms, the limit is 100 ms"),
        ({"latency_seconds": None}, "p99 -, the limit is 100 ms"),
    ],
)
def test_a_rate_holds_if_everything_came_and_in_time(
    changes: dict[str, object], because: str
) -> None:
    assert judge(run(**changes), 100) == because


def result(**changes: object) -> SearchResult:
    fields = {
        "mode": "et", "held_rate": 40.0, "failed_rate": 42.0, "offered_per_second": 400.0,
        "deliveries_per_second": 3600.0, "limited_by": "delivery ratio 0.9", "complete": True,
    }  # fmt: skip
    return SearchResult(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "mode et: 40.00 messages/s of each sender hold, 400/s in all, 3,600 deliveries/s"),
        ({}, "at 42.00/s: delivery ratio 0.9"),
        ({"failed_rate": None, "limited_by": ""}, "the server may do more (--highest)"),
        ({"limited_by": "the client itself was the bottleneck: x"}, "client gave out before"),
        ({"held_rate": None}, "no rate holds (0 trials): delivery ratio 0.9"),
        ({"complete": False}, "interrupted after 0 trials: no answer"),
    ],
)
def test_the_answer_says_what_limits_it(changes: dict[str, object], words: str) -> None:
    assert words in summary(result(**changes))


def test_a_trial_is_a_line() -> None:
    fields = {"deliveries_per_second": 1.0, "delivery_ratio": 1.0, "p99_seconds": 0.1}
    held = Trial(rate=5, confirming=True, held=True, because="", **fields)
    failed = Trial(rate=5, confirming=False, held=False, because="late", **fields)

    assert line(held) == "5.00/s of each sender again: holds\n"
    assert line(failed) == "5.00/s of each sender: fails: late\n"


TRIES = 4  # a busy machine is late, and no rate holds for a late client


def search(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["search", "127.0.0.1", *map(str, arguments)])
    return left.value.code


@pytest.mark.system
def test_a_real_daemon_has_a_rate_that_holds(
    daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "search.json"
    for _ in range(TRIES):
        code = search(
            daemon.address[1], "--server-metrics", daemon.metrics, "--conns", 5, "--lowest", 10,
            "--highest", 20, "--trial-seconds", 0.5, "--settle-seconds", 0, "--confirmations", 1,
            "--max-p99", 10_000, "--json", path,
        )  # fmt: skip
        stored = json.loads(path.read_text())
        out, err = capfd.readouterr()
        if stored["held_rate"] == 20:
            break

    assert code == 0
    assert stored["schema"] == "etlt.search/1"
    assert stored["held_rate"] == 20
    assert stored["offered_per_second"] == 100
    assert stored["mode"] in {"lt", "et"}
    assert stored["trials"][-1]["confirming"]
    assert err.count("holds") >= 3
    assert "20.00 messages/s of each sender hold" in out


@pytest.mark.system
def test_a_server_that_loses_messages_has_none(
    faulty: Callable[[str], object], capfd: pytest.CaptureFixture[str]
) -> None:
    code = search(
        faulty("drop").port, "--conns", 4, "--trial-seconds", 0.5, "--settle-seconds", 0,
        "--lowest", 50, "--highest", 100, "--quiet",
    )  # fmt: skip

    assert code == 3
    assert "no rate holds" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lowest", "50", "--highest", "40"), "--lowest 50: it is above --highest 40"),
        (("--senders", "200"), "there are only 100 connections"),
        (("--max-p99", "0"), "--max-p99"),
        (("--json", "no/x.json"), 'the folder "no" does not exist'),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert search(9, *arguments) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1
