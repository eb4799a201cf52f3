"""The command ``etltd``: flag beats environment beats file beats default.

Whatever is wrong with what the user wrote is said in one sentence that names the place (flag,
variable, file), the value and what is allowed. Exit status: 0 done, 2 usage, 1 any other failure.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from dataclasses import fields
from pathlib import Path  # noqa: TC003 - cyclopts resolves the annotations
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CoercionError, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Dict, Env

from etltd.config import Config
from etltd.daemon import Daemon, StartError
from etltd.handover import UnfitError
from etltd.metrics import TlsFilesError
from etltd.succession import offered
from etltd.version import commit, version

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE = 0, 1, 2

ENVIRONMENT = Env("ETLTD_", command=False)

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
) -> int:
    """Run the daemon until SIGTERM or SIGINT.

    Parameters
    ----------
    show_config
        Print the options in force as a TOML file and exit.
    """
    config = config or Config()
    problem = config.problem()
    if problem:
        return _refuse(problem)
    if show_config:
        return _print(config.as_toml())
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
    config: Path | None = None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT.

    Parameters
    ----------
    config
        Options from this TOML file: flag beats environment beats file.
    """
    if config is not None:
        app.config = (ENVIRONMENT, Dict(options_of_file(config), source=str(config)))
    status: int = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return status


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
    try:
        status: int | None = app.meta(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (CycloptsError, FileError) as error:
        return _refuse(_sentence(error))
    return status or DONE


def _sentence(error: Exception) -> str:
    """Return what *error* says, in one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f'unexpected argument "{error.unused_tokens[0]}": every option begins with "--".'
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


def _print(text: str) -> int:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # `etltd --show-config | head -1` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own last flush
    return DONE
