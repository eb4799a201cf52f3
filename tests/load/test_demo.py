"""What the demonstration claims to have shown is what it has shown."""

from __future__ import annotations

import pytest

from loadclient.cli import main
from loadclient.demo import DemoOptions, conclusion
from loadclient.result import RunResult


def a_run(*, received: int = 100, valid: bool = True) -> RunResult:
    return RunResult(run_id="a", valid=valid, messages_expected=100, messages_received=received)


def test_announced_drops_are_not_called_delivery_of_everything() -> None:
    """A run that lost what the daemon said it would withhold is valid, and not complete."""
    said = conclusion([a_run(), a_run(received=99)])

    assert "deliver every message" not in said
    assert "not every copy was delivered" in said
    assert "Not shown: which mode is better" in said


def test_full_delivery_is_claimed_where_it_was_seen() -> None:
    assert "both modes deliver every message" in conclusion([a_run(), a_run()])


def test_an_invalid_run_shows_nothing() -> None:
    assert "Shown:" not in conclusion([a_run(), a_run(valid=False)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--duration 1e300", "<= 2678400"),
        ("--rate 1e300", "<= 100000"),
        ("--conns 10000000", "RLIMIT_NOFILE"),
        ("--duration 0.5 --rate 0.1", "10 s apart"),
        ("--report /dev/null", "no such folder can be made: File exists"),
    ],
)
def test_an_impossible_demonstration_is_refused_before_any_daemon(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["demo", *words.split()])
    out, err = capsys.readouterr()

    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    assert words.split(maxsplit=1)[0] in err
    assert said in err


def test_help_shows_every_option_of_the_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    out, _ = capsys.readouterr()

    for name in DemoOptions.__dataclass_fields__:
        assert f"--{name}" in out
    assert "2 usage" in out
