"""Every way in which a server can cheat or break must be called by its name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.result import RunResult
from tests.busy import besides_busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer, Outcome

pytestmark = pytest.mark.system
FULL = ("--verify", "full")
HOSTILE = set("\x1b\x07\x9b\x7f\r\u202e")
BRIEF = ("--drain-timeout", 2)  # where the last messages never come


@pytest.mark.parametrize("more", [(), FULL, ("--no-burst",), ("--procs", 2)], ids=str)
def test_a_good_server_is_not_accused(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], more: tuple[str, ...]
) -> None:
    """A tool that always finds fault proves nothing by finding one."""
    outcome = load(faulty("none").port, *more)

    assert outcome.reasons == ""
    assert outcome.code == 0
    assert outcome.result.messages_sent == outcome.result.messages_offered == 200
    assert outcome.result.messages_received == outcome.result.messages_expected == 600
    assert outcome.result.delivery_ratio == 1.0
    assert outcome.result.latency_samples == 600
    assert "every message is accounted for" in outcome.out


def test_a_server_that_accepts_and_never_reads_fails_the_run(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """The negative control: a score made of sent messages would be perfect here."""
    outcome = load(faulty("never-reads").port)

    assert outcome.code == 4
    assert "accepted 4 connections but delivered nothing" in outcome.reasons
    assert "bytes lie unread in its sockets" in outcome.reasons
    assert not outcome.result.valid


def test_a_server_that_reads_but_does_not_broadcast_fails_the_run(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("mute").port)

    assert outcome.code == 4
    assert "does not read or does not broadcast" in outcome.reasons


def test_sending_without_reading_proves_nothing_by_itself(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """How such servers are usually measured: receive off, and nobody asks the server."""
    outcome = load(faulty("never-reads").port, "--no-recv")

    assert outcome.code == 4
    assert outcome.result.messages_sent == 200
    assert "nothing shows that the server processed anything" in outcome.reasons


@pytest.mark.parametrize("verify", ["sampled", "full"])
def test_silent_loss_is_counted(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], verify: str
) -> None:
    outcome = load(faulty("drop").port, "--verify", verify, *BRIEF)

    assert outcome.code == 4
    assert outcome.result.lost_by_reason["unexplained"] == outcome.result.lost > 0
    assert outcome.result.messages_received + outcome.result.lost == 600
    assert "lost without a notice" in outcome.reasons


def test_announced_drops_are_losses_but_no_lie(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """A server that says what it dropped is slow, not wrong: thresholds decide."""
    outcome = load(faulty("announce").port, "--min-delivery-ratio", 1)

    assert outcome.reasons == ""
    assert outcome.code == 3
    assert outcome.result.lost_by_reason["announced"] == outcome.result.lost > 0
    assert "FAILED" in outcome.out


def test_duplicates_are_found(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("duplicate").port)

    assert outcome.code == 4
    assert outcome.result.duplicated > 0
    assert "more than they were owed" in outcome.reasons
    assert "were duplicated" in outcome.reasons


def test_reordering_within_a_sender_is_found(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("reorder").port, *BRIEF)

    assert outcome.code == 4
    assert outcome.result.reordered > 0
    assert "were reordered" in outcome.reasons


@pytest.mark.parametrize("fault", ["tear", "flip", "impostor"])
def test_damaged_lines_are_found_though_every_byte_came(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], fault: str
) -> None:
    """Byte counts cannot see these: two lines torn into each other, one changed, a false name."""
    outcome = load(faulty(fault).port, *FULL, *BRIEF)

    assert outcome.code == 4
    assert outcome.result.damaged > 0
    assert "were damaged" in outcome.reasons


def test_swapped_names_are_found(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """From the first message on, so that only the hello tells who is who."""
    outcome = load(faulty("swap").port, *FULL)

    assert outcome.code == 4
    assert outcome.result.damaged == 300
    assert "were damaged" in outcome.reasons


SAMPLING = ("--conns", 20, "--rate", 60, "--duration", 2)  # every third message is marked


@pytest.mark.parametrize(
    ("fault", "reason"), [("blank-unmarked", "were damaged"), ("late-unmarked", "were reordered")]
)
def test_a_server_that_treats_only_samples_well_is_found(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], fault: str, reason: str
) -> None:
    """Marked messages can be told from others, so others are looked into as well, at random."""
    outcome = load(faulty(fault).port, *SAMPLING, "--drain-timeout", 20)

    assert outcome.code == 4
    assert reason in outcome.reasons


def test_looking_into_unmarked_messages_accuses_nobody(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("none").port, *SAMPLING, "--drain-timeout", 20)

    assert outcome.reasons == ""
    assert outcome.result.client["marking_interval"] == 3


def test_foreign_chatter_is_not_taken_for_messages(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("chatter").port)

    assert outcome.code == 4
    assert "more than they were owed" in outcome.reasons


def test_a_reset_connection_is_named_and_nothing_hangs(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("reset").port, "--drain-timeout", 3)

    assert outcome.code == 4
    assert "1 of 4 connections were ended by the server (1 reset, 0 closed)" in outcome.reasons
    assert outcome.result.connections_closed_by_server == {"eof": 0, "reset": 1}


def test_a_server_that_stops_reading_leaves_unsent_messages(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    """What its sockets did not take is counted, never skipped."""
    outcome = load(
        faulty("stop-reading").port,
        *("--msg-bytes", 8000, "--rate", 500, "--sndbuf", 4096, "--drain-timeout", 4),
    )

    assert outcome.code == 4
    assert "could not be sent within the drain time" in outcome.reasons
    assert outcome.result.messages_offered == 2000 > outcome.result.messages_sent


def test_a_server_that_turns_clients_away_is_quoted(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome]
) -> None:
    outcome = load(faulty("full").port)

    assert outcome.code == 4
    assert "[etltd] too many connections" in outcome.reasons


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["told", "quiet"])
def test_what_a_server_says_is_shown_and_not_obeyed(
    faulty: Callable[[str], FaultyServer], load: Callable[..., Outcome], quiet: tuple[str, ...]
) -> None:
    """Its notice and its name of the mode could clear the screen, or pose as a valid run."""
    server = faulty("escapes")
    outcome = load(server.port, "--server-metrics", server.counters, *quiet)

    assert outcome.code == 4
    shown = outcome.out + outcome.err
    assert "\\x1b[2J" in shown
    assert not set(shown) & HOSTILE
    assert "\x1b" in outcome.reasons, "the record has it as it was, escaped by JSON"


def test_stored_words_are_shown_and_not_obeyed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A result may come from anybody: `report` is no way to their reader's terminal."""
    path = tmp_path / "result.json"
    path.write_text(RunResult(run_id="\x1b[2Jmine", invalid_reasons=["\x9b31m"]).to_json())

    with pytest.raises(SystemExit):
        main(["report", str(path)])

    assert "\\x1b[2Jmine" in (shown := capfd.readouterr().out)
    assert not set(shown) & HOSTILE


def test_nobody_at_the_address_is_one_sentence(load: Callable[..., Outcome]) -> None:
    outcome = load(1)

    assert outcome.code == 1
    assert "cannot connect to 127.0.0.1:1: Connection refused" in outcome.err
    assert "Traceback" not in outcome.err


def start_client(port: int, path: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(port)),
        *("--conns", "4", "--rate", "50", "--warmup", "0", "--json", str(path), *more),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def await_measuring(client: subprocess.Popen[str]) -> None:
    """Return when the client has printed its first figures of the measured phase."""
    for line in client.stderr:
        if line.startswith("measure:"):
            return
    pytest.fail("the client never began to measure")


def test_a_stall_shows_in_corrected_latency_and_not_in_the_median(
    faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    """A closed loop would wait with the server and call it fast: coordinated omission."""
    from loadclient.result import RunResult

    server = faulty("none")
    path = tmp_path / "result.json"
    with start_client(server.port, path, "--duration", "5") as client:
        await_measuring(client)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)  # the length of the stall is the test's input, not a wait for something
        server.process.send_signal(signal.SIGCONT)
        client.communicate(timeout=30)
    result = RunResult.from_json(path.read_text())

    assert not [reason for reason in result.invalid_reasons if "bottleneck" not in reason]
    assert result.latency_seconds["p99"] > 0.1
    assert result.latency_uncorrected_seconds["p50"] < 0.1


def test_a_server_that_dies_is_reported_and_not_waited_for(
    faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    from loadclient.result import RunResult

    server = faulty("none")
    path = tmp_path / "result.json"
    with start_client(server.port, path, "--duration", "4") as client:
        await_measuring(client)
        server.process.kill()
        client.communicate(timeout=30)
    result = RunResult.from_json(path.read_text())

    assert client.returncode == 4
    assert "4 of 4 connections were ended by the server" in " ".join(result.invalid_reasons)
    assert "within the drain time" not in " ".join(result.invalid_reasons)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_run_still_tells_the_truth(
    faulty: Callable[[str], FaultyServer], tmp_path: Path, number: signal.Signals
) -> None:
    from loadclient.result import RunResult

    path = tmp_path / "result.json"
    with start_client(faulty("none").port, path, "--duration", "60") as client:
        await_measuring(client)
        client.send_signal(number)
        out, _ = client.communicate(timeout=20)
    result = RunResult.from_json(path.read_text())

    assert client.returncode == 130
    assert result.interrupted
    assert besides_busy(result.invalid_reasons) == ["interrupted during measure"]
    assert 0 < result.messages_sent == result.messages_offered < 12_000
    assert result.messages_received == result.messages_expected
    assert "interrupted during measure" in out


def test_an_endless_run_ends_well_by_ctrl_c(
    faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    from loadclient.result import RunResult

    path = tmp_path / "result.json"
    with start_client(faulty("none").port, path, "--duration", "0") as client:
        await_measuring(client)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=20)

    reasons = RunResult.from_json(path.read_text()).invalid_reasons
    assert besides_busy(reasons) == []
    assert client.returncode == (4 if reasons else 0)


def test_a_second_interrupt_leaves_at_once(
    faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    """The server is frozen, so that the first one's drain cannot end by itself."""
    server = faulty("none")
    with start_client(server.port, tmp_path / "result.json", "--duration", "60") as client:
        await_measuring(client)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # five intervals' messages are on their way to a server that is not there
        client.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals sent together are delivered as one
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=5)

    assert client.returncode == 130
