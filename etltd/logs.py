"""One line per lifecycle event, never one per message.

Text for people, JSON for machines; when stderr is the journal, a priority instead of a timestamp
(sd-daemon(3)). A value is quoted as JSON unless it is plain, so nothing that a peer chose can forge
a line or move a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = re.compile(r"[A-Za-z0-9_./:\[\]@%+-]+")
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00+0000 info listening chat=127.0.0.1:9000``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))
        return f"{moment} {record.levelname.lower()} {_sentence(record)}"


class JournalFormatter(logging.Formatter):
    """``<6>listening chat=127.0.0.1:9000``: the journal knows the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        return f"<{PRIORITIES.get(record.levelno, 6)}>{_sentence(record)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        return json.dumps(
            {
                "time": record.created,
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **_fields(record),
            }
        )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _sentence(record: logging.LogRecord) -> str:
    words = [record.getMessage()]
    for name, value in _fields(record).items():
        text = str(value)
        words.append(f"{name}={text if PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(words)


class Log:
    """Writes events with fields: ``log.info("listening", chat=address)``."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, event: str, **fields: object) -> None:
        """Log what happened."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Log what somebody should look at."""
        self._logger.warning(event, extra={"fields": fields})


def open_log(log_format: str, level: str, environment: Mapping[str, str]) -> Log:
    """Return the log on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    elif _is_journal(environment):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logger = logging.getLogger("etltd")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    return Log(logger)


def _is_journal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is the journal's stream (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:  # closed: nobody will read a line
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
