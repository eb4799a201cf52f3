"""SIGUSR2: the successor goes on with the same clients, and nobody is lost whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from tests.fire import injection
from tests.system.rig import GOODBYE, Client, Crowd, DaemonProcess, assert_ledger, total
from tests.system.test_systemd import Manager
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., DaemonProcess]

LINE = b"x" * 1000 + b"\n"
QUIET_THREADS = 2  # the loop's, and the one that accepts scrapers


def hand_over(running: DaemonProcess) -> None:
    """Have a successor take over."""
    before = len(running.events("took over"))
    running.signal(signal.SIGUSR2)
    until(lambda: len(running.events("took over")) > before or running.process.poll() is not None)
    assert running.process.poll() is None, running.output()


def refusal(running: DaemonProcess) -> str:
    """Ask for a successor; return why there is none."""
    before = len(running.events("hand-over refused"))
    running.signal(signal.SIGUSR2)
    until(lambda: len(running.events("hand-over refused")) > before)
    return str(running.events("hand-over refused")[-1]["reason"])


def assert_talks(crowd: Crowd, words: bytes) -> None:
    """Check that the first client is heard by all others."""
    talker, *others = crowd.clients
    talker.say(words)
    crowd.until(lambda: all(client.inbox.endswith(b"] " + words) for client in others))


def test_clients_stay_who_they_are(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(3)
    assert_talks(crowd, b"before\n")
    crowd.clients[0].say(b"begun before")
    crowd.until(lambda: not crowd.clients[0].outgoing)
    began = running.metrics()["start_time_seconds"]
    hand_over(running)
    crowd.clients[0].say(b", finished after\n")
    crowd.until(lambda: all(len(client.lines()) == 2 for client in crowd.clients[1:]))

    heard = [bytes(client.inbox) for client in crowd.clients[1:]]
    speaker = heard[0].split()[0]
    assert heard == [speaker + b" before\n" + speaker + b" begun before, finished after\n"] * 2
    metrics = running.quiet_metrics()
    assert_ledger(metrics)
    assert metrics["handovers_total"] == 1
    assert metrics["start_time_seconds"] == began, "the same process, so no counter was reset"
    assert metrics["messages_received_total"] == 2
    assert metrics["connections_accepted_total"] == metrics["connections"] == 3
    assert running.events("took over")[0]["peers"] == 3


def test_new_clients_come_in_as_if_nothing_had_been(
    daemon: Start, mode: str, tmp_path: Path
) -> None:
    """All ports go along: chat, Unix socket, metrics; and ids go on."""
    path = tmp_path / "chat"
    running = daemon(mode, "--unix", str(path))
    first = running.crowd(1)
    hand_over(running)
    local = Client(str(path))
    crowd = Crowd([running.dial(), *first.clients, local])
    until(lambda: running.metrics()["connections"] == 3)
    assert_talks(crowd, b"hello\n")
    assert first.clients[0].inbox in (b"[USER2] hello\n", b"[USER3] hello\n")
    assert running.get("/readyz") == (200, "ready\n")

    running.signal()
    crowd.until_end()
    running.stopped()
    assert not path.exists(), "it was ours, and still is the successor's"
    local.sock.close()


def test_who_connects_and_speaks_meanwhile_is_served(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(1)
    running.signal(signal.SIGUSR2)
    meanwhile: list[Client] = []

    def it_took_over() -> object:
        if len(meanwhile) < 500:
            meanwhile.append(running.dial())
            meanwhile[-1].say(b"%d\n" % len(meanwhile))
        Crowd(meanwhile).step()
        return running.events("took over")

    crowd.until(it_took_over)
    everybody = Crowd([*crowd.clients, *meanwhile])
    everybody.until(lambda: len(crowd.clients[0].lines()) == len(meanwhile))

    said = sorted(int(line.split()[1]) for line in crowd.clients[0].lines())
    assert said == list(range(1, len(meanwhile) + 1))
    assert not any(client.at_end for client in everybody.clients)


def test_what_a_slow_reader_is_owed_arrives_whole(daemon: Start, mode: str) -> None:
    """Bytes in an outbox, dropped messages that it was not told of, and the count of both."""
    running = daemon(mode, "--sndbuf", "4096", "--high-water-bytes", "100000")
    talker = running.crowd(1).clients[0]
    slow = running.crowd(1, rcvbuf=4096).clients[0]
    slow.reads = False
    crowd = Crowd([talker, slow])

    def something_is_dropped() -> object:
        if not talker.outgoing:
            talker.say(LINE * 50)
        return total(running.metrics(), "messages_dropped_total")

    crowd.until(something_is_dropped)
    crowd.until(lambda: not talker.outgoing)
    hand_over(running)
    assert running.metrics()["outbox_messages"]
    assert_ledger(running.quiet_metrics())
    slow.reads = True
    crowd.until(lambda: not running.metrics()["outbox_bytes"] and slow.missed())

    metrics = running.quiet_metrics()
    crowd.until(lambda: len(slow.lines()) == metrics["messages_delivered_total"])
    assert_ledger(metrics)
    assert set(slow.lines()) == {b"[USER1] " + LINE}, "a torn line"
    assert slow.missed() == total(metrics, "messages_dropped_total")
    assert len(slow.lines()) + slow.missed() == metrics["messages_enqueued_total"]


def test_a_load_notices_nothing_but_a_pause(daemon: Start, mode: str, tmp_path: Path) -> None:
    """Every line is checked: none lost, doubled, torn or out of order; both ledgers agree."""
    running = daemon(mode)
    result = tmp_path / "result.json"
    host, port = running.address
    client = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadclient", "run", host, str(port), "--quiet"),
            *("--conns", "200", "--senders", "20", "--rate", "10", "--duration", "4"),
            *("--warmup", "0.5", "--verify", "full", "--json", str(result)),
            *("--drain-timeout", "60"),
            *("--server-metrics", f"http://{running.scrape_address}/metrics"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: running.metrics()["messages_received_total"] > 300)
    while client.poll() is None:
        hand_over(running)

    found = json.loads(result.read_text())
    assert found["lost"] == found["duplicated"] == found["reordered"] == 0
    assert found["messages_sent"] == found["messages_offered"] == 800
    assert found["messages_received"] == found["messages_expected"] == 800 * 199
    # A busy machine may make the client late, and then it says so; nothing else may be wrong.
    reasons = [reason for reason in found["invalid_reasons"] if "bottleneck" not in reason]
    assert reasons == []
    metrics = running.quiet_metrics()
    assert_ledger(metrics)
    assert metrics["handovers_total"] == len(running.events("took over")) >= 1


def test_two_signals_in_a_row_lose_nobody(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(3)
    running.signal(signal.SIGUSR2)
    running.signal(signal.SIGUSR2)
    until(lambda: running.events("took over"))
    hand_over(running)

    assert_talks(crowd, b"still here\n")
    assert running.metrics()["handovers_total"] in (2, 3)


def test_a_stop_that_comes_meanwhile_is_a_stop_in_good_order(daemon: Start, mode: str) -> None:
    """Before, while or after the successor starts: peers are told, and nothing is abandoned."""
    running = daemon(mode)
    crowd = running.crowd(3)
    running.signal(signal.SIGUSR2)
    until(lambda: running.events("handing over"))
    running.signal(signal.SIGTERM)
    crowd.until_end()

    assert running.stopped()["messages_abandoned"] == 0
    assert [bytes(client.inbox) for client in crowd.clients] == [GOODBYE] * 3
    assert not any(client.was_reset for client in crowd.clients)


def is_taken_over(running: DaemonProcess) -> bool:
    """Tell whether the program has been replaced: the pause has begun."""
    return b"ETLT_HANDOVER=take" in Path(f"/proc/{running.pid}/environ").read_bytes()


def test_a_stop_in_the_pause_waits_for_the_successor(daemon: Start, mode: str) -> None:
    """By default SIGTERM ends a program that has no handler yet, and every client with it."""
    running = daemon(mode)
    crowd = running.crowd(3)
    running.signal(signal.SIGUSR2)
    until(lambda: is_taken_over(running))
    running.signal(signal.SIGTERM)
    crowd.until_end()

    assert running.stopped()["messages_abandoned"] == 0
    assert [bytes(client.inbox) for client in crowd.clients] == [GOODBYE] * 3
    assert running.events("took over")


def test_a_client_that_leaves_in_the_pause_is_missed(daemon: Start, mode: str) -> None:
    running = daemon(mode)
    crowd = running.crowd(3)
    leaver = crowd.clients.pop()
    running.signal(signal.SIGUSR2)
    until(lambda: is_taken_over(running))
    leaver.sock.sendall(b"last words\n")
    leaver.sock.close()
    crowd.until(lambda: running.events("took over"))
    crowd.until(lambda: all(client.lines() for client in crowd.clients))

    assert running.events("took over")[0]["peers"] == 3
    assert_talks(crowd, b"gone?\n")  # what is sent to it shows that it is
    until(lambda: running.metrics()["connections"] == 2)


def test_the_manager_is_told_when_it_begins_and_when_it_is_over(
    daemon: Start, tmp_path: Path
) -> None:
    """Under systemd, `systemctl reload` is a hand-over; the watchdog leaves time for it."""
    manager = Manager(tmp_path / "notify")
    running = daemon("et", variables=manager.variables | {"WATCHDOG_USEC": "2000000"})
    manager.hear_until("READY=1")
    running.signal(signal.SIGUSR2)
    reloading = manager.hear_until("RELOADING=1")
    pause = manager.hear_until("STATUS=Handing over")
    ready = manager.hear_until("READY=1")

    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert pause[1:] == ["WATCHDOG=1", "WATCHDOG_USEC=30000000"]
    assert f"MAINPID={running.pid}" in ready
    assert ready[-1] == "WATCHDOG_USEC=2000000"
    manager.sock.close()


# -- a successor that is no good -----------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the package that a test may break."""
    shutil.copytree("etltd", tmp_path / "copy" / "etltd")
    return tmp_path / "copy" / "etltd"


def of_copy(copy: Path, **more: str) -> dict[str, object]:
    """Return what makes the command run *copy*, without measuring its coverage.

    *more* are variables.
    """
    unset = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
    prefix = ["env", *(f"--unset={name}" for name in unset)]
    variables = {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(copy.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
    return {"prefix": prefix, "variables": variables}


def change(copy: Path, module: str, old: str, new: str) -> None:
    path = copy / module
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


BROKEN = {
    "it is no program": ("wire.py", "from __future__", "from from __future__", "SyntaxError"),
    "it takes another format": (
        *("handover.py", "FORMAT = 2", "FORMAT = 3"),
        "it is handed over in format 2, this version takes format 3",
    ),
    "it does not count what was counted": (
        *("stats.py", "revisits: int", "second_turns: int"),
        "counts would be lost: nothing is counted as revisits here",
    ),
    "it does not know a reason": (
        *("stats.py", 'CLOSED = "closed"', 'CLOSED = "gone"'),
        "nothing is counted as messages_dropped{closed} here",
    ),
    "it hangs": (
        *("cli.py", "import difflib", "import difflib\nimport time\ntime.sleep(3600)"),
        "the successor was not ready within 1.5 s",
    ),
    "it says nothing": ("cli.py", "import difflib", "raise SystemExit(5)", "exit status 5"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_successor_leaves_the_old_one_serving(
    daemon: Start, copy: Path, what: str
) -> None:
    module, old, new, sentence = BROKEN[what]
    if what == "it hangs":
        change(copy, "succession.py", "REHEARSAL_SECONDS = 30.0", "REHEARSAL_SECONDS = 1.5")
    running = daemon("et", **of_copy(copy))
    crowd = running.crowd(2)
    change(copy, module, old, new)

    assert sentence in refusal(running)
    assert_talks(crowd, b"nothing happened\n")

    change(copy, module, new, old)
    if what != "it hangs":
        hand_over(running)
    assert_talks(crowd, b"and now it did\n")
    assert running.process.poll() is None


@pytest.mark.parametrize("mended", [True, False])
def test_what_is_installed_while_a_successor_rehearses_is_rehearsed_too(
    daemon: Start, tmp_path: Path, *, mended: bool
) -> None:
    """A reload that came in between was ignored; what it was for is good now, or no longer."""
    options, passed = tmp_path / "options.toml", tmp_path / "passed"
    good = "port = 0\nmode = 'et'\nmetrics_port = 0\n"
    bad = good + "max_line_byte = 100\n"
    options.write_text(good)
    running = from_file(daemon, options)
    crowd = running.crowd(2)
    options.unlink()
    os.mkfifo(options)  # the successor waits in here for its options
    running.signal(signal.SIGUSR2)
    with when_read(options) as slow:
        options.rename(passed)
        options.write_text(good if mended else bad)
        running.signal(signal.SIGUSR2)
        until(lambda: signal.SIGUSR2 not in pending(running))
        slow.write(bad if mended else good)
    crowd.until(lambda: running.events("took over" if mended else "hand-over refused"))

    (refused,) = running.events("hand-over refused")
    assert "max_line_byte" in refused["reason"]
    assert len(running.events("handing over")) == 2
    assert len(running.events("took over")) == mended
    assert_talks(crowd, b"here I am\n")


@pytest.mark.parametrize("is_good", [True, False])
def test_what_is_installed_during_the_last_scrapes_is_rehearsed_too(
    daemon: Start, copy: Path, tmp_path: Path, *, is_good: bool
) -> None:
    """The signal was forgotten, and the program that it was for ran without a rehearsal."""
    options = tmp_path / "options.toml"
    good = "port = 0\nmode = 'et'\nmetrics_port = 0\n"
    options.write_text(good)
    with_long_scrapes(copy)
    running = daemon("et", "--config", str(options), ports=(), **of_copy(copy))
    crowd = running.crowd(2)
    with last_scrapes(running, signal.SIGUSR2):
        options.write_text(
            good + ("max_line_bytes = 100\n" if is_good else "max_line_byte = 100\n")
        )
        running.signal(signal.SIGUSR2)
        until(lambda: signal.SIGUSR2 not in pending(running))
    crowd.until(lambda: running.events("took over" if is_good else "hand-over refused"))

    assert len(running.events("handing over")) == 2
    assert len(running.events("took over")) == is_good
    assert all("max_line_byte" in why["reason"] for why in running.events("hand-over refused"))
    assert_talks(crowd, b"here I am\n")
    assert running.get("/readyz") == (200, "ready\n")


def with_long_scrapes(copy: Path) -> None:
    """Give last scrapes the time to hold `last_scrapes` open."""
    change(copy, "daemon.py", "LAST_SCRAPES_SECONDS = 1.0", "LAST_SCRAPES_SECONDS = 60.0")
    change(copy, "metrics.py", "CLIENT_SECONDS = 5.0", "CLIENT_SECONDS = 60.0")


@contextlib.contextmanager
def last_scrapes(running: DaemonProcess, number: signal.Signals) -> Iterator[None]:
    """Ask for what ends in last scrapes; hold that moment open by a scraper who says nothing."""
    host, port = running.scrape_address.split(":")
    until(lambda: threads(running) == QUIET_THREADS)
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS):
        until(lambda: threads(running) == QUIET_THREADS + 1)
        running.signal(number)
        until(lambda: threads(running) == QUIET_THREADS)  # nobody accepts scrapers any more
        yield


def threads(running: DaemonProcess) -> int:
    return len(list(Path(f"/proc/{running.pid}/task").iterdir()))


def when_read(path: Path) -> TextIO:
    """Return the other end of the named pipe *path* when somebody reads from it."""
    ends = []

    def is_read() -> object:
        with contextlib.suppress(OSError):  # ENXIO, fifo(7)
            ends.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return ends

    until(is_read)
    return os.fdopen(ends[0], "w")


def pending(running: DaemonProcess) -> list[signal.Signals]:
    """Return the signals that have not reached it yet."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    mask = int(status.split("ShdPnd:")[1].split()[0], 16)
    return [number for number in signal.Signals if mask & 1 << (number - 1)]


def test_an_exec_that_fails_leaves_the_old_one_serving(daemon: Start, copy: Path) -> None:
    """The last moment in which there is a way back: everything has been made inheritable."""
    change(copy, "succession.py", "os.execve(sys.executable", 'os.execve("/nowhere/python"')
    running = daemon("lt", **of_copy(copy))
    crowd = running.crowd(2)

    assert refusal(running) == "the successor cannot be started: No such file or directory"
    assert_talks(crowd, b"nothing happened\n")
    assert_nothing_changed(running)


WITHOUT_MEMORY = {
    "for a look at the peers": ("snapshot.py", "    return [_peer(conn) for conn"),
    "for a rehearsal": ("succession.py", "            self._thread = threading.Thread("),
    "for the exec": ("succession.py", "    os.execve(sys.executable,"),
}


@pytest.mark.parametrize("what", WITHOUT_MEMORY)
def test_a_hand_over_without_memory_leaves_the_old_one_serving(
    daemon: Start, copy: Path, what: str
) -> None:
    """Python says so by an exception of its own, which is no OSError."""
    module, line = WITHOUT_MEMORY[what]
    change(copy, module, line, f"{line[: -len(line.lstrip())]}raise MemoryError\n{line}")
    running = daemon("lt", **of_copy(copy))
    crowd = running.crowd(2)
    before = held(running, "eventfd")

    assert refusal(running).endswith("be started: out of memory")
    assert_talks(crowd, b"nothing happened\n")
    assert held(running, "eventfd") == before
    assert_nothing_changed(running)


def assert_nothing_changed(running: DaemonProcess) -> None:
    """Check that it answers scrapes, and that its sockets are its own."""
    assert running.get("/readyz") == (200, "ready\n")
    folder = Path(f"/proc/{running.pid}/fdinfo")
    for fd in held(running, "socket:"):
        with contextlib.suppress(FileNotFoundError):  # the scrape's own
            flags = (folder / fd).read_text().split("flags:")[1].split()[0]
            assert int(flags, 8) & 0o2000000, "a child would keep clients connected that have left"


def held(running: DaemonProcess, kind: str) -> list[str]:
    """Return its descriptors of what is called *kind* in /proc."""
    found = []
    for fd in Path(f"/proc/{running.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of a scrape that was being answered
            if kind in str(fd.readlink()):
                found.append(fd.name)
    return found


def test_a_program_that_is_gone_leaves_the_old_one_serving(daemon: Start, copy: Path) -> None:
    """An upgrade that is under way, or one that went wrong."""
    change(copy, "succession.py", "return [sys.executable,", 'return ["/nowhere/python",')
    running = daemon("et", **of_copy(copy))
    crowd = running.crowd(2)

    assert refusal(running) == "the successor cannot be started: No such file or directory"
    assert_talks(crowd, b"nothing happened\n")


# Where it gets as far as writing the state, no thread is left for scrapes either, at first.
SHORTAGES = [
    ("eventfd2", "ENFILE", "", "no rehearsal can be started: Too many open files in system"),
    ("clone3", "EAGAIN", "", "no rehearsal can be started: can't start new thread"),
    ("epoll_ctl", "ENOMEM", "", "no rehearsal can be started: Cannot allocate memory"),
    (  # and epoll does not let the rehearsal's descriptor go
        *("memfd_create", "ENFILE", "epoll_ctl:error=ENOMEM:when=2"),
        "the successor cannot be started: Too many open files in system",
    ),
    (
        *("memfd_create", "ENFILE", "clone3:error=EAGAIN:when=2"),
        "the successor cannot be started: Too many open files in system",
    ),
]


@pytest.mark.skipif(injection.refusal() is not None, reason=str(injection.refusal()))
def test_a_machine_that_is_short_of_something_costs_nobody(daemon: Start, tmp_path: Path) -> None:
    """A hand-over is asked for in a bad moment: what it needs is not to be had."""
    running = daemon("et")
    crowd = running.crowd(2)
    before = held(running, "eventfd")
    for call, error, also, sentence in SHORTAGES:
        with injection.failing(running.pid, call, error, tmp_path, also=also) as injected:
            assert refusal(running) == sentence
            assert_talks(crowd, b"nothing happened\n")
            assert running.get("/readyz") == (200, "ready\n")
            assert injected() == 1 + bool(also)
    assert held(running, "eventfd") == before

    hand_over(running)
    assert_talks(crowd, b"and now it did\n")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("port = 9", "--port was 0 and is 9 now: a hand-over keeps mode and sockets, a restart"),
        ("max_line_bytes = 1", "is not a whole number from 2"),
        ("max_line_byte = 100", "which is no option. Did you mean max_line_bytes?"),
    ],
)
def test_options_that_cannot_be_taken_leave_the_old_ones_in_force(
    daemon: Start, tmp_path: Path, line: str, sentence: str
) -> None:
    options = tmp_path / "options.toml"
    options.write_text("port = 0\nmode = 'et'\nmetrics_port = 0\n")
    running = from_file(daemon, options)
    crowd = running.crowd(2)
    kept = [
        one
        for one in options.read_text().splitlines()
        if line.split(maxsplit=1)[0] != one.split()[0]
    ]
    options.write_text("\n".join([*kept, line]))

    assert sentence in refusal(running)
    assert_talks(crowd, b"nothing happened\n")


def test_options_may_change(daemon: Start, tmp_path: Path) -> None:
    """It is how a limit is changed without anybody noticing."""
    options = tmp_path / "options.toml"
    options.write_text("port = 0\nmode = 'et'\nmetrics_port = 0\nmax_line_bytes = 100\n")
    running = from_file(daemon, options)
    crowd = running.crowd(2)
    options.write_text(options.read_text().replace("100", "10"))
    hand_over(running)
    crowd.clients[0].say(b"too long for it now\nfits\n")
    crowd.until(lambda: crowd.clients[1].inbox and crowd.clients[0].inbox)

    assert crowd.clients[1].inbox.endswith(b"] fits\n")
    assert crowd.clients[0].inbox == b"[etltd] line too long, discarded\n"


def from_file(daemon: Start, options: Path) -> DaemonProcess:
    """Start a daemon whose options are all in a file."""
    return daemon("et", "--config", str(options), ports=())


def test_a_signal_before_it_serves_ends_nothing(daemon: Start) -> None:
    """By default SIGUSR2 kills."""
    running = daemon("et", wait=False)
    handled = 1 << (signal.SIGUSR2 - 1)

    def is_caught() -> int:
        status = Path(f"/proc/{running.pid}/status").read_text()
        return int(status.split("SigCgt:")[1].split()[0], 16) & handled

    until(is_caught)
    running.signal(signal.SIGUSR2)
    running.wait_until_listening()
    with socket.create_connection(running.address, timeout=PATIENCE_SECONDS):
        pass
