"""What the client reads of others: the daemon's counters, the kernel's tables, the machine."""

from __future__ import annotations

import http.server
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from loadclient import environment, server
from loadclient.environment import Contention, describe
from loadclient.protocol import Latencies, Snapshot
from loadclient.queues import queued, unread_at_server
from loadclient.series import as_csv
from loadclient.totals import Frames, combined
from loadclient.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEFORE = """\
# TYPE etltd_build_info gauge
etltd_build_info{mode="et",version="0.1.0"} 1
# TYPE etltd_config_info gauge
etltd_config_info{mode="et",drain="eagain"} 1
# TYPE etltd_messages_received_total counter
etltd_messages_received_total{mode="et"} 5
# TYPE etltd_syscalls_total counter
etltd_syscalls_total{mode="et",syscall="recvfrom"} 7
# TYPE etltd_start_time_seconds gauge
etltd_start_time_seconds{mode="et"} 100.5
# TYPE etltd_tick_seconds histogram
etltd_tick_seconds_bucket{mode="et",le="+Inf"} 2
etltd_tick_seconds_count{mode="et"} 2
etltd_tick_seconds_sum{mode="et"} 0.5
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 9
"""
AFTER = BEFORE.replace("} 5", "} 25").replace(
    'recvfrom"} 7', 'recvfrom"} 17\netltd_syscalls_total{mode="et",syscall="close"} 3'
)


def test_counters_are_read_and_subtracted() -> None:
    before, after = server.parse(BEFORE), server.parse(AFTER)
    growth = after.since(before)

    assert (before.mode, before.build, before.config) == (
        "et", {"version": "0.1.0"}, {"drain": "eagain"},
    )  # fmt: skip
    assert growth["messages_received_total"] == 20
    assert growth["syscalls_total"] == {"recvfrom": 10, "close": 3}
    assert growth["tick_seconds_sum"] == 0
    assert server.count(growth, "syscalls_total") == 13
    assert server.count(growth, "syscalls_total", "close") == 3
    assert server.count(growth, "missing_total") == 0
    assert not after.restarted_after(before)
    assert server.parse("").restarted_after(before)


def test_a_counter_that_changes_shape_does_not_crash() -> None:
    """A restarted daemon of another version may label what was bare before."""
    bare = server.Reading(counters={"drops_total": 3})
    labelled = server.Reading(counters={"drops_total": {"slow": 5}})

    assert labelled.since(bare) == {"drops_total": {"slow": 5}}
    assert bare.since(labelled) == {"drops_total": 3}
    server._count(bare.counters, "drops_total", {"reason": "slow"}, 1.5)
    assert bare.counters == {"drops_total": 3}


class Exposition(http.server.BaseHTTPRequestHandler):
    """Answers each scrape with the next text, and the last one for ever."""

    texts: list[str]

    def do_GET(self) -> None:
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exposition() -> Iterator[tuple[str, list[str]]]:
    Exposition.texts = [BEFORE]
    with http.server.HTTPServer(("127.0.0.1", 0), Exposition) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/metrics", Exposition.texts
        web.shutdown()
        thread.join()


def test_a_reading_is_taken_at_rest(exposition: tuple[str, list[str]]) -> None:
    """While messages move, two scrapes differ, and neither is the end."""
    url, texts = exposition
    texts[:] = [BEFORE, BEFORE.replace("} 5", "} 15"), AFTER]

    assert server.read_at_rest(url, 10).counters["messages_received_total"] == 25


def test_a_server_that_never_rests_is_read_all_the_same(exposition: tuple[str, list[str]]) -> None:
    url, texts = exposition
    texts[:] = [BEFORE, AFTER]

    assert server.read_at_rest(url, 0).counters["messages_received_total"] == 25


def test_a_long_tick_is_not_taken_for_rest(exposition: tuple[str, list[str]]) -> None:
    """Two equal readings can lie within one tick of a busy server."""
    url, texts = exposition
    texts[:] = [BEFORE, BEFORE, BEFORE, AFTER]

    assert server.read_at_rest(url, 10, processed=25).processed == 25


def test_somebody_elses_metrics_are_refused(exposition: tuple[str, list[str]]) -> None:
    url, texts = exposition
    texts[:] = ["# TYPE up gauge\nup 1\n"]

    with pytest.raises(server.ServerUnreadableError, match="not the daemon's"):
        server.read(url)


def test_nonsense_is_refused_with_the_url(exposition: tuple[str, list[str]]) -> None:
    url, texts = exposition
    texts[:] = ["{]"]

    with pytest.raises(server.ServerUnreadableError, match=url):
        server.read(url)


def test_unread_bytes_are_seen_in_the_kernels_table() -> None:
    """Acknowledged is not processed: these bytes the server never asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"x" * 1234)
                mine = client.getsockname()[1]

                assert unread_at_server(port, [mine]) == 1234
                assert unread_at_server(port, []) is None
                assert unread_at_server(mine, [port]) == 0


def test_rows_of_others_are_not_counted() -> None:
    table = (
        "sl local remote st queues\n"
        " 0: 0100007F:2328 0100007F:C000 01 00000000:000000FF 00:0\n"
        " 1: 0100007F:2329 0100007F:C000 01 00000000:000000FF 00:0\n"
        " 2: 0100007F:2328 0100007F:C001 01 00000000:00000001 00:0\n"
    )

    assert queued(table, 9000, [0xC000]) == [255]


def test_the_environment_is_complete() -> None:
    """What must be equal before two results may be compared."""
    found = describe(Contention.now())

    assert found["cores"] >= 1
    assert found["sysctls"]["net.core.somaxconn"].isdigit()
    assert 0 <= found["steal_share"] <= 1
    assert {"kernel", "cpu", "governor", "mitigations", "python", "load_average", "nofile",
            "commit", "cpu_pressure_seconds"} <= set(found)  # fmt: skip


def test_a_machine_that_hides_its_state_is_described_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers mask /proc and /sys; outside a checkout there is no commit."""
    nothing = tmp_path / "nothing"
    for name in ("GOVERNOR", "MITIGATIONS", "PRESSURE", "CPUINFO", "STAT"):
        monkeypatch.setattr(environment, name, nothing)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    found = describe(Contention.now())

    assert found["governor"] is None
    assert found["mitigations"] == {}
    assert found["cpu_pressure_seconds"] is None
    assert found["steal_share"] == 0
    assert found["commit"] is None
    assert found["cpu"]


def test_a_broken_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / ".git").write_text("gitdir: nowhere\n")

    assert environment.commit() is None


def test_totals_add_counts_and_take_the_latest_time() -> None:
    total = combined([
        Snapshot(now_ns=5, sent=2, notice="", last_received_ns=9),
        Snapshot(now_ns=7, sent=3, notice="[etltd] server is stopping"),
    ])  # fmt: skip

    assert (total.now_ns, total.sent, total.last_received_ns) == (7, 5, 9)
    assert total.notice == "[etltd] server is stopping"
    assert total.latencies is None


def test_a_phase_is_complete_when_nothing_is_owed() -> None:
    frames = Frames.of({0: 8, 1: 9}, Voices.alike(2, 20, 64))
    owed = Snapshot(readers=3, frame_bytes=1000, own_frame_bytes=1000, received_bytes=1990)

    assert not frames.complete(owed)
    assert frames.complete(Snapshot(readers=0))
    assert not frames.complete(Snapshot(unsent_bytes=1))
    assert not frames.complete(Snapshot(overdue=1))
    assert frames.complete(combined([owed, Snapshot(received_bytes=10)]))
    assert frames.complete(combined([owed, Snapshot(announced=1)]))


def test_looks_without_histograms_make_no_row() -> None:
    assert as_csv([(0.0, Snapshot())], 0, Frames.of({}, Voices.alike(2, 20, 64))).count("\n") == 1
    assert Latencies.__slots__ == ("corrected", "uncorrected", "lag", "lag_blocked")
