"""The command ``etlt-dashboards``: build the boards and rules, or find fault with boards.

Exit codes: 0 done and nothing found; 1 files are out of date, there are findings, or something
cannot be read, written or imported; 2 usage.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from dashboards.render.command import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dashboards.lint import Finding

DONE, FAILED, USAGE = 0, 1, 2
HERE = Path(__file__).parent

app = App(
    name="etlt-dashboards",
    help="Build the Grafana boards and Prometheus rules of etlt, check boards, draw them.",
    help_format="plaintext",
    version=lambda: f"etlt-dashboards {_version()}",
)


app.command(render)


class NotReadableError(Exception):
    """A board cannot be read; the message is one sentence."""


@app.command
def build(*, check: bool = False, output: Path = HERE) -> int:
    """Write generated/*.json and rules/*.yaml.

    Parameters
    ----------
    check
        Write nothing; exit with 1 if a file is not what the code makes.
    output
        Folder with generated/ and rules/.
    """
    from dashboards.build import files  # noqa: PLC0415 - needs the extra packages

    stale = [
        (output / name, text)
        for name, text in files().items()
        if not (output / name).exists() or (output / name).read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{path}: {'not what the code makes' if check else 'written'}")
    return FAILED if check and stale else DONE


@app.command
def lint(*boards: Path) -> int:
    """Check boards by the rules of the public dashboard-linter.

    Parameters
    ----------
    boards
        Files of classic dashboard JSON; without any, ours.
    """
    from dashboards.lint import findings  # noqa: PLC0415 - needs the extra packages

    found = 0
    for path in boards or sorted((HERE / "generated").glob("*.json")):
        for finding in _understood(path, findings(_read(path))):
            found += 1
            print(f"{path.name}: {finding.panel or 'board'}: {finding.rule}: {finding.problem}")
    return FAILED if found else DONE


def _understood(path: Path, found: Iterator[Finding]) -> Iterator[Finding]:
    """Pass *found* on; a file that is JSON may still have another shape than boards have."""
    try:
        yield from found
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__} {error}"
        raise NotReadableError(f'"{path}" is not a classic dashboard: {why}.') from error


def _read(path: Path) -> dict[str, object]:
    from dashboards.lint import board_from  # noqa: PLC0415 - needs the extra packages

    try:
        return board_from(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise NotReadableError(f'"{path}" is not a dashboard: it is nested too deeply.') from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise NotReadableError(f'"{path}" is not a dashboard: {why}.') from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        status: int | None = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _say(" ".join(str(error).split()), USAGE)
    except ModuleNotFoundError as error:
        return _say(
            f'the package "{error.name}" is not installed: pip install ".[dashboards]"',
            FAILED,
        )
    except NotReadableError as error:
        return _say(str(error), FAILED)
    except OSError as error:
        place = f'"{error.filename}": ' if error.filename else ""
        return _say(f"{place}{error.strerror or error}.", FAILED)
    return status or DONE


def _say(sentence: str, status: int) -> int:
    print(f"etlt-dashboards: {sentence}", file=sys.stderr)
    return status


def _version() -> str:
    try:
        return importlib.metadata.version("etlt")
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "0+unknown"
