"""Each doubt about a run, from made-up evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadclient.clocks import Clock
from loadclient.histogram import Histogram
from loadclient.ledger import Account, Churned, Closed, Profile
from loadclient.options import Options
from loadclient.pacing import Schedule
from loadclient.protocol import Latencies, Settled, Snapshot
from loadclient.report import summary
from loadclient.result import RunResult
from loadclient.runner import Evidence
from loadclient.series import as_csv
from loadclient.server import Reading
from loadclient.stationarity import Windows
from loadclient.totals import Frames, Rest
from loadclient.verdict import Verdict

OPTIONS = Options(conns=2, duration=1, rate=10)
SENT = 640  # ten messages of 64 bytes
FRAMES = 720


def histogram(*values: int) -> Histogram:
    filled = Histogram()
    for value in values:
        filled.record(value)
    return filled


def settled(**changes: object) -> Settled:
    fair = Account(sender=0, due=10, sent_bytes=SENT, received_bytes=FRAMES)
    whole = Settled(
        accounts=[fair, replace(fair, sender=1)],
        ports=[],
        marks_seen=1,
        marks_missing=0,
        oldest_missing_due_ns=None,
        lost=0,
        duplicated=0,
        reordered=0,
        damaged=0,
        latencies=Latencies(histogram(5_000_000), histogram(4_000_000), histogram(7), histogram()),
        unacknowledged_bytes=0,
    )
    return replace(whole, **changes)


def evidence(**changes: object) -> Evidence:
    total = Snapshot(
        now_ns=2_000_000_000, offered=20, sent=20, sent_bytes=2 * SENT, received_bytes=2 * FRAMES,
        readers=2, frame_bytes=2 * FRAMES, own_frame_bytes=2 * FRAMES,
        last_received_ns=1_100_000_000, connections=2,
    )  # fmt: skip
    found = Evidence(
        run_id="made up",
        schedule=Schedule.lasting(1, start_ns=0, voices=OPTIONS.voices, burst=True),
        prefix_bytes={0: 8, 1: 8},
        connections=2,
        stopped=total,
        drained=total,
        worker_cpu_ns=[200_000_000],
        ended_ns=1_000_000_000,
        settled=[settled()],
    )
    return replace(found, **changes)


def judged(options: Options = OPTIONS, **changes: object) -> RunResult:
    return Verdict(options, evidence(**changes)).result()


def reading(**counters: float) -> Reading:
    return Reading("et", counters=dict(counters), gauges={"start_time_seconds": 1.0})


def test_a_clean_run_has_no_doubts() -> None:
    result = judged()

    assert result.valid
    assert result.warnings == []
    assert (result.delivery_ratio, result.message_rate) == (1.0, 20.0)
    assert result.drain_seconds == pytest.approx(0.1)
    assert result.client["busiest_cpu_share"] == pytest.approx(0.2)


OVERDUE = Snapshot(overdue=1)
DOUBTS = {
    "interrupted during measure": {"interrupted_in": "measure"},
    "it broadcasts nothing": {"no_evidence": "it broadcasts nothing"},
    "it went away": {"server_failure": "it went away"},
    "restarted": {
        "before": reading(messages_received_total=0.0),
        "after": replace(reading(messages_received_total=20.0), gauges={"start_time_seconds": 2}),
    },
    "enqueued 0 copies": {
        "before": reading(), "after": reading(messages_received_total=20.0),
    },
    "drain time was over": {"rest": Rest.MOVING},
    "could not be sent": {"drained": replace(evidence().drained, unsent_bytes=64)},
    "1 of the messages looked at were duplicated": {"settled": [settled(duplicated=1)]},
    "1 of the messages looked at were reordered": {"settled": [settled(reordered=1)]},
    "1 of the messages looked at were damaged": {"settled": [settled(damaged=1)]},
    "though the bytes add up": {"settled": [settled(lost=1)]},
    "had come to 19 of 20 messages": {"stopped": OVERDUE},
    "its sends were more than": {
        "settled": [settled(latencies=Latencies(
            histogram(), histogram(), histogram(100_000_001, 10**9), histogram()))],
    },
    "1 of 2 connections were ended by the server (1 reset, 0 closed)": {
        "settled": [settled(accounts=[
            replace(settled().accounts[0], closed=Closed.RESET), settled().accounts[1]])],
    },
}  # fmt: skip


@pytest.mark.parametrize("sentence", DOUBTS)
def test_each_doubt_is_a_sentence_and_makes_the_run_invalid(sentence: str) -> None:
    result = judged(**DOUBTS[sentence])

    assert not result.valid
    assert sentence in " | ".join(result.invalid_reasons)


def test_a_slow_reader_that_was_evicted_is_no_doubt() -> None:
    """Eviction is what a policy does to such readers; the copies it missed are counted."""
    evicted = Account(profile=Profile.SLOW, closed=Closed.EOF)
    result = judged(
        settled=[settled(accounts=[*settled().accounts, evicted])],
    )

    assert result.invalid_reasons == []
    assert result.lost_by_reason["closed"] == 20


def backlogged(looks: int, share: float) -> dict[str, object]:
    """Return evidence of two readers, each with unread bytes at some of four looks."""
    accounts = [
        replace(account, looks=4, unread_looks=looks, unread_look_bytes=looks * 10**6)
        for account in settled().accounts
    ]
    return {"settled": [settled(accounts=accounts)], "worker_cpu_ns": [int(share * 1e9)]}


def test_latencies_of_a_client_that_cannot_keep_up_reading_are_its_own() -> None:
    """Its sends were in time: only the bytes that it has not read betray it."""
    reasons = judged(**backlogged(4, 1.02)).invalid_reasons

    assert len(reasons) == 1
    assert reasons[0].startswith("the client itself was the bottleneck: a worker used 102%")
    assert "100% of its connections had bytes that it had not read (2.0 MB in all)" in reasons[0]


@pytest.mark.parametrize(("looks", "share"), [(4, 0.5), (1, 1.02), (0, 1.02)])
def test_being_busy_or_being_written_to_is_not_yet_being_late(looks: int, share: float) -> None:
    assert judged(**backlogged(looks, share)).valid


def test_a_message_sent_after_the_schedule_is_no_achievement() -> None:
    """The drain sends everything in the end: the offered rate would be called achieved."""
    accounts = [replace(account, sent_late=5) for account in settled().accounts]
    result = judged(settled=[settled(accounts=accounts)])

    assert (result.messages_sent, result.offered_rate) == (20, 20.0)
    assert (result.message_rate, result.bytes_per_second) == (10.0, 640.0)
    assert result.saturated
    assert result.valid
    assert result.warnings == ["saturated: achieved 10.0 of 20.0 messages/s offered"]


def test_what_was_due_to_an_ended_connection_is_not_the_drains_fault() -> None:
    """A killed daemon takes no more, however long the drain."""
    first, second = settled().accounts
    gone = replace(first, closed=Closed.RESET, due=15)
    reasons = judged(settled=[settled(accounts=[gone, second])]).invalid_reasons

    assert reasons[-1] == (
        "5 of 20 messages could not be sent, because the server had ended their connections"
    )
    assert "within the drain time" not in " ".join(reasons)


def test_what_was_due_to_an_evicted_slow_reader_is_a_circumstance() -> None:
    evicted = Account(profile=Profile.SLOW, closed=Closed.EOF, sender=2, due=5)
    result = judged(settled=[settled(accounts=[*settled().accounts, evicted])])

    assert result.invalid_reasons == []
    assert result.bytes_unsent == 320
    assert any("5 messages of slow and never-readers" in text for text in result.warnings)


@pytest.mark.parametrize(
    ("notice", "quoted"),
    [("[etltd] server is stopping", True), ("[etltd] rate limited, 3 messages dropped", False)],
)
def test_the_last_words_of_a_server_are_quoted(notice: str, *, quoted: bool) -> None:
    gone = replace(settled().accounts[0], closed=Closed.EOF)
    reasons = judged(
        drained=replace(evidence().drained, notice=notice),
        settled=[settled(accounts=[gone, settled().accounts[1]])],
    ).invalid_reasons

    assert (f'saying "{notice}"' in reasons[0]) is quoted


def test_lag_of_full_sockets_is_the_servers_and_no_doubt_about_us() -> None:
    blocked = Latencies(histogram(1), histogram(1), histogram(7), histogram(10**9))

    assert judged(settled=[settled(latencies=blocked)]).valid


def test_an_endless_run_is_not_late_for_its_end() -> None:
    assert judged(replace(OPTIONS, duration=0), stopped=OVERDUE).valid


def test_lateness_of_senders_that_differ_is_measured_by_what_they_were_to_send() -> None:
    """By the loudest one's rate, 10 of 149 that never left were 10 of 5,000: no lateness."""
    mix = Options(conns=50, duration=1, mix="1x100x64,49x1x64")
    schedule = Schedule.lasting(1, start_ns=0, voices=mix.voices, burst=True)
    result = judged(mix, schedule=schedule, stopped=Snapshot(overdue=10))

    assert "had come to 139 of 149 messages" in " | ".join(result.invalid_reasons)


def test_circumstances_are_warnings() -> None:
    result = judged(
        worker_cpu_ns=[900_000_000],
        environment={"steal_share": 0.5, "cpu_pressure_seconds": 0.9},
        settled=[settled(marks_missing=3, oldest_missing_due_ns=500_000_000)],
    )

    assert result.valid
    assert [warning.split()[0] for warning in result.warnings] == ["a", "the", "the", "3"]
    assert result.latency_censored == {"samples": 3, "oldest_age_seconds": 1.5}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (OPTIONS, "no marked message arrived"),
        (replace(OPTIONS, msg_bytes=16), "less than 32 bytes"),
        (replace(OPTIONS, recv=False), "receiving is off"),
    ],
)
def test_a_latency_that_is_missing_says_why(options: Options, reason: str) -> None:
    empty = Latencies(histogram(), histogram(), histogram(), histogram())
    result = judged(options, settled=[settled(latencies=empty)])

    assert reason in result.latency_absent_because
    assert result.latency_seconds is None


def test_thresholds_are_measured_and_unmeasured_ones_fail() -> None:
    options = replace(OPTIONS, max_p99=5.1, min_delivery_ratio=1.0)
    empty = Latencies(histogram(), histogram(), histogram(), histogram())
    blind = judged(options, settled=[settled(latencies=empty)]).thresholds

    assert [t.holds for t in judged(options).thresholds] == [True, True]
    assert [(t.measured, t.holds) for t in blind] == [(None, False), (1.0, True)]


def test_a_run_that_measured_nothing_reports_nothing() -> None:
    result = Verdict(OPTIONS, Evidence(run_id="a", no_evidence="silence")).result()

    assert result.invalid_reasons == ["silence"]
    assert (result.delivery_ratio, result.latency_seconds, result.drain_seconds) == (None,) * 3
    assert result.client["busiest_cpu_share"] is None


def test_the_server_section_has_the_growth_of_its_counters() -> None:
    result = judged(
        before=reading(messages_received_total=5, messages_enqueued_total=7),
        after=reading(messages_received_total=25, messages_enqueued_total=27),
    )

    assert result.invalid_reasons == []
    assert result.mode == "et"
    assert result.server["counters"]["messages_received_total"] == 20


@pytest.mark.parametrize(("msg_bytes", "warnings"), [(64, 0), (31, 1), (12, 1), (3, 2)])
def test_messages_too_short_for_a_time_or_a_number_say_so(msg_bytes: int, warnings: int) -> None:
    """Nobody would miss a latency that is a dash, nor a loss that was not looked for."""
    found = judged(replace(OPTIONS, msg_bytes=msg_bytes)).warnings
    spoken = [text for text in found if "cannot carry" in text]

    assert len(spoken) == warnings
    assert all(f"{msg_bytes} bytes" in text for text in spoken)


def test_a_threshold_that_was_not_measured_says_so() -> None:
    """It said `measured None`."""
    empty = Latencies(histogram(), histogram(), histogram(), histogram())
    result = judged(replace(OPTIONS, max_p99=5.0), settled=[settled(latencies=empty)])

    assert "FAILED        max_p99 5, not measured" in summary(result)


def test_a_server_that_changed_in_mid_phase_is_a_warning() -> None:
    changed = Windows(sums=[0.0] * 8 + [8.0] * 8, counts=[1] * 16)
    found = judged(settled=[settled(windows=changed)]).warnings

    assert [text.split(":")[0] for text in found] == ["not stationary"]


CHURNING = replace(OPTIONS, churn=4.0, server_metrics="http://127.0.0.1:1/metrics")


def test_who_came_and_went_is_accounted_for_by_the_servers_counters() -> None:
    came = Churned(dialled=3, connected=3, received=28, lived_ns=750_000_000)
    counted = {
        "before": reading(),
        "after": reading(messages_received_total=20, messages_enqueued_total=50),
        "settled": [settled(churned=came)],
    }
    known = judged(CHURNING, settled=counted["settled"]).churn
    joined = judged(CHURNING, **counted).churn
    blind = judged(CHURNING, **counted, schedule=None).churn

    assert (known["connected"], "owed" in known) == (3, False)
    assert (joined["owed"], joined["left_behind"]) == (30, 2)
    assert joined["owed_at_most"] < blind["owed_at_most"] == 60, "3 times all 20 messages"


def test_those_that_the_server_put_out_count_from_the_warm_up_on() -> None:
    """Their copies are owed to nobody, and the ledger would not balance."""
    put_out = {"connections_closed_total": {"slow_consumer": 2.0}}
    first, after = reading(), replace(reading(), counters=put_out)
    verdict = Verdict(OPTIONS, evidence(first=first, before=after, after=after))

    assert verdict._server_side({}).evicted == 2


@pytest.mark.parametrize("reason", ["slow_consumer", "bus"])
def test_a_drop_that_was_announced_is_no_contradiction(reason: str) -> None:
    """What was lost between instances is announced as much as what a slow reader misses."""
    first, other = settled().accounts
    short = replace(other, received_bytes=FRAMES - 3 * 72, announced=3)
    after = reading(messages_received_total=20.0, messages_enqueued_total=20.0)
    after.counters["messages_dropped_total"] = {reason: 3.0}

    told = judged(before=reading(), after=after, settled=[settled(accounts=[first, short])])
    untold = judged(before=reading(), after=after)

    assert (told.invalid_reasons, told.lost_by_reason["announced"]) == ([], 3)
    assert "dropped 3 copies of which it tells the clients" in " | ".join(untold.invalid_reasons)


def test_a_part_keeps_what_the_merge_needs() -> None:
    options = replace(OPTIONS, part="2/2", start_at=1.0, run_id="both")
    prefixes = dict.fromkeys(range(4), 8)
    clock = Clock("boot", None)
    part = judged(options, prefix_bytes=prefixes, clock=clock).part
    unbegun = judged(options, prefix_bytes=prefixes, clock=clock, schedule=None)

    assert (part["number"], part["of"], len(part["accounts"])) == (2, 2, 2)
    assert unbegun.part is not None
    assert judged().part is None


def test_the_text_has_what_was_lost_and_who_came_and_went() -> None:
    result = RunResult(
        run_id="a",
        lost=3,
        lost_by_reason={"closed": 3, "dropped": 0},
        churn={"connected": 5, "received": 7, "owed": 9, "left_behind": 2},
        merged={"parts": 2, "clock_uncertainty_seconds": 0.002},
    )
    unset = replace(
        result, lost_by_reason={}, merged={"parts": 2, "clock_uncertainty_seconds": None}
    )
    told = summary(result)

    assert "lost 3 (3 closed); of those looked at (sampled): duplicated 0" in told
    assert "5 connections received 7 copies; the server owed them 9 and 2 were still" in told
    assert "of 2 parts, whose clocks may differ by up to 2 ms" in told
    assert "lost 3 (none)" in summary(unset)
    assert "up to an unknown time: not all of their clocks are set" in summary(unset)


def test_the_series_has_a_row_for_each_look_and_its_own_seconds_latency() -> None:
    """A row of totals' percentiles would hide a stall behind everything before it."""
    first = Latencies(histogram(1_000_000), histogram(), histogram(1), histogram())
    both = Latencies(histogram(1_000_000, 9_000_000), histogram(), histogram(1, 3), histogram())
    looks = [
        (1.0, Snapshot(now_ns=10**9, sent=2, received_bytes=144, latencies=first)),
        (1.5, Snapshot(now_ns=10**9)),
        (2.0, Snapshot(now_ns=2 * 10**9, sent=4, received_bytes=288, latencies=both)),
        (3.0, Snapshot(now_ns=3 * 10**9, sent=4, received_bytes=288, latencies=both)),
    ]
    rows = as_csv(looks, 0, Frames.of({0: 8, 1: 8}, OPTIONS.voices)).splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]

    assert [row["seconds"] for row in table] == ["1.000", "2.000", "3.000"]
    assert [row["received"] for row in table] == ["2", "4", "4"]
    assert float(table[1]["latency_p50_seconds"]) == pytest.approx(0.009, rel=0.05)
    assert table[2]["latency_p50_seconds"] == ""
