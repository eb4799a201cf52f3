"""Options through the real command: who beats whom, and one sentence for what is wrong."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.rig import COMMAND, Client, environment
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.rig import DaemonProcess


def etltd(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "etltd.toml"
    file.write_text('mode = "et"\nport = 1\nhost = "::1"\ngrace_seconds = 1\nrecv-bytes = 1\n')

    done = etltd(
        "--port=3",
        "--config",
        str(file),
        "--show-config",
        ETLTD_PORT="2",
        ETLTD_HOST="::2",
        ETLTD_MAX_LINE_BYTES="2",
        ETLTD_CONFIG="/nope",
    )

    assert (done.returncode, done.stderr) == (0, "")
    shown = set(done.stdout.splitlines())
    assert shown >= {"port = 3", 'host = "::2"', "max_line_bytes = 2", 'mode = "et"'}
    assert shown >= {"grace_seconds = 1.0", "recv_bytes = 1", "metrics_port = 9700"}


def test_what_show_config_prints_sets_the_same_options(tmp_path: Path) -> None:
    first = etltd("--mode=et", "--unix", 'a "b"\\c', "--idle-timeout=0.1", "--show-config")
    file = tmp_path / "etltd.toml"
    file.write_text(first.stdout)

    again = etltd("--show-config", ETLTD_CONFIG=str(file))

    assert (again.returncode, again.stdout) == (0, first.stdout)


@pytest.mark.parametrize(
    ("words", "variables", "text", "sentence"),
    [
        (["--port=http"], {}, "", '--port: "http" is not a whole number from 0 to 65535.'),
        (["9000"], {}, "", 'unexpected argument "9000": every option begins with "--".'),
        (["--ports", "1"], {}, "", "Unknown option: --ports. Did you mean --port?"),
        ([], {"ETLTD_MODE": "xt"}, "", '"xt" for ETLTD_MODE from env. Choose from: "lt", "et".'),
        ([], {"ETLTD_CONFIG": "/nope"}, "", '"/nope" of --config: No such file or directory.'),
        ([], {"ETLTD_CONFIG": ""}, "", 'for ETLTD_CONFIG: "" is not a path.'),
        (
            [],
            {"ETLTD_PROT": "1"},
            "",
            'variable "ETLTD_PROT" sets no option; the nearest that does',
        ),
        ([], {}, "port = true", "sets port to true, which is not a number."),
        ([], {}, "mode =\n", "is not TOML: Invalid value (at line 1, column 7)."),
    ],
)
def test_a_mistake_costs_one_sentence_and_exit_2(
    tmp_path: Path, words: list[str], variables: dict[str, str], text: str, sentence: str
) -> None:
    if text:
        (tmp_path / "wrong.toml").write_text(text)
        words = ["--config", str(tmp_path / "wrong.toml")]

    done = etltd(*words, **variables)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("etltd: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_unusable_tls_files_cost_one_sentence_and_exit_2(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM")

    done = etltd("--metrics-tls-cert", str(wrong), "--metrics-tls-key", str(wrong), "--port=0")

    assert done.returncode == 2
    assert done.stderr.startswith("etltd: Invalid value for --metrics-tls-cert and")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["--show-config", "--help", "--version"])
def test_a_reader_that_has_seen_enough_gets_no_traceback(words: str) -> None:
    """`etltd --help | head -1`; with `head -0` nobody reads at all."""
    with subprocess.Popen(
        [*COMMAND, words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_daemon_that_is_started_without_streams_serves(closed: str, tmp_path: Path) -> None:
    """As by a script that closes what it does not need; there was a traceback."""
    path = tmp_path / "chat"
    options = shlex.join(["--port", "0", "--metrics-port", "0", "--unix", str(path)])
    line = f"exec {shlex.join(COMMAND)} --mode lt {options} {closed}"
    with subprocess.Popen(["sh", "-c", line], env=environment()) as process:
        try:
            until(path.exists)
            Client(str(path)).sock.close()
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("words", ["--show-config", "--help", "--version"])
def test_a_full_disk_costs_one_sentence_and_exit_1(words: str) -> None:
    """A script that keeps the output would go on with half of it; there was a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert done.stderr == "etltd: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_an_address_in_use_costs_one_sentence_and_exit_1(
    daemon: Callable[..., DaemonProcess], option: str
) -> None:
    taken = daemon("lt").address[1]
    ports = {"--port": "0", "--metrics-port": "0", option: str(taken)}

    done = etltd(*(f"{name}={port}" for name, port in ports.items()))

    assert done.returncode == 1
    where = f"{option.replace('port', 'host')} 127.0.0.1 {option} {taken}"
    assert done.stderr == f"etltd: cannot listen on {where}: Address already in use\n"
