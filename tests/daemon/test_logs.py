"""Log lines that people, machines and the journal read; nothing a peer chose may forge one."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.logs import JsonFormatter, TextFormatter, open_log

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "x\n<0>forged \x1b[2J\r\0 y=z"


class Stderr:
    """What has been written to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """Catch what is logged; give the logger back as it was."""
    logger = logging.getLogger("etltd")
    before = logger.handlers[:], logger.level, logger.propagate
    yield Stderr(capsys)
    logger.handlers[:], logger.level, logger.propagate = before


def record(**fields: object) -> logging.LogRecord:
    made = logging.LogRecord("etltd", logging.INFO, "", 0, "listening", None, None)
    made.created = 1_000_000_000.25
    made.fields = fields
    return made


def test_text_is_time_level_event_fields(stderr: Stderr) -> None:
    open_log("text", "info", {}).warning("slow", peer="127.0.0.1:9", why="a b")

    moment, rest = stderr.getvalue().split(" ", 1)
    assert rest == 'warning slow peer=127.0.0.1:9 why="a b"\n'
    assert moment[10] == "T"


def test_json_is_one_object_per_line(stderr: Stderr) -> None:
    open_log("json", "info", {}).info("stopped", bytes_abandoned=5, note=EVIL)

    (line,) = stderr.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time") > 1e9
    assert found == {"level": "info", "event": "stopped", "bytes_abandoned": 5, "note": EVIL}


def test_the_journal_gets_a_priority_instead_of_a_time(stderr: Stderr) -> None:
    status = os.fstat(2)
    log = open_log("text", "info", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})

    log.info("listening", port=9)
    log.warning("slow")

    assert stderr.getvalue() == "<6>listening port=9\n<4>slow\n"


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_another_unit_s_journal_is_not_ours(stderr: Stderr, stream: str) -> None:
    """JOURNAL_STREAM is inherited by children whose stderr goes elsewhere."""
    open_log("text", "info", {"JOURNAL_STREAM": stream}).info("listening")

    assert stderr.getvalue().endswith(" info listening\n")


def test_json_is_json_in_the_journal_too(stderr: Stderr) -> None:
    status = os.fstat(2)
    log = open_log("json", "info", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})

    log.info("listening")

    assert stderr.getvalue().startswith("{")


def test_a_closed_stderr_does_not_stop_the_start(stderr: Stderr) -> None:
    """`etltd 2>&-`."""
    saved = os.dup(2)
    os.close(2)
    try:
        open_log("text", "info", {"JOURNAL_STREAM": "1:2"}).info("listening")
    finally:
        os.dup2(saved, 2)
        os.close(saved)

    assert stderr.getvalue().endswith(" info listening\n")


def test_less_important_lines_are_left_out(stderr: Stderr) -> None:
    log = open_log("text", "warning", {})

    log.info("listening")
    log.warning("slow")

    assert stderr.getvalue().endswith(" warning slow\n")
    assert stderr.getvalue().count("\n") == 1


def test_a_second_log_does_not_double_the_lines(stderr: Stderr) -> None:
    open_log("text", "info", {})
    open_log("text", "info", {}).info("listening")

    assert stderr.getvalue().count("\n") == 1


@given(st.text())
def test_no_value_can_forge_a_line_or_move_the_cursor(value: str) -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record(value=value))

        assert line.isprintable()
        assert line.isascii()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_value_can_be_read_back(value: str) -> None:
    text = TextFormatter().format(record(value=value)).split(" value=", 1)[1]

    assert (json.loads(text) if text.startswith('"') else text) == value


def test_a_record_of_another_library_has_no_fields() -> None:
    made = record()
    delattr(made, "fields")

    assert TextFormatter().format(made).endswith(" info listening")
