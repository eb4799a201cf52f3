"""What the demonstration claims to have shown is what it has shown."""

from __future__ import annotations

import pytest

from loadclient import demo
from loadclient.cli import main
from loadclient.demo import DemoOptions, conclusion, print_table, print_witnesses
from loadclient.kernel import Accounts, Quantity
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


def a_large_run(mode: str) -> RunResult:
    """Return a run with all the figures that the table shows, as long as they get."""
    counters = {
        "cpu_seconds_total": {"user": 500.0, "system": 1200.5},
        "epoll_wakeups_total": 1_234_567,
        "syscalls_total": {"sendmsg": 250_000_000},
    }
    return RunResult(
        run_id=f"demo-{mode}",
        mode=mode,
        valid=True,
        messages_sent=20_000_000,
        messages_expected=1_980_000_000,
        messages_received=1_980_000_000,
        delivery_ratio=1.0,
        latency_seconds={"p50": 0.00123, "p99": 0.123},
        server={"counters": counters},
    )


@pytest.mark.parametrize("columns", [80, 40])
def test_no_figure_of_the_tables_is_cut_in_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said `20,0…` and `deli…` where a terminal has 80 columns, as most have."""
    monkeypatch.setattr(demo, "PLAIN_WIDTH", columns)
    print_table([a_large_run("lt"), a_large_run("et")])
    copies = Quantity("copies delivered", client=1_980_000_000, daemon=1_980_000_000)
    waits = Quantity("wakeups", daemon=1_234_567, kernel=1_234_567)
    assert print_witnesses([Accounts(mode, [copies, waits]) for mode in ("lt", "et")])
    out, _ = capsys.readouterr()

    assert max(map(len, out.splitlines())) <= columns
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    if columns == 80:
        for whole in ("copies delivered", "1,980,000,000", "1.000000", "1.23 ms", "123 ms", "859",
                      "0.0617", "12.5", "system calls per message", "copies delivered",
                      "1,234,567", "server CPU ns per delivery", "agree"):  # fmt: skip
            assert whole in out


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
