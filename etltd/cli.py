"""The command ``etltd``: flag beats environment beats file beats default.

Whatever is wrong with what the user wrote is said in one sentence that names the place (flag,
variable, file), the value and what is allowed. Exit status: 0 done, 2 usage, 1 any other failure.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Callable  # noqa: TC003 - cyclopts resolves the annotations
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CoercionError, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Dict, Env

from etltd.config import Config, File
from etltd.daemon import Daemon
from etltd.handover import UnfitError
from etltd.metrics import TlsFilesError
from etltd.ports import StartError
from etltd.succession import offered
from etltd.version import commit, version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DONE, FAILED, USAGE = 0, 1, 2

PREFIX = "ETLTD_"
ENVIRONMENT = Env(PREFIX, command=False)
# Variables that are no options: the bus's secrets, and what deploy/compose.yaml publishes ports by.
NO_OPTIONS = (
    *("CONFIG", "SHOW_CONFIG", "BUS_PASSWORD", "BUS_TOKEN"),
    *("LT_PORT", "LT_METRICS_PORT", "ET_PORT", "ET_METRICS_PORT"),
)

app = App(
    name="etltd",
    help="A newline-framed broadcast chat daemon on one epoll loop. Talk to it with nc.",
    help_format="plaintext",
    version=lambda: f"etltd {version()} ({commit()})",
    config=ENVIRONMENT,
)


class FileError(Exception):
    """The file of --config cannot be used; the message is one sentence."""


@app.default
def serve(
    config: Config | None = None,
    *,
    show_config: Annotated[bool, Parameter(negative=())] = False,
) -> Callable[[], int] | None:
    """Run the daemon until SIGTERM or SIGINT.

    Parameters
    ----------
    show_config
        Print the options in force as a TOML file and exit.
    """
    # What is to be done is returned: an OSError of the daemon is no failure to print.
    config = config or Config()
    problem = misspelt(os.environ) or config.problem()
    if problem:
        return partial(_refuse, problem)
    if show_config:
        print(config.as_toml(), end="")
        return None
    return partial(_serve, config)


def _serve(config: Config) -> int:
    try:
        offer = offered(os.environ)
        daemon = Daemon(config, os.environ, offer.state if offer else None)
        if offer and offer.is_rehearsal:
            return DONE
        del offer  # what peers are owed is the daemon's to forget
        daemon.run()
    except TlsFilesError as error:
        return _refuse(str(error))
    except (StartError, UnfitError) as error:
        return _refuse(str(error), FAILED)
    return DONE


@app.meta.default
def with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: File = None,
) -> Callable[[], int] | None:
    """Run the daemon until SIGTERM or SIGINT.

    Parameters
    ----------
    config
        Options from this TOML file: flag beats environment beats file.
    """
    if config is not None:
        app.config = (ENVIRONMENT, Dict(options_of_file(config), source=str(config)))
    action: Callable[[], int] | None = app(
        tokens, exit_on_error=False, print_error=False, result_action="return_value"
    )
    return action


def misspelt(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first variable of ours that nobody would read, or None.

    It was meant to set something; a daemon that starts without it has another limit or mode.
    """
    known = [PREFIX + name for name in (*(f.name.upper() for f in fields(Config)), *NO_OPTIONS)]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            return f'the variable "{name}" sets no option; the nearest that does is {near[0]}.'
    return None


def options_of_file(path: Path) -> dict[str, Any]:
    """Return the options that the TOML file *path* sets.

    Raises:
        FileError: it cannot be read, or says something that no option is.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f'cannot read "{path}" of --config: {error.strerror}.') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f'"{path}" of --config is not TOML: {error}.') from None
    defaults = {option.name: option.default for option in fields(Config)}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise FileError(f'"{path}" of --config sets "{key}", which is no option.{hint}')
        allowed, kinds = _kind_of(defaults[name])
        if not isinstance(value, kinds) or isinstance(value, bool) != (bool in kinds):
            raise FileError(
                f'"{path}" of --config sets {key} to {_in_words(value)}, which is not {allowed}.'
            )
    return found


def _kind_of(default: object) -> tuple[str, tuple[type, ...]]:
    """Return what the file may set an option to, in words and in types; a number also as a word."""
    if isinstance(default, bool):
        return "true or false", (bool,)
    if isinstance(default, int | float):
        return "a number", (str, int, float)
    return "a string", (str,)


def _in_words(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list():
            return "an array"
        case bool():
            return str(value).lower()
    return str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    app.config = ENVIRONMENT
    _open_missing()
    action: Callable[[], int] | None = None
    try:
        with suppress(SystemExit):  # how rich says that the reader of --help has gone
            action = app.meta(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
        sys.stdout.flush()
    except (CycloptsError, FileError) as error:
        return _refuse(_sentence(error))
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own last flush
        if isinstance(error, BrokenPipeError):  # `etltd --show-config | head -1` has seen enough
            return DONE
        return _refuse(f"cannot write to standard output: {error.strerror}", FAILED)
    return action() if action else DONE


def _open_missing() -> None:
    """Give a stream that was closed from the start (`>&-`) to nobody.

    Python has None for it then, and the next socket would take its number.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: its own
            setattr(sys, name, os.fdopen(nothing, "w" if fd else "r", closefd=False))


def _sentence(error: Exception) -> str:
    """Return what *error* says, in one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        word = error.unused_tokens[0]
        # A URL with a user before the "@", perhaps: a password that is refused is not told.
        quoted = "" if "@" in word else f' "{word}"'
        return f'unexpected argument{quoted}: every option begins with "--".'
    if isinstance(error, CoercionError) and error.msg and error.token:
        token = error.token
        place = str(token.keyword)
        if place.startswith("["):  # a key of the file
            place = f'{place[1:-1]} in "{token.source}"'
        return f"Invalid value for {place}: {error.msg}."
    return " ".join(str(error).split())


def _refuse(sentence: str, status: int = USAGE) -> int:
    """Say why not; what was written in a file or a variable may not move the terminal's cursor."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in sentence
    )
    print(f"etltd: {shown}", file=sys.stderr)
    return status
