"""What is written is what prometheus_client reads, and what it would write itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from etltd import exposition
from etltd.exposition import Page, wants_openmetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

OWN = [
    exposition.info("etltd_build", "What runs here.", {"mode": "et", "commit": 'a"b\\c\nd 100%'}),
    exposition.gauge("etltd_ready", "1 if ready, 100 % sure.", {"mode": "et"}),
    exposition.counter("etltd_waits", "Waits.", {"mode": "et"}),
    exposition.counter(
        "etltd_ctl", "By op.", {"mode": "et", "op": "add"}, {"mode": "et", "op": "%s"}
    ),
    exposition.histogram("etltd_tick_seconds", "Time.", {"mode": "et"}, (1.023e-06, 0.5, 131071)),
]
NUMBERS = (1, 2**60, 5, 0.25, 1, 2, 3, 7, 7, 12.5)


class TheirOwn:
    """The same, in the library's words."""

    def collect(self) -> Iterator[Metric]:
        labels = {"mode": "et", "commit": 'a"b\\c\nd 100%'}
        yield InfoMetricFamily("etltd_build", "What runs here.", value=labels)
        ready = GaugeMetricFamily("etltd_ready", "1 if ready, 100 % sure.", labels=["mode"])
        ready.add_metric(["et"], 1)
        yield ready
        waits = CounterMetricFamily("etltd_waits", "Waits.", labels=["mode"])
        waits.add_metric(["et"], 2**60)
        yield waits
        ctl = CounterMetricFamily("etltd_ctl", "By op.", labels=["mode", "op"])
        ctl.add_metric(["et", "add"], 5)
        ctl.add_metric(["et", "%s"], 0.25)
        yield ctl
        tick = HistogramMetricFamily("etltd_tick_seconds", "Time.", labels=["mode"])
        buckets = [("1.023e-06", 1.0), ("0.5", 2.0), ("131071.0", 3.0), ("+Inf", 7.0)]
        tick.add_metric(["et"], buckets, 12.5)
        yield tick


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TheirOwn())  # type: ignore[arg-type]
    return registry


def without_numbers(page: bytes) -> list[str]:
    lines = page.decode().splitlines()
    return [line if line.startswith("#") else line.rpartition(" ")[0] for line in lines]


def test_the_text_is_the_library_s_but_for_how_a_number_is_spelt(
    registry: CollectorRegistry,
) -> None:
    """A label in another order, or one escaped otherwise, would be another series."""
    ours, theirs = Page(OWN).fill(NUMBERS, openmetrics=False), generate_latest(registry)

    assert without_numbers(ours) == without_numbers(theirs)
    assert [*read_text(ours.decode())] == [*read_text(theirs.decode())]


def test_openmetrics_is_the_library_s_but_for_how_a_number_is_spelt(
    registry: CollectorRegistry,
) -> None:
    ours = Page(OWN).fill(NUMBERS, openmetrics=True)
    theirs = openmetrics.generate_latest(registry)

    assert without_numbers(ours) == without_numbers(theirs)
    assert [*read_openmetrics(ours.decode())] == [*read_openmetrics(theirs.decode())]


@pytest.mark.parametrize("numbers", [NUMBERS[:-1], (*NUMBERS, 1)])
def test_a_number_too_many_or_too_few_is_not_put_under_another_name(
    numbers: tuple[float, ...],
) -> None:
    with pytest.raises(TypeError):
        Page(OWN).fill(numbers, openmetrics=False)


@given(st.text())
def test_any_label_comes_back_as_it_was(value: str) -> None:
    page = Page([exposition.gauge("etltd_x", "One.", {"instance": value})])

    (family,) = read_text(page.fill([3], openmetrics=False).decode())

    assert family.samples[0].labels == {"instance": value}
    assert family.samples[0].value == 3


ASKS = {
    "": False,
    "*/*": False,
    "text/plain;version=0.0.4": False,
    "application/openmetrics-text": True,
    "application/openmetrics-text; version=1.0.0; charset=utf-8": True,
    "application/openmetrics-text;version=0.0.1": False,
    "application/openmetrics-text;version=abc": False,
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3": True,
    "text/plain;q=0.9, application/openmetrics-text;version=1.0.0;q=0.1": True,
    "application/openmetrics-texts": False,
    "application/openmetrics-text;version=1.0.0;q=0, text/plain": False,
    "application/openmetrics-text;q=0.000": False,
    "application/openmetrics-text;q=0.001": True,
    ";;,,=": False,
}


@pytest.mark.parametrize("accept", ASKS)
def test_openmetrics_is_for_who_asks_for_a_version_that_is_spoken(accept: str) -> None:
    assert wants_openmetrics(accept) == ASKS[accept]
