from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient.histogram import Histogram
from loadclient.report import duration, figure, server_costs, summary
from loadclient.result import RunResult, Threshold, quantiles

words = st.text(max_size=20)
figures = st.floats(0, 1e12)
seconds = st.none() | st.dictionaries(st.sampled_from(["p50", "p99", "max"]), figures)
results = st.builds(
    RunResult,
    run_id=words,
    valid=st.booleans(),
    invalid_reasons=st.lists(words, max_size=3),
    messages_sent=st.integers(0, 1 << 50),
    delivery_ratio=st.none() | figures,
    latency_seconds=seconds,
    lost_by_reason=st.dictionaries(words, st.integers(0, 9), max_size=3),
    thresholds=st.lists(
        st.builds(
            Threshold, name=words, limit=figures, measured=st.none() | figures, holds=st.booleans()
        ),
        max_size=2,
    ),
)


@given(results)
def test_a_stored_result_is_the_same_result(result: RunResult) -> None:
    assert RunResult.from_json(result.to_json()) == result


def test_keys_of_a_later_version_are_passed_over() -> None:
    stored = json.loads(RunResult(run_id="a").to_json()) | {"novelty": 1}

    assert RunResult.from_json(json.dumps(stored)) == RunResult(run_id="a")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "etlt.run/2"}', "no json"])
def test_another_schema_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"etlt.run/1|Expecting"):
        RunResult.from_json(text)


def test_the_keys_that_others_rely_on_are_there() -> None:
    """Dashboards, scripts and `compare` read these."""
    promised = (
        "messages_offered, messages_sent, bytes_sent, elapsed_seconds, message_rate, "
        "bytes_per_second, messages_received, bytes_received, messages_expected, delivery_ratio, "
        "latency_seconds, latency_uncorrected_seconds, schedule_lag_seconds, lost, duplicated, "
        "reordered, valid, invalid_reasons, config, environment, server, schema"
    )

    assert set(promised.split(", ")) <= set(json.loads(RunResult(run_id="a").to_json()))


def test_percentiles_have_the_promised_names() -> None:
    histogram = Histogram()
    histogram.record(1_000_000_000)

    assert quantiles(histogram) == dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 1.0)
    assert quantiles(Histogram()) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (2.0, "2 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (7e-9, "7 ns"),
     (0.0, "0 ns")],
)  # fmt: skip
def test_a_duration_has_its_unit(value: float | None, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (12345.6, "12,346"), (0.12345, "0.123"), (0, "0")]
)
def test_a_figure_has_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_an_empty_run_is_no_division_by_zero() -> None:
    text = summary(RunResult(run_id="a", invalid_reasons=["nothing happened"], server={
        "counters": {"cpu_seconds_total": 1.0, "syscalls_total": {"recvfrom": 3}},
    }))  # fmt: skip

    assert "INVALID       nothing happened" in text
    assert "valid         " not in text


def test_every_doubt_is_printed() -> None:
    text = summary(
        RunResult(
            run_id="a",
            lost=3,
            lost_by_reason={"announced": 3, "closed": 0},
            duplicated=2,
            warnings=["the room is hot"],
            thresholds=[Threshold(name="max_p99", limit=5, measured=None, holds=False)],
            latency_absent_because="receiving is off",
        )
    )

    assert "lost 3 (3 announced)" in text
    assert "duplicated 2" in text
    assert "the room is hot" in text
    assert "FAILED        max_p99 5" in text
    assert "- receiving is off" in text


def test_loss_without_a_known_reason_is_printed_as_such() -> None:
    assert "lost 0 (none)" in summary(RunResult(run_id="a", damaged=1))


def test_a_sender_only_run_is_costed_by_what_the_server_delivered() -> None:
    result = RunResult(
        run_id="a",
        messages_sent=10,
        server={"counters": {"cpu_seconds_total": {"user": 1.0, "system": 1.0},
                             "messages_delivered_total": 100, "syscalls_total": {"recvfrom": 20}}},
    )  # fmt: skip

    assert server_costs(result) == {
        "cpu_ns_per_delivery": 2e7,
        "wakeups_per_message": 0.0,
        "syscalls_per_message": 2.0,
    }
    assert server_costs(RunResult(run_id="a")) is None
