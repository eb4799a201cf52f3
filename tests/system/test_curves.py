"""The drawing of the scaling curves, on runs that are made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.bench import curves

if TYPE_CHECKING:
    import pytest


def test_every_point_is_drawn_and_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that leaves a point out, or needs the network to open, shows nothing."""
    monkeypatch.setattr(curves, "AXES", curves.AXES[-1:])
    monkeypatch.setattr(curves, "OUTCOMES", curves.OUTCOMES[1:3])
    runs = {}
    for axis in curves.AXES:
        for value in axis.values:
            for number, name in enumerate(curves.SERVERS):
                runs[axis, value, name] = [
                    {
                        "in_time": value * (number + 1) * (round_ + 1),
                        "seconds": 1.0,
                        "server_cpu_drained": 0.5,
                        "copies": value,
                        "to_others": 1.0,
                        "latency": {"p99": 0.01 / (number + 1)},
                        "peak_bytes": 2**24,
                    }
                    for round_ in range(3)
                ]

    page = curves.page(runs, 3)

    points = sum(len(axis.values) for axis in curves.AXES) * len(curves.SERVERS)
    assert page.count("<tr>") == 1 + points
    assert page.count("<svg") == len(curves.AXES) * len(curves.OUTCOMES)
    named = re.findall(r"<title[^>]*>((?:C|etltd) [a-z]+), (\d+)", page)
    assert len(named) == points * len(curves.OUTCOMES)
    assert not re.search(r"""(?:src|href)=|url\(|@import|<script""", page)
