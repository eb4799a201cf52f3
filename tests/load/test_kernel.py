"""The third witness beside the other two."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import demo_exit_code
from loadclient.demo import DemoOptions, print_witnesses, question
from loadclient.interrupts import InterruptedRunError, Interrupts
from loadclient.kernel import Accounts, KernelWitness, Quantity, of_the_kernel, within

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["lt", "et"])
def test_client_daemon_and_kernel_say_the_same(mode: str, tmp_path: Path) -> None:
    """To the call: closeness would hide a counter that is wrong by a constant."""
    accounts = question(mode, DemoOptions(conns=7, rate=23, report=tmp_path))

    assert accounts.unavailable == ""
    assert accounts.mode == mode
    assert [row.name for row in accounts.quantities if row.agrees is not True] == []
    assert {row.name: row.daemon for row in accounts.quantities}["recvfrom"]


def test_a_probe_that_cannot_watch_says_why_in_one_sentence() -> None:
    with KernelWitness(os.getpid() + 2**21) as witness:
        pass

    assert witness.report is None
    assert witness.unavailable.startswith("etlt-probe: ")
    assert "\n" not in witness.unavailable


@pytest.mark.kernel
def test_a_warning_is_not_the_probes_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Python has to say at its start, the witness is there."""
    (tmp_path / "sitecustomize.py").write_text("import sys; print('a warning', file=sys.stderr)")
    with subprocess.Popen(["sleep", "600"]) as process:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with KernelWitness(process.pid) as witness:
            pass
        process.kill()

    assert witness.unavailable == ""
    assert witness.report is not None


def test_without_a_probe_the_daemon_speaks_alone() -> None:
    rows = of_the_kernel({"epoll_wakeups_total": 3}, None)

    assert {row.name: row.daemon for row in rows}["wakeups"] == 3
    assert {row.kernel for row in rows} == {None}
    assert {row.agrees for row in rows} == {None}, "one witness alone shows nothing"


def test_half_a_count_is_not_asked_for_agreement(tmp_path: Path) -> None:
    """Ctrl-C in the short run that the kernel witnesses was lost: a table, and exit code 0."""
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(InterruptedRunError):
            question("lt", DemoOptions(conns=2, report=tmp_path))


def test_a_disagreement_is_said_in_so_many_words(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of numbers alone would let one pass."""
    agree = print_witnesses([Accounts("lt", [Quantity("wakeups", daemon=3, kernel=4)])])

    said = capsys.readouterr().out
    assert demo_exit_code([], agree=agree) == 4
    assert demo_exit_code([], agree=print_witnesses([])) == 0
    assert "NO" in said
    assert "DISAGREE" in said


@pytest.mark.parametrize(
    ("kernel", "told"), [(203, 203), (204, 204), (206, 206), (202, 203), (207, 206)]
)
def test_a_bus_that_wakes_the_loop_between_two_readings_is_no_false_count(
    kernel: int, told: int
) -> None:
    """An instance that said between two readings that it lives made a mode "miscount" by one."""
    inner, outer = (Quantity("wakeups", daemon=n, kernel=kernel) for n in (203, 206))

    (found,) = within([inner], [outer])

    assert found.daemon == told
    assert found.agrees is (kernel == told)


def test_a_witness_that_does_not_know_is_left_alone() -> None:
    inner = [Quantity("sendto", daemon=5), Quantity("sendto", kernel=5)]

    assert within(inner, inner) == inner
