"""The command line: every wrong word is one sentence and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cyclopts import CycloptsError
from cyclopts.config import Env

from loadclient.cli import COMMANDS, app, main, misspelt
from loadclient.environment import version
from loadclient.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Outcome


def leave(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(tokens))
    return (left.value.code, *capsys.readouterr())


WRONG = {
    "--conns 0": ("--conns", '"0"', ">= 1"),
    "--conns 3.7": ("--conns", '"3.7"', "whole number"),
    "--conns many": ("--conns", '"many"', "whole number"),
    "--conns 10000000": ("--conns", "10000000", "RLIMIT_NOFILE"),
    "--duration -1": ("--duration", '"-1.0"', ">= 0"),
    "--duration nan": ("--duration", '"nan"', "finite"),
    "--duration long": ("--duration", '"long"', "number"),
    "--msg-bytes 1": ("--msg-bytes", '"1"', ">= 2"),
    "--rate 0": ("--rate", '"0.0"', ">= 0.001"),
    "--procs 0": ("--procs", '"0"', ">= 1"),
    "--procs 51": ("--procs", "51", "50 connections"),
    "--senders 51": ("--senders", "51", "50 connections"),
    "--slow-readers 30 --never-readers 30": ("--slow-readers", "30", "--conns 50"),
    "--never-readers 49": ("--never-readers", "49", "at least two"),
    "--no-recv --slow-readers 1": ("--no-recv", "--slow-readers", "must be 0"),
    "--no-recv --verify full": ("--verify", "full", "--recv"),
    "--verify some": ("--verify", '"some"', '"sampled", "full"'),
    "--verify full --msg-bytes 11": ("--msg-bytes", "11", "at least 12"),
    "--min-delivery-ratio 1.1": ("--min-delivery-ratio", '"1.1"', "<= 1"),
    "--metrics-port 70000": ("--metrics-port", '"70000"', "<= 65535"),
    "--server-metrics localhost:9700": ("--server-metrics", '"localhost:9700"', "http://"),
    "--server-metrics http://": ("--server-metrics", '"http://"', "http://127.0.0.1:9700/metrics"),
    "--server-metrics http://a:b/": ("--server-metrics", '"http://a:b/"', "is not a URL"),
    "--server-metrics http://[::1/": ("--server-metrics", '"http://[::1/"', "is not a URL"),
    "--server-metrics http://a/,b:9700/x": ("--server-metrics", '"http://a/,b:9700/x"', "URL such"),
    "--server-metrics http://a/?x=1,b:9": ("--server-metrics", '"http://a/?x=1,b:9"', "URL such"),
    "--server-metrics http://a/,": ("--server-metrics", '"http://a/,"', "is not a URL"),
    "--server-metrics file:///etc/hosts": ("--server-metrics", '"file:///etc/hosts"', "http://"),
    "--duration 1e300": ("--duration", '"1e+300"', "<= 2678400"),
    "--warmup 1e300": ("--warmup", '"1e+300"', "<= 2678400"),
    "--linger 1e300": ("--linger", '"1e+300"', "<= 2678400"),
    "--connect-timeout 1e300": ("--connect-timeout", '"1e+300"', "<= 2678400"),
    "--drain-timeout 1e300": ("--drain-timeout", '"1e+300"', "<= 2678400"),
    "--sndbuf 99999999999": ("--sndbuf", '"99999999999"', "<= 2147483647"),
    "--rcvbuf 99999999999": ("--rcvbuf", '"99999999999"', "<= 2147483647"),
    "--slow-readers 1 --slow-reader-rate 99999999999": ("--slow-reader-rate", "<= 2147483647"),
    "--connect-rate 1e-320": ("--connect-rate", "50 connections", "--connect-timeout 30"),
    "--rate 0.001 --duration 0.1": ("--duration 0.1", "--rate 0.001", "1000 s apart"),
    "--linger 5": ("--linger 5", "--metrics-port"),
    "--slow-reader-rate 5": ("--slow-reader-rate 5", "--slow-readers"),
    "--metrics-host a..b --metrics-port 0": ("--metrics-host", '"a..b"', "host name"),
    "a..b": ("host", '"a..b"', "host name"),
    "--json /nowhere/at/all.json": ("--json", "/nowhere/at/all.json", "does not exist"),
    "--config /nowhere.toml": ("--config", '"/nowhere.toml"', "No such file"),
    "--frobnicate 1": ("--frobnicate", "", ""),
    "localhost nine": ("--port", '"nine"', "whole number"),
    "localhost 0": ("", '"0"', ">= 1"),
    "localhost 1 2": ('argument "2"', "run takes HOST and PORT and options", "--"),
    "--conns": ("--conns", "", "argument"),
    "--recv=5": ("--recv", '"5"', "bool"),
    "--conns 5_0": ("--conns", '"5_0"', "whole number"),
    "--rate 1_0": ("--rate", '"1_0"', "not a number"),
    "localhost \N{ARABIC-INDIC DIGIT THREE}": ("--port", "whole number"),
    "--no-recv --max-p99 5": ("--max-p99 5", "--no-recv", "not measured"),
    "--no-recv --min-delivery-ratio 1": ("--min-delivery-ratio 1", "--no-recv", "not measured"),
    "--msg-bytes 31 --max-p99 5": ("--max-p99 5", "31 bytes", "takes 32"),
    "--mix 1x10x64,1x1x16 --max-p99 5": ("--max-p99 5", "16 bytes", "takes 32"),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_option_is_one_sentence(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the option, the value, and what is allowed."""
    code, out, err = leave(capsys, "run", *words.split())

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    for part in WRONG[words]:
        assert part in err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LOADCLIENT_CONNS", "none", "LOADCLIENT_CONNS"),
        ("LOADCLIENT_RECV", "perhaps", "LOADCLIENT_RECV"),
        ("LOADCLIENT_VERIFY", "some", "LOADCLIENT_VERIFY"),
        ("LOADCLIENT_CONFIG", "/nowhere.toml", "/nowhere.toml"),
        ("LOADCLIENT_CONFIG", "", '"" is not a path'),
        ("LOADCLIENT_CONS", "nearest", 'variable "LOADCLIENT_CONS" sets no option'),
        ("LOADCLIENT_CONS", "nearest", "the nearest that does is LOADCLIENT_CONNS."),
        ("LOADCLIENT_NO_RECV", "", "sets no option; say LOADCLIENT_RECV=false instead."),
        ("LOADCLIENT_no_recv", "", "sets no option; say LOADCLIENT_RECV=false instead."),
        ("LOADCLIENT_conns", "nearest", "the nearest that does is LOADCLIENT_CONNS."),
        ("LOADCLIENT_NO_PROBE", "", "sets no option; say LOADCLIENT_PROBE=false instead."),
        ("LOADCLIENT_FILES", "nearest", 'variable "LOADCLIENT_FILES" sets no option'),
        ("LOADCLIENT_*", "nearest", 'variable "LOADCLIENT_*" sets no option'),
    ],
)
def test_a_wrong_environment_is_one_sentence(
    name: str, value: str, said: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    code, _, err = leave(capsys, "run")

    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert value in err


def test_a_variable_of_another_command_is_no_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One environment serves all commands, and help is given whatever is in it."""
    monkeypatch.setenv("LOADCLIENT_MAX_P99", "5")  # of run and search
    monkeypatch.setenv("LOADCLIENT_HTML", "x.html")  # of compare and report
    assert leave(capsys, "run", "--conns", "0")[2].startswith('loadclient: Invalid value "0" for')
    monkeypatch.setenv("LOADCLIENT_CONS", "5")
    assert leave(capsys, "run", "--help")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('conns = "many"', ('conns in "', "load.toml", "many")),
        ("conns = 3.7", ('conns in "', "load.toml", "3.7")),
        ("conns = 0", ("[conns]", "load.toml", '"0"', ">= 1")),
        ("conns = true", ("load.toml", "sets conns to true, which is not a number")),
        ('recv = "no"', ("load.toml", "sets recv to no, which is not true or false")),
        ("quiet = 1", ("load.toml", "sets quiet to 1, which is not true or false")),
        ("json = 5", ("load.toml", "sets json to 5, which is not a string")),
        ("run-id = 1979-05-27", ("load.toml", "sets run-id to 1979-05-27, which is not a string")),
        ("frobnicate = 1", ("frobnicate",)),
        ("no_recv = true", ("load.toml", '"no_recv" sets no option; say recv = false instead.')),
        ("NO_RECV = true", ('"NO_RECV" sets no option; say recv = false instead.',)),
        ("no-burst = false", ("load.toml", '"no-burst" sets no option; say burst = false')),
        ("conns = ", ("Invalid value",)),
        ("[run]\nconns = 4", ("load.toml", '"run" is a table')),
        ("[[run]]\nconns = 4", ("load.toml", '"run" is an array')),
        ("conns = [4]", ("load.toml", '"conns" is an array')),
        ("\xff\xfe", ("load.toml",)),
    ],
)
def test_a_wrong_file_is_one_sentence(
    text: str, said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "load.toml"
    path.write_bytes(text.encode("latin-1"))
    code, _, err = leave(capsys, "run", "--config", str(path))

    assert code == 2
    assert err.count("\n") == 1
    for part in said:
        assert part in err


# Each spelling of each option, and the commands that have it.
SPELLINGS: dict[str, set[str]] = {}
for command in COMMANDS:
    for argument in app[command].assemble_argument_collection():
        for spelling in argument.names:
            SPELLINGS.setdefault(spelling, set()).add(command)
VALUES = (
    *("true", "false", "7", "0.5", "x", "full", "1x1x32", "1/2", "http://a/", "h:1"),
    *("lt,et", "eagain", "shared", "veth"),
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_variable_that_is_accepted_sets_something(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is accepted and does nothing changes what is measured, unseen."""

    def parsed() -> Iterator[str]:
        for command in SPELLINGS[spelling]:
            with suppress(CycloptsError):
                yield str(app.parse_args([command], exit_on_error=False, print_error=False)[1])

    name = f"LOADCLIENT_{spelling.lstrip('-').upper().replace('-', '_')}"
    if misspelt({name: ""}):
        return
    monkeypatch.setattr(app, "config", [Env("LOADCLIENT_", command=False)])
    before = {*parsed()}

    def changes(value: str) -> bool:
        monkeypatch.setenv(name, value)
        return bool({*parsed()} - before)

    assert any(map(changes, VALUES))


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadclient import cli

    path = tmp_path / "load.toml"
    path.write_text("conns = 7\nrate = 7\nmsg-bytes = 77\nhost = 'example.org'\n")
    monkeypatch.setenv("LOADCLIENT_RATE", "8")
    monkeypatch.setenv("LOADCLIENT_CONNS", "8")
    seen: list[tuple[str, Options]] = []
    monkeypatch.setattr(cli, "check", lambda options: seen.append(("", options)))
    monkeypatch.setattr(cli, "resolve", lambda host, _port: seen.append((host, Options())))
    monkeypatch.setattr(cli, "perform", lambda *_: (_ for _ in ()).throw(OSError("enough")))
    with pytest.raises(SystemExit):
        main(["run", "--config", str(path), "--conns", "9"])
    options = seen[0][1]

    assert (options.conns, options.rate, options.msg_bytes) == (9, 8.0, 77)
    assert options.duration == Options().duration
    assert seen[1][0] == "example.org"


def test_help_shows_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leave(capsys, "run", "--help")

    assert code == 0
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leave(capsys, "--version")

    assert code == 0
    assert re.fullmatch(r"loadclient \d+\.\d+\.\d+\S*\n", out)


def test_a_checkout_that_nobody_installed_has_a_version_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed packages are found, and all else

    assert version() == "0+unknown"


def test_client_and_daemon_spell_a_commit_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a result seems to be of another version than the server it measured."""
    from etltd.version import commit as of_the_daemon
    from loadclient.environment import commit

    monkeypatch.delenv("ETLT_COMMIT", raising=False)
    assert (commit() or "unknown") == of_the_daemon.__wrapped__()
    monkeypatch.setenv("ETLT_COMMIT", "abc123")
    assert commit() == of_the_daemon.__wrapped__() == "abc123"


def test_an_unknown_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = leave(capsys, "rum")

    assert code == 2
    assert '"rum"' in err


def test_an_unknown_host_is_named() -> None:
    from loadclient.runner import CannotRunError, resolve

    with pytest.raises(CannotRunError, match='"no such host"'):
        resolve("no such host", 1)


def test_unreadable_server_metrics_fail_before_the_load(load: Callable[..., Outcome]) -> None:
    outcome = load(1, "--server-metrics", "http://127.0.0.1:1/metrics")

    assert outcome.code == 1
    assert "cannot read the server's metrics at http://127.0.0.1:1/metrics" in outcome.err


def test_a_taken_metrics_port_is_named(load: Callable[..., Outcome]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = load(1, "--metrics-port", port)

    assert outcome.code == 2
    assert f"--metrics-port {port}: cannot listen" in outcome.err


def test_an_ipv6_address_is_spelt_as_a_url_has_it() -> None:
    """It said http://::1:9702/metrics, which nothing can open."""
    from loadclient.runner import spell

    assert spell(("::1", 9702)) == "[::1]:9702"
    assert spell(("localhost", 9702)) == "localhost:9702"


def test_a_stored_run_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It could be read by nobody but a program."""
    from loadclient.report import summary
    from loadclient.result import RunResult

    runs = [RunResult(run_id=name, valid=True, messages_sent=7) for name in ("one", "two")]
    paths = [tmp_path / f"{run.run_id}.json" for run in runs]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(run.to_json())

    code, out, err = leave(capsys, "report", *map(str, paths))

    assert (code, err) == (0, "")
    assert out == "\n".join(summary(run) for run in runs) + "\n"


def run_with(**fields: object) -> str:
    """Return a stored run of which somebody changed a few fields."""
    return json.dumps({"schema": "etlt.run/1", "run_id": "a", **fields})


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = 'loadclient: "nope.json": No such file or directory.\n'

    assert leave(capsys, "report", "nope.json") == (1, "", said)
    assert leave(capsys, "merge", "nope.json") == (1, "", said)


@pytest.mark.parametrize("words", ["--help", "--version", "run --help", "report FILE", ""])
def test_what_was_asked_for_and_could_not_be_written_is_no_success(
    words: str, tmp_path: Path
) -> None:
    file = tmp_path / "stored.json"
    file.write_text(run_with())
    command = [sys.executable, "-m", "loadclient", *words.replace("FILE", str(file)).split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )

    assert done.returncode == 1
    assert done.stderr == ("loadclient: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("words", ["report FILE", "run --help", "--version"])
def test_a_reader_that_has_read_enough_is_no_failure(words: str, tmp_path: Path) -> None:
    file = tmp_path / "stored.json"
    file.write_text(run_with(warnings=["x" * (1 << 20)]))  # more than a pipe holds
    command = f"{sys.executable} -m loadclient {words.replace('FILE', str(file))}"
    line = f"set -o pipefail; {{ sleep 0.1; {command}; }} | true"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        ([], "", "which files?"),
        (["FILE"], "", "is not a stored comparison, nor a stored run"),
        (["FILE"], '{"schema": "etlt.other/1"}', "is not a stored comparison, nor a stored run"),
        (["FILE"], "[]", "is not a stored comparison, nor a stored run"),
        (["FILE"], '{"schema": "etlt.run/1"}', "a part of it is missing"),
        (["FILE"], run_with(latency_seconds=5), "latency_seconds cannot be 5"),
        (["FILE"], run_with(config=[]), "config cannot be []"),
        (["FILE"], run_with(messages_sent="x"), 'messages_sent cannot be "x"'),
        (["FILE"], run_with(thresholds=5), "not iterable"),
        (["FILE"], run_with(thresholds=[5]), "5 is no Threshold"),
        (["FILE"], run_with(client={"busiest_cpu_share": "much"}), "nor a stored run"),
        (["FILE"], run_with(server={}), "counters"),
        (["FILE"], run_with(churn={}), "connected"),
        (["FILE"], run_with(messages_sent=10**400), "messages_sent cannot be 1000"),
        (["FILE"], run_with(client={"busiest_cpu_share": 10**400}), "nor a stored run"),
        (["FILE"], run_with(elapsed_seconds=float("nan")), "NaN is no number"),
        (["FILE", "--html", "x.html"], None, 'x.html": a page is drawn of one stored comparison'),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    words: list[str], text: str | None, said: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from loadclient.result import RunResult

    file = tmp_path / "stored.json"
    file.write_text(RunResult(run_id="a", valid=True).to_json() if text is None else text)

    code, out, err = leave(capsys, "report", *(str(file) if w == "FILE" else w for w in words))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
