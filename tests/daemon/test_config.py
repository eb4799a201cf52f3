"""Options that contradict each other, and the round trip through TOML."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.config import Config, flag

LONG_NAME = "x" * 300  # stat(2) refuses it
REAL_FILE = Path(__file__)


def test_defaults_are_no_problem() -> None:
    assert Config().problem() is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics_tls_cert": REAL_FILE}, "--metrics-tls-cert needs --metrics-tls-key."),
        ({"metrics_tls_key": REAL_FILE}, "--metrics-tls-key needs --metrics-tls-cert."),
        ({"metrics_tls_client_ca": REAL_FILE}, "--metrics-tls-client-ca needs --metrics-tls-cert."),
        (
            {"metrics_tls_cert": Path("/nope"), "metrics_tls_key": REAL_FILE},
            'Invalid value for --metrics-tls-cert: "/nope" is not a file.',
        ),
        (
            {"metrics_tls_cert": REAL_FILE, "metrics_tls_key": Path("/")},
            'Invalid value for --metrics-tls-key: "/" is not a file.',
        ),
        (
            {"metrics_tls_cert": Path(LONG_NAME), "metrics_tls_key": REAL_FILE},
            f'Invalid value for --metrics-tls-cert: "{LONG_NAME}" is not a file.',
        ),
        (
            {"unix": Path("/" + "x" * 107)},
            f'Invalid value for --unix: "/{"x" * 107}" has over 107 bytes.',
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_options_that_do_not_go_together_are_named(options: dict[str, Path], sentence: str) -> None:
    assert replace(Config(), **options).problem() == sentence  # type: ignore[arg-type]


def test_options_that_go_together_are_accepted() -> None:
    config = replace(
        Config(),
        metrics_tls_cert=REAL_FILE,
        metrics_tls_key=REAL_FILE,
        metrics_tls_client_ca=REAL_FILE,
        unix=Path("/" + "x" * 106),
    )

    assert config.problem() is None


def test_every_option_explains_itself() -> None:
    """A field without a line under it would be an option without help."""
    lines = Path("etltd/config.py").read_text().splitlines()

    for option in fields(Config):
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"    {option.name}: ")]
        assert lines[at + 1].startswith('    """'), option.name
        assert flag(option.name) == "--" + option.name.replace("_", "-")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_survives_the_round_trip_through_toml(text: str) -> None:
    """A quote, a backslash or a control character in a path would break the file."""
    config = replace(Config(), host=text, unix=Path(text))

    found = tomllib.loads(config.as_toml())

    assert found["host"] == text
    assert found["unix"] == str(Path(text))


@given(st.floats(0, 86400), st.integers(0, 2**31 - 1))
def test_any_number_survives_the_round_trip_through_toml(seconds: float, count: int) -> None:
    config = replace(Config(), grace_seconds=seconds, rate_limit=count)

    found = tomllib.loads(config.as_toml())

    assert (found["grace_seconds"], found["rate_limit"]) == (seconds, count)


def test_unset_options_are_left_out_of_the_toml() -> None:
    assert set(tomllib.loads(Config().as_toml())) == {
        option.name for option in fields(Config) if option.default is not None
    }
