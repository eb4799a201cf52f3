"""What `--netem` may say, and one sentence for what it may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.network.conditions import Conditions, parse
from loadclient.network.link import netem


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("veth", Conditions()),
        ("delay=20ms", Conditions(delay=20)),
        ("delay=20", Conditions(delay=20)),
        (" delay = 0.5 ms , loss=1 %", Conditions(delay=0.5, loss=1)),
        (
            "rate=50Mbit,loss=0.1%,jitter=2ms,delay=20ms",
            Conditions(delay=20, jitter=2, loss=0.1, rate=50),
        ),
    ],
)
def test_units_may_be_written_or_left_out(text: str, conditions: Conditions) -> None:
    assert parse(text) == conditions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not understood; it must be"),
        ("none", '"none" is not understood'),
        ("20ms", '"20ms" is not understood'),
        ("delay", '"delay" is not understood'),
        ("delay=", "delay must be a number from 0 to 1000, with or without ms"),
        ("delay=20s", "delay must be a number"),
        ("delay=nan", "delay must be a number"),
        ("delay=-1", "delay must be a number"),
        ("delay=1001", "delay must be a number from 0 to 1000"),
        ("loss=51%", "loss must be a number from 0 to 50"),
        ("rate=0", "rate must be a number from 0.1 to 10000, with or without mbit"),
        ("rate=1gbit", "rate must be a number"),
        ("delay=1,delay=2", "delay is given twice"),
        ("delay=1ms,jitter=2ms", "the jitter is more than the delay"),
        ("jitter=2ms", "the jitter is more than the delay"),
        ("loss=0%", 'it changes nothing; "veth" says so'),
        ("veth,loss=1%", '"veth" is not understood'),
        ("corrupt=1%", '"corrupt=1%" is not understood'),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its words are asserted below
        parse(text)

    assert words in str(refused.value)
    assert str(refused.value).startswith(f'"{text}": ')


@given(
    st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 50), st.sampled_from([0, 0.1, 50])
)
def test_what_is_stored_reads_as_what_was_meant(
    delay: int, jitter: int, loss: int, rate: float
) -> None:
    conditions = Conditions(delay=delay, jitter=min(delay, jitter), loss=loss, rate=rate)

    assert parse(str(conditions)) == conditions


def test_the_kernels_own_words_are_those_of_tc_netem() -> None:
    conditions = parse("delay=20ms,jitter=2ms,loss=1%,rate=0.5mbit")

    assert netem(conditions, conditions.loss) == [
        "netem", "limit", "100", "delay", "20ms", "2ms", "loss", "1%", "rate", "500kbit",
    ]  # fmt: skip
    assert netem(conditions, 0) == [
        "netem", "limit", "100", "delay", "20ms", "2ms", "rate", "500kbit",
    ]  # fmt: skip


def test_a_queue_holds_what_is_under_way_and_a_tenth_of_a_second() -> None:
    """A shorter one would drop what is only delayed, a longer one would hide a bottleneck."""
    assert parse("delay=100ms,rate=50mbit").queued_frames == pytest.approx(826, abs=1)
    assert parse("rate=0.1mbit").queued_frames == 100
    assert parse("delay=1000ms").queued_frames == 20_000
