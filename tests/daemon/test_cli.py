"""Every wrong word of a user: one sentence that names place, value and what is allowed; exit 2."""

from __future__ import annotations

import os
import re
import runpy
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from etltd import cli
from etltd.config import Config, flag
from etltd.handover import UnfitError
from etltd.metrics import TlsFilesError
from etltd.ports import StartError

INT_MAX = 2**31 - 1
THREE = "\N{ARABIC-INDIC DIGIT THREE}"  # a digit to Python, and to nobody who reads --help

TEXTS = {  # option: what its refusals say is allowed, and wrong values
    "mode": ('Choose from: "lt", "et"', ["", "LT", "both"]),
    "slow_consumer": ('Choose from: "drop", "evict"', ["", "kick"]),
    "drain": ('Choose from: "eagain", "short-read"', ["", "short_read"]),
    "fan_out": ('Choose from: "batch", "message"', ["", "both"]),
    "bus": ("is not nats://host:port", ["host:1", "nats://a/", "nats://a, nats://b"]),
    "bus_subject": ("is not a NATS subject", ["", "a b", "a..b", "a.*", ">"]),
    "bus_instance": ("is not up to 32 letters", ["a b", "a]", "x" * 33]),
    "bus_user": ("is not the name of a user", ["a b"]),
    **dict.fromkeys(
        [
            *("bus_password_file", "bus_token_file", "bus_credentials", "bus_nkey"),
            *("bus_tls_ca", "bus_tls_cert", "bus_tls_key"),
        ],
        ("is not a path", [""]),
    ),
    "listener": ('Choose from: "own", "reuseport", "exclusive", "shared"', ["", "both"]),
    "log_format": ('Choose from: "text", "json"', ["", "xml"]),
    "log_level": ('Choose from: "debug", "info", "warning", "error"', ["", "INFO"]),
    "host": ("is not a host name or an IP address", ["", "a..b", "x" * 64 + ".example"]),
    "metrics_host": ("is not a host name or an IP address", ["", "a..b"]),
    "unix": ("is not a path", [""]),
    "metrics_tls_cert": ("is not a path", [""]),
    "metrics_tls_key": ("is not a path", [""]),
    "metrics_tls_client_ca": ("is not a path", [""]),
}

WHOLE_NUMBERS = {  # option: bounds
    "port": (0, 65535),
    "metrics_port": (0, 65535),
    "backlog": (1, INT_MAX),
    "max_connections": (0, INT_MAX),
    "max_connections_per_ip": (0, INT_MAX),
    "max_line_bytes": (2, INT_MAX),
    "high_water_bytes": (1, INT_MAX),
    "bus_buffer_bytes": (1, INT_MAX),
    "rate_limit": (0, INT_MAX),
    "sndbuf": (0, INT_MAX),
    "rcvbuf": (0, INT_MAX),
    "reads_per_event": (0, INT_MAX),
    "recv_bytes": (1, 1 << 26),
    "max_events": (1, 1 << 16),
}

SWITCHES = {"sanitize"}

SECONDS = dict.fromkeys(("idle_timeout", "peer_timeout", "grace_seconds"), (0, 86400))

WRONG = [
    *[(name, value, allowed) for name, (allowed, values) in TEXTS.items() for value in values],
    *[
        (name, value, f"is not a whole number from {low} to {high}")
        for name, (low, high) in WHOLE_NUMBERS.items()
        for value in (
            "abc",
            "",
            "3.7",
            str(low - 1),
            str(high + 1),
            "9_0",
            THREE,
        )
    ],
    *[
        (name, value, f"is not a number of seconds from {low} to {high}")
        for name, (low, high) in SECONDS.items()
        for value in ("abc", "", "-0.1", "86400.1", "nan", "1_0", THREE)
    ],
]

FIRST_WRONG = list({name: (name, value, allowed) for name, value, allowed in WRONG[::-1]}.values())

RIGHT = [
    {name: low for name, (low, _) in WHOLE_NUMBERS.items()},
    {name: high for name, (_, high) in WHOLE_NUMBERS.items()},
    {"mode": "lt", "host": "localhost", "metrics_host": "bücher.example", "grace_seconds": "0.25"},
    {"mode": "et", "host": "::1", "metrics_host": "0.0.0.0", "idle_timeout": "86400"},
    {"unix": 'a path/with "quotes"', "drain": "short-read", "log_format": "json"},
    {"unix": "with\ttab\\and\x7f", "fan_out": "message", "slow_consumer": "evict"},
]


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("ETLTD_")]:
        monkeypatch.delenv(variable)


class Command:
    """The command, called in this process; it must never get as far as serving."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        status = cli.main([*words, "--show-config"])
        out, err = self._capsys.readouterr()
        return status, out, err

    def refusal(self, *words: str) -> str:
        """Return the one sentence with which it refuses *words*."""
        status, out, err = self(*words)
        assert (status, out) == (cli.USAGE, ""), words
        assert err.startswith("etltd: ")
        assert err.endswith((".\n", "?\n"))
        assert err.count("\n") == 1
        return err[7:-1]


@pytest.fixture
def etltd(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_the_tables_name_every_option() -> None:
    """An option that is added and not tested here would go unnoticed."""
    assert {*TEXTS, *WHOLE_NUMBERS, *SECONDS, *SWITCHES} == {
        option.name for option in fields(Config)
    }


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_a_wrong_flag_is_refused_in_one_sentence(
    etltd: Command, name: str, value: str, allowed: str
) -> None:
    sentence = etltd.refusal(f"{flag(name)}={value}")

    assert flag(name) in sentence
    assert f'"{value}"' in sentence
    assert allowed in sentence


@pytest.mark.parametrize(("name", "value", "allowed"), FIRST_WRONG)
def test_a_wrong_variable_is_refused_by_its_name(
    etltd: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(f"ETLTD_{name.upper()}", value)

    sentence = etltd.refusal()

    assert f"ETLTD_{name.upper()}" in sentence
    assert f'"{value}"' in sentence
    assert allowed in sentence


@pytest.mark.parametrize(("name", "value", "allowed"), FIRST_WRONG)
def test_a_wrong_value_in_a_file_is_refused_with_key_and_file(
    etltd: Command, tmp_path: Path, name: str, value: str, allowed: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f'{name} = "{value}"\n')

    sentence = etltd.refusal("--config", str(file))

    assert name in sentence
    assert f'"{value}"' in sentence
    assert allowed in sentence
    assert str(file) in sentence


@pytest.mark.parametrize(
    "value",
    [
        "nats://anna:geheim@127.0.0.1:4222",
        "nats://a:1,tls://geheim@b:2",
        "anna:geheim@host",
        "nats://anna:geheim @host",
    ],
)
def test_a_password_in_the_buss_url_is_refused_and_not_repeated(
    etltd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The refusal is in the journal, and in the log of whoever started it."""
    file = tmp_path / "secret.toml"
    file.write_text(f'bus = "{value}"\n')
    refusals = {
        "--bus": etltd.refusal("--bus", value),
        f'bus in "{file}"': etltd.refusal("--config", str(file)),
    }
    monkeypatch.setenv("ETLTD_BUS", value)
    refusals["ETLTD_BUS"] = etltd.refusal()

    for place, sentence in refusals.items():
        assert sentence.startswith(f"Invalid value for {place}: a URL of the bus may hold no user")
        assert "ETLTD_BUS_PASSWORD" in sentence
        assert "geheim" not in sentence


@pytest.mark.parametrize("options", RIGHT)
def test_right_values_survive_show_config_and_config(
    etltd: Command, tmp_path: Path, options: dict[str, str | int]
) -> None:
    """What --show-config prints must set the same options when it is read back."""
    status, shown, err = etltd(*(f"{flag(name)}={value}" for name, value in options.items()))
    assert (status, err) == (cli.DONE, "")
    file = tmp_path / "shown.toml"
    file.write_text(shown)

    again = etltd("--config", str(file))

    assert again == (cli.DONE, shown, "")
    found = tomllib.loads(shown)
    assert {name: found[name] for name in options} == {
        name: float(value) if name in SECONDS else value for name, value in options.items()
    }


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    etltd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.toml"
    file.write_text('port = 1\nbacklog = 1\nmode = "et"\n')
    monkeypatch.setenv("ETLTD_PORT", "2")
    monkeypatch.setenv("ETLTD_BACKLOG", "2")
    monkeypatch.setenv("ETLTD_CONFIG", str(file))

    _, shown, _ = etltd("--port", "3")

    assert 'mode = "et"\n' in shown
    assert "\nport = 3\n" in shown
    assert "\nbacklog = 2\n" in shown
    assert "\nmetrics_port = 9700\n" in shown


def test_the_flag_of_a_file_beats_its_variable(
    etltd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.toml"
    file.write_text("max-line-bytes = 77\n")
    monkeypatch.setenv("ETLTD_CONFIG", "/nope")

    _, shown, _ = etltd("--config", str(file))

    assert "max_line_bytes = 77\n" in shown


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("port = 3.7", 'Invalid value for port in "FILE": "3.7" is not a whole number from 0 to'),
        ("port = true", '"FILE" of --config sets port to true, which is not a number.'),
        ("port = [1]", '"FILE" of --config sets port to an array, which is not a number.'),
        ("[port]", '"FILE" of --config sets port to a table, which is not a number.'),
        ("port = 2020-01-01", "sets port to 2020-01-01, which is not a number."),
        ("idle_timeout = nan", '"nan" is not a number of seconds from 0 to 86400.'),
        ("host = 1", '"FILE" of --config sets host to 1, which is not a string.'),
        ("mode = ['lt']", '"FILE" of --config sets mode to an array, which is not a string.'),
        ('unix = "a\\u0000b"', 'Invalid value for unix in "FILE": "a\\x00b" is not a path.'),
        (
            'host = "a\\u0000b"',
            'for host in "FILE": "a\\x00b" is not a host name or an IP address.',
        ),
        ("sanitize = 1", '"FILE" of --config sets sanitize to 1, which is not true or false.'),
        ("prot = 1", '"FILE" of --config sets "prot", which is no option. Did you mean port?'),
        ("show_config = true", '"FILE" of --config sets "show_config", which is no option.'),
        ("[etltd]\nport = 1", '"FILE" of --config sets "etltd", which is no option.'),
        ("mode = 'et'\nport =\n", '"FILE" of --config is not TOML: Invalid value (at line 2, col'),
        ("port = 1\nport = 2\n", '"FILE" of --config is not TOML: Cannot overwrite a value (at '),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(
    etltd: Command, tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)

    assert sentence.replace("FILE", str(file)) in etltd.refusal("--config", str(file))


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("ETLTD_PROT", "ETLTD_PORT"),
        ("ETLTD_MAX_CONECTIONS", "ETLTD_MAX_CONNECTIONS"),
        ("ETLTD_BUS_PASWORD", "ETLTD_BUS_PASSWORD"),
        ("ETLTD_", "ETLTD_BUS"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest(
    etltd: Command, monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    """It was ignored, and the limit that somebody had set was not in force."""
    monkeypatch.setenv(variable, "1")

    assert etltd.refusal() == (
        f'the variable "{variable}" sets no option; the nearest that does is {nearest}.'
    )


def test_variables_that_are_no_options_and_mean_something_are_let_through(
    etltd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cli.NO_OPTIONS:
        if name != "CONFIG":
            monkeypatch.setenv(f"ETLTD_{name}", "1")

    assert etltd()[::2] == (cli.DONE, "")


def test_every_variable_that_is_written_of_is_known() -> None:
    """The README, the images and the units set them; one unknown would stop the daemon."""
    root = Path(__file__).parents[2]
    texts = [root / "README.md", *(f for f in (root / "deploy").rglob("*") if f.is_file())]
    named = {
        name
        for text in texts
        for name in re.findall(rb"\bETLTD_[A-Z_]+\b", text.read_bytes())
        if not name.endswith(b"_")
    }

    assert len(named) > 5
    assert cli.misspelt(dict.fromkeys(map(bytes.decode, named), "")) is None


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_a_switch_is_set_by_flag_variable_or_file(
    etltd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    file = tmp_path / "some.toml"
    file.write_text(f"{switch} = true\n")
    on = f"\n{switch} = true\n"

    assert f"\n{switch} = false\n" in etltd()[1]
    assert on in etltd(flag(switch))[1]
    assert on in etltd("--config", str(file))[1]
    monkeypatch.setenv(f"ETLTD_{switch.upper()}", "1")
    assert on in etltd()[1]
    monkeypatch.setenv(f"ETLTD_{switch.upper()}", "maybe")
    assert f"ETLTD_{switch.upper()}" in etltd.refusal()


def test_a_refusal_does_not_move_the_cursor(
    etltd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong may come from a file or a variable that somebody else wrote."""
    monkeypatch.setenv("ETLTD_MODE", "\x1b[2J\r\x9b")

    assert "\\x1b[2J" in etltd.refusal()


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    etltd: Command, tmp_path: Path
) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")

    assert etltd.refusal("--config", "/nope.toml") == (
        'cannot read "/nope.toml" of --config: No such file or directory.'
    )
    assert etltd.refusal("--config", str(tmp_path)).endswith("of --config: Is a directory.")
    assert f'"{binary}" of --config is not TOML: ' in etltd.refusal("--config", str(binary))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["chat"], 'unexpected argument "chat": every option begins with "--".'),
        (["--port", "1", "2"], 'unexpected argument "2": every option begins with "--".'),
        (["--bus=", "nats://a:geheim@b"], 'unexpected argument: every option begins with "--".'),
        (["--prot", "1"], "Unknown option: --prot. Did you mean --port?"),
        (["-x"], "Unknown option: -x."),
        (["--port=1", "--port=2"], "Parameter --port specified multiple times."),
        (["--config"], "Parameter --config requires an argument."),
        (["--no-port"], "Unknown option: --no-port."),
        (["--show-config=perhaps"], 'for --show-config: unable to convert "perhaps" into bool.'),
    ],
)
def test_words_that_are_no_options_are_refused(
    etltd: Command, words: list[str], sentence: str
) -> None:
    assert sentence in etltd.refusal(*words)


def test_there_is_no_flag_to_not_show_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--no-show-config"]) == cli.USAGE
    assert "Unknown option: --no-show-config." in capsys.readouterr().err


def test_a_missing_value_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--port"]) == cli.USAGE
    assert capsys.readouterr().err == "etltd: Parameter --port requires an argument.\n"


def test_options_that_need_each_other_are_refused(etltd: Command) -> None:
    sentence = etltd.refusal("--metrics-tls-cert", __file__)

    assert sentence == "--metrics-tls-cert needs --metrics-tls-key."


def test_help_names_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.DONE

    shown = capsys.readouterr().out
    for option in fields(Config):
        assert flag(option.name) + " " in shown
        assert f"ETLTD_{option.name.upper()}" in "".join(shown.split()).replace("│", "")


def test_version_names_version_and_commit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.DONE
    assert capsys.readouterr().out.startswith("etltd 0.")


def test_a_reader_that_has_seen_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`etltd --show-config | head -1` would end in a traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    saved = os.dup(1)
    try:
        with os.fdopen(write_end, "w") as closed_pipe:
            monkeypatch.setattr(sys, "stdout", closed_pipe)
            status = cli.main(["--show-config"])
            os.dup2(1, closed_pipe.fileno())  # the null device, for what is buffered still
    finally:
        os.dup2(saved, 1)
        os.close(saved)

    assert status == cli.DONE
    assert capfd.readouterr().err == ""


class FakeDaemon:
    """Ends at once, as told."""

    error: Exception | None = None

    def __init__(self, config: Config, environment: object, state: object) -> None:
        assert state is None
        self.config, self.environment = config, environment

    def run(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (None, cli.DONE, ""),
        (StartError("cannot listen on x: taken"), cli.FAILED, "etltd: cannot listen on x: taken\n"),
        (TlsFilesError("not PEM."), cli.USAGE, "etltd: not PEM.\n"),
        (UnfitError("another socket"), cli.FAILED, "etltd: another socket\n"),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    status: int,
    line: str,
) -> None:
    monkeypatch.setattr(cli, "Daemon", FakeDaemon)
    monkeypatch.setattr(FakeDaemon, "error", error)

    assert cli.main([]) == status
    assert capsys.readouterr().err == line


def test_a_bug_is_not_taken_for_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError of the running daemon once was printed as if the user had mistyped."""
    monkeypatch.setattr(cli, "Daemon", FakeDaemon)
    monkeypatch.setattr(FakeDaemon, "error", OSError(9, "Bad file descriptor"))

    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main([])


def test_the_module_runs_as_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "etltd.__main__", raising=False)  # another test's import
    monkeypatch.setattr(sys, "argv", ["etltd", "--show-config"])
    monkeypatch.setattr(cli.main, "__defaults__", (["--show-config"],))  # cyclopts knows of pytest

    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("etltd", run_name="__main__")

    assert stopped.value.code == cli.DONE
