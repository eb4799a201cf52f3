"""Standard streams that may be closed, full or broken, without an end to the run they show.

Rule: a run costs minutes and its result is a file and an exit code. Whoever watches it (a pipe, a
terminal, a log on a full disk) may go away; that takes nothing from the result.

And what is shown may be the words of a server or of somebody's file: `printable` lets no control
character of theirs reach a terminal. `unheard` does so for all text but that of a bar or a table,
which moves the cursor itself; what goes into those has to be made printable before.
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILURES = (OSError, ValueError)  # full or broken; closed by Python
# C0 but tab and newline, DEL, C1, and what turns the direction of text or breaks its lines.
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return *text* with its control characters spelled out: they are to be seen, not obeyed."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Unheard(io.TextIOBase):
    """Writes to a stream as long as that works, and then to nobody."""

    def __init__(self, stream: TextIO | None, *, raw: bool) -> None:
        self._stream = stream
        self._raw = raw

    @property
    def encoding(self) -> str:  # type: ignore[override]  # there it can be assigned to
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except FAILURES:
            return False

    def write(self, text: str, /) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text if self._raw else printable(text))
            except UnicodeEncodeError:  # a run's name in a locale that cannot say it
                self.write(text.encode("ascii", "replace").decode())
            except FAILURES:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except FAILURES:
                self._give_up()

    def _give_up(self) -> None:
        stream, self._stream = self._stream, None
        assert stream is not None  # noqa: S101 - only a stream that is there can fail
        _lead_nowhere(stream)


def _lead_nowhere(stream: TextIO) -> None:
    """Lead what is still in buffers to nowhere: the interpreter's last flush would fail too.

    It would replace the exit code by 120.
    """
    with suppress(*FAILURES), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextmanager
def heard() -> Iterator[None]:
    """Have what is printed within be written: it was asked for, and stands nowhere else.

    That its reader has read enough is no failure. Raises OSError, whose text says what is.
    """
    try:
        with suppress(SystemExit):  # how rich says that the reader has gone
            yield
        sys.stdout.flush()
    except BrokenPipeError:
        _lead_nowhere(sys.stdout)
    except OSError as error:
        _lead_nowhere(sys.stdout)
        raise OSError(f"cannot write to standard output: {error.strerror}") from error


def tell(text: str, *, stored: bool) -> None:
    """Print what came out; if it is not *stored* as well, that must succeed. Raises OSError."""
    if stored:
        print(text, file=unheard(sys.stdout), flush=True)
    else:
        with heard():
            sys.stdout.write(printable(f"{text}\n"))


def unheard(stream: TextIO | None, *, raw: bool = False) -> TextIO:
    """Return *stream* (None if there is none) as one that never fails.

    *raw* is for who draws: control characters pass.
    """
    return cast("TextIO", _Unheard(stream, raw=raw))


def open_missing() -> None:
    """Give a standard stream that was closed from the start to nobody.

    Otherwise the next file or socket takes its number, and print(file=None) means stdout.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for as long as the process lasts
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - so too
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - so too
