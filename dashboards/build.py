"""The files that are committed: boards as classic (v1) JSON, rules as YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import rules
from dashboards.boards import bus, daemon, et_vs_lt, kernel

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

BOARDS = {
    "et-vs-lt": et_vs_lt.board,
    "daemon": daemon.board,
    "kernel": kernel.board,
    "bus": bus.board,
}


def files() -> dict[str, str]:
    """Return every file's text by its name below ``dashboards/``."""
    return {
        **{f"generated/{name}.json": as_json(board()) for name, board in BOARDS.items()},
        "rules/recording.yaml": rules.recording_text(),
        "rules/alerts.yaml": rules.alerts_text(),
    }


def as_json(board: Dashboard) -> str:
    """Return a board's JSON, its panels numbered from 1: links and annotations go by number."""
    built = board.build()
    for number, panel in enumerate(built.panels or [], start=1):
        panel.id_val = number
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(built)
    return text + "\n"
