"""The tick on real sockets, in both modes."""

from __future__ import annotations

import contextlib
import resource
import socket
from time import monotonic_ns
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etltd import reactor as reactor_module
from etltd import wire
from etltd.listener import bind_unix
from etltd.stats import CloseReason
from tests.daemon.rig import Peer, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from etltd.broadcast import Batch
    from etltd.connection import Connection


# -- the wire ----


def test_everybody_else_hears_a_line_and_nobody_hears_itself(rig: Rig) -> None:
    anna, bert, carl = rig.dial_many(3)

    anna.say(b"hello\n")
    rig.tick_until(lambda: carl.hear() and bert.hear())

    assert bert.inbox == carl.inbox == b"[USER1] hello\n"
    assert anna.hear() == b""


def test_two_speakers_in_one_tick_hear_each_other(rig: Rig) -> None:
    """The batch is shared; the slices around a sender's own lines must be the right ones."""
    anna, bert, carl = rig.dial_many(3)
    anna.say(b"a1\na2\n")
    bert.say(b"b1\n")
    carl.say(b"c1\n")

    rig.settle()

    assert sorted(anna.hear().split()) == sorted(b"[USER2] b1 [USER3] c1".split())
    assert bert.hear().replace(carl.user + b"c1\n", b"") == b"[USER1] a1\n[USER1] a2\n"
    assert sorted(carl.hear().splitlines()) == [b"[USER1] a1", b"[USER1] a2", b"[USER2] b1"]


@pytest.mark.parametrize(
    "line",
    [b"\n", b"\r\n", b"\x00\xff\xfe\n", b"[etltd] server is stopping\n", b"  spaces  \n"],
    ids=["empty", "crlf", "binary", "forged notice", "spaces"],
)
def test_a_line_is_passed_on_byte_for_byte(rig: Rig, line: bytes) -> None:
    anna, bert = rig.dial_many(2)

    anna.say(line)
    rig.tick_until(bert.hear)

    assert bert.inbox == b"[USER1] " + line


def test_a_line_split_anywhere_arrives_once_and_whole(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)

    for byte in b"split\nme\n":
        anna.say(bytes([byte]))
        rig.tick()
    rig.tick_until(lambda: bert.hear().count(b"\n") == 2)

    assert bert.inbox == b"[USER1] split\n[USER1] me\n"


def test_last_words_before_fin_are_delivered(rig: Rig) -> None:
    """Closing on RDHUP, or dropping the batch of a leaver, loses what it said last."""
    anna, bert = rig.dial_many(2)

    anna.say(b"goodbye\n")
    anna.close()
    rig.tick_until(bert.hear)

    assert bert.inbox == b"[USER1] goodbye\n"


def test_after_half_close_a_peer_still_listens(rig: Rig) -> None:
    """`echo hi | nc` would not see an answer."""
    anna, bert = rig.dial_many(2)
    anna.say(b"question\n")
    anna.finish()
    rig.tick_until(bert.hear)

    bert.say(b"answer\n")
    rig.tick_until(anna.hear)

    assert anna.inbox == b"[USER2] answer\n"
    assert not anna.at_end
    assert len(rig.reactor.connections) == 2


def test_half_closed_peer_does_not_make_the_loop_spin(rig: Rig) -> None:
    """EOF stays readable for ever under level-triggered."""
    anna, _ = rig.dial_many(2)
    anna.finish()
    rig.settle()
    rig.tick_until(lambda: not rig.tick(0.01))  # whatever edge is left

    assert [rig.tick(0.01) for _ in range(3)] == [0, 0, 0]


def test_words_without_newline_at_the_end_are_counted_not_sent(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)

    anna.say(b"whole\nhalf")
    anna.finish()
    rig.tick_until(lambda: rig.stats.messages_discarded["truncated"])

    assert bert.hear() == b"[USER1] whole\n"
    assert rig.stats.messages_discarded["truncated"] == 1


def test_reset_in_mid_line_is_counted_and_hurts_nobody(rig: Rig) -> None:
    anna, bert, carl = rig.dial_many(3)
    anna.say(b"half a li")
    rig.tick_until(lambda: rig.stats.received_bytes == 9)

    anna.reset()
    rig.tick_until(lambda: rig.stats.connections_closed["reset"])
    bert.say(b"still here\n")
    rig.tick_until(carl.hear)

    assert carl.inbox == b"[USER2] still here\n"
    assert rig.stats.messages_discarded["truncated"] == 1


def test_reset_right_after_a_line(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)
    anna.say(b"bang\n")
    anna.reset()
    rig.tick_until(lambda: rig.stats.connections_closed["reset"])

    # The kernel may throw unread input away with the reset; a torn line would be wrong.
    assert bert.hear() in {b"", b"[USER1] bang\n"}


def test_too_long_line_costs_its_sender_a_notice_and_nothing_else(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(max_line_bytes=16)
    anna, bert = rig.dial_many(2)

    anna.say(b"x" * 100 + b"\nshort\n")
    rig.tick_until(lambda: anna.hear() and bert.hear())

    assert anna.inbox == b"[etltd] line too long, discarded\n"
    assert bert.inbox == b"[USER1] short\n"
    assert rig.stats.messages_discarded["too_long"] == 1


def test_twenty_thousand_lines_in_one_burst_then_silence(rig: Rig) -> None:
    """Under edge-triggered, whatever a bounded turn leaves unread nobody mentions again."""
    anna, bert = rig.dial_many(2)
    lines = [b"%d\n" % i for i in range(20_000)]
    burst = memoryview(b"".join(lines))

    def push() -> bool:
        nonlocal burst
        if burst:
            with contextlib.suppress(BlockingIOError):
                burst = burst[anna.sock.send(burst) :]
        return bert.hear().count(b"\n") == 20_000

    rig.tick_until(push)

    assert bert.inbox == b"".join(b"[USER1] " + line for line in lines)


RESET = object()
SCRIPT: list[tuple[int, bytes | object | None]] = [
    (0, b"one\ntwo\nth"),
    (1, b"\r\n\n"),
    (0, b"ree\n"),
    (2, b"x" * 70_000 + b"\nafter\n"),
    (1, bytes(range(256)) + b"\n"),
    (3, b"bye\nunfinished"),
    (3, None),
    (0, b"many\n" * 3_000),
    (1, b"whole\nhalf a li"),
    (1, RESET),
    (2, b"end\n"),
]


def test_both_modes_give_every_peer_the_same_bytes() -> None:
    """The differential test: one script, two modes, equal transcripts."""
    transcripts = []
    for mode in ("lt", "et"):
        rig = Rig(mode)
        peers = rig.dial_many(5)
        for speaker, words in SCRIPT:
            if words is RESET:
                peers[speaker].reset()
                rig.tick_until(lambda: rig.stats.connections_closed["reset"])
            elif words is None:
                peers[speaker].finish()
            else:
                peers[speaker].say(words)
            rig.settle()
        transcripts.append([peer.hear() for peer in peers])
        assert rig.stats.messages_discarded["truncated"] == 2  # unfinished, and half a li
        rig.close()

    assert transcripts[0] == transcripts[1]
    assert transcripts[0][4].endswith(b"[USER2] whole\n[USER3] end\n")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(
                st.binary(max_size=30), st.sampled_from([b"a\n", b"\n\n", b"x" * 40 + b"\n"])
            ),
        ),
        max_size=12,
    )
)
def test_any_script_gives_both_modes_the_same_transcript(script: list[tuple[int, bytes]]) -> None:
    transcripts = []
    for mode in ("lt", "et"):
        rig = Rig(mode, max_line_bytes=32, recv_bytes=7)
        peers = rig.dial_many(3)
        for speaker, words in script:
            peers[speaker].say(words)
            rig.settle()
        transcripts.append([peer.hear() for peer in peers])
        rig.close()

    assert transcripts[0] == transcripts[1]


# -- traps of edge-triggered ----


def test_bytes_left_by_a_bounded_read_are_not_stranded(make_rig: Callable[..., Rig]) -> None:
    """An ET loop that forgets an unfinished turn leaves them until the peer speaks again."""
    rig = make_rig(recv_bytes=16, reads_per_event=2)
    anna, bert = rig.dial_many(2)

    anna.say(b"0123456789\n" * 50)
    rig.tick_until(lambda: bert.hear().count(b"\n") == 50, max_ticks=100)

    assert bert.inbox == b"[USER1] 0123456789\n" * 50


def test_end_of_input_behind_a_short_read_is_noticed(make_rig: Callable[..., Rig]) -> None:
    """Data and FIN queued together give one edge; stopping at the short read loses the EOF."""
    rig = make_rig(drain="short-read", reads_per_event=16)
    anna, bert = rig.dial_many(2)

    anna.say(b"last\n")
    anna.finish()
    rig.tick_until(lambda: anna.conn.ended, max_ticks=20)

    assert bert.hear() == b"[USER1] last\n"


def test_end_of_input_behind_a_budget_and_a_short_read_is_noticed(
    make_rig: Callable[..., Rig],
) -> None:
    """RDHUP comes once; the turn that saw it may end on its budget before the EOF."""
    rig = make_rig(drain="short-read", reads_per_event=1, recv_bytes=16)
    anna, bert = rig.dial_many(2)

    anna.say(b"0123456789abcde\nshort\n")
    anna.finish()
    rig.tick_until(lambda: anna.conn.ended, max_ticks=20)

    assert bert.hear() == b"[USER1] 0123456789abcde\n[USER1] short\n"


def test_a_peer_that_left_altogether_behind_a_budget_is_noticed(mode: str) -> None:
    """HUP too comes once under ET: a Unix peer that closed must not stay as a ghost."""
    rig = Rig(mode, reads_per_event=1, recv_bytes=4)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    conn = rig.reactor.roster.admit(ours, "", now_ns=0)
    assert conn is not None
    rig.reactor.watch(conn)
    theirs.sendall(b"abcdefg\n")
    theirs.close()

    rig.tick_until(lambda: rig.stats.connections_closed["eof"], max_ticks=20)

    assert rig.stats.messages_received == 1
    rig.close()


def test_short_reads_save_the_reads_that_find_nothing() -> None:
    eagain = {}
    for drain in ("eagain", "short-read"):
        rig = Rig("et", drain=drain)
        anna, bert = rig.dial_many(2)
        for i in range(23):
            anna.say(b"x\n")
            rig.tick_until(lambda i=i: bert.hear().count(b"\n") == i + 1)
        eagain[drain] = rig.stats.syscall_eagain["recvfrom"]
        rig.close()

    assert eagain["eagain"] == 23
    assert eagain["short-read"] == 0


def test_out_that_comes_along_with_in_is_not_a_write_wakeup() -> None:
    """Once registered, OUT rides on every IN edge; acting on it would write nothing, often."""
    rig = Rig("et")
    anna, bert = rig.dial_many(2)
    rig.tick_until(lambda: rig.stats.epoll_events["out"] == 2)  # the edge after each registration
    for i in range(23):
        anna.say(b"x\n")
        rig.tick_until(lambda i=i: bert.hear().count(b"\n") == i + 1)

    assert rig.stats.epoll_events["in"] == 23
    assert rig.stats.epoll_events["out"] == 2
    assert rig.stats.syscalls["sendmsg"] == 0
    rig.close()


def test_stale_event_does_not_hit_a_reused_fd(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor closed in mid-batch comes back as a new peer's, with the old one's event."""
    anna, bert = rig.dial_many(2)
    old_fd = anna.conn.fd
    real = rig.reactor.watch
    fds_in_tick: list[int] = []

    def watch(conn: Connection) -> None:
        fds_in_tick.append(conn.fd)
        real(conn)

    monkeypatch.setattr(rig.reactor, "watch", watch)
    anna.reset()
    sock = rig.connect()
    rig.tick_until(lambda: rig.stats.connections_closed["reset"] and fds_in_tick)

    assert fds_in_tick != [old_fd]
    bert.say(b"hello\n")
    newcomer = Peer(sock, max(rig.reactor.connections.values(), key=lambda c: c.id))
    rig.tick_until(newcomer.hear)
    assert newcomer.inbox == b"[USER2] hello\n"
    assert rig.stats.connections_closed["reset"] == 1


def test_nothing_closes_before_the_reap(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1, for peers that go while others have their turn."""
    anna, bert, carl = rig.dial_many(3)
    closed_while_reaping: list[bool] = []
    reaping = False
    real_reap, real_close = rig.reactor.roster.reap, rig.reactor.roster._close

    def reap() -> None:
        nonlocal reaping
        reaping = True
        real_reap()
        reaping = False

    def close(sock: socket.socket) -> None:
        closed_while_reaping.append(reaping)
        real_close(sock)

    monkeypatch.setattr(rig.reactor.roster, "reap", reap)
    monkeypatch.setattr(rig.reactor.roster, "_close", close)
    anna.reset()
    bert.say(b"x\n")
    rig.tick_until(lambda: rig.stats.connections_closed["reset"])

    assert closed_while_reaping == [True]
    rig.tick_until(carl.hear)
    assert all(c.sock.fileno() >= 0 for c in rig.reactor.connections.values())


def test_fingerprint_of_the_mode(mode: str) -> None:
    """What a comparison checks before it believes that a mode was in force."""
    rig = Rig(mode, sndbuf=4096)
    anna, slow = rig.dial(), rig.dial(rcvbuf=4096)
    rig.fill(slow, anna)
    rig.tick_until(lambda: slow.hear() and slow.conn.outbox is None)
    for i in range(23):
        anna.say(b"x\n")
        rig.tick_until(lambda i=i: slow.hear().endswith(b"[USER1] x\n" * (i + 1)))
    stats = rig.stats

    if mode == "lt":
        assert stats.epoll_ctl["mod"] >= 2  # OUT on, OUT off
        assert stats.syscall_eagain["recvfrom"] == 0
    else:
        assert stats.epoll_ctl["mod"] == 0
        drained = stats.messages_received  # one message an event here
        assert stats.syscall_eagain["recvfrom"] == drained
    rig.close()


# -- fairness ----


def test_a_flooding_peer_does_not_stop_the_others(make_rig: Callable[..., Rig]) -> None:
    """Draining a peer that sends as fast as it is read would never end."""
    rig = make_rig(recv_bytes=1024, reads_per_event=4)
    flood, anna, bert = rig.dial_many(3)
    block = b"y" * 63 + b"\n"

    def keep_flooding() -> bool:
        try:
            while True:
                flood.sock.send(block * 64)
        except BlockingIOError:
            return True

    keep_flooding()
    anna.say(b"am I heard?\n")
    rig.tick_until(
        lambda: keep_flooding() and anna.user + b"am I heard?\n" in bert.hear(), max_ticks=50
    )


def test_what_a_tick_joins_is_bounded_and_nobody_waits_for_ever(
    rig: Rig,
) -> None:
    """A line of one byte grows twelvefold: floods from everybody would be joined in one batch."""
    rig.reactor._most_batch_bytes = 4096
    floods = rig.dial_many(8)
    talker, listener = rig.dial_many(2)
    batches: list[Batch] = []
    rig.reactor.delivery.fan_out = batches.append  # type: ignore[method-assign]
    for flood in floods:
        flood.say(b"\n" * 2000)
    talker.say(b"am I heard?\n")

    for _ in range(30):
        for flood in floods:
            flood.say(b"\n" * 20)
        rig.tick(0)

    senders = [sender for batch in batches for sender in batch.spans]
    sizes = [batch.size for batch in batches]
    assert max(sizes) <= 4096 + 2000 * len(b"[USER1] \n") + 30 * 20 * len(b"[USER1] \n")
    assert len(batches[0].spans) == 1, "the others waited"
    assert talker.conn.id in senders
    first = [senders.index(flood.conn.id) for flood in floods]
    assert max(first) < len(floods) + 1, "everybody had a turn before anybody had a second one"
    assert listener.conn.close_reason is None


def test_who_speaks_in_time_is_not_idle_though_its_turn_is_put_off(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(idle_timeout=0.2)
    rig.reactor._most_batch_bytes = 4096
    peers = rig.dial_many(10)
    began = monotonic_ns()
    while monotonic_ns() - began < 0.3e9:
        rig.tick(0.02)
    for peer in peers:
        peer.say(b"\n" * 2000)

    rig.tick()
    rig.reactor.do_chores(rig.reactor.ticked_ns)

    assert rig.reactor.deferred
    assert not any(rig.stats.connections_closed.values())
    rig.settle()
    assert rig.stats.messages_received == 20_000


def test_two_ticks_fit_into_what_may_wait_for_the_bus(make_rig: Callable[..., Rig]) -> None:
    """A batch that is larger than that would be dropped as soon as anything waits."""
    alone, on_a_bus = (
        make_rig(bus=bus, bus_buffer_bytes=1 << 20).reactor for bus in ("", "nats://127.0.0.1")
    )

    assert alone._most_batch_bytes == reactor_module.MOST_BATCH_BYTES
    assert on_a_bus._most_batch_bytes == 1 << 19


def test_a_turn_that_is_put_off_is_counted_once(rig: Rig) -> None:
    """`loadclient compare` takes events and revisits for the turns of a drained peer."""
    rig.reactor._most_batch_bytes = 4096
    peers = rig.dial_many(20)
    before = rig.stats.epoll_events["in"]
    for peer in peers:
        peer.say(b"\n" * 2000)

    rig.settle()

    assert rig.stats.revisits == 0
    if rig.config.mode == "et":
        assert rig.stats.epoll_events["in"] - before == len(peers)


def test_a_turn_is_an_events_or_a_revisit_and_not_both(make_rig: Callable[..., Rig]) -> None:
    """`loadclient compare` takes their sum for the turns that ended on a read in vain."""
    rig = make_rig(recv_bytes=8, reads_per_event=2)
    talker, _ = rig.dial_many(2)
    before = rig.stats.epoll_events["in"]

    talker.say(b"x" * 39 + b"\n")
    rig.tick()
    talker.say(b"an event while there is more\n")
    rig.settle()

    turns = rig.stats.epoll_events["in"] - before + rig.stats.revisits
    assert turns == (69 + 15) // 16


@pytest.mark.parametrize("talkers", [1, 3])
def test_a_message_leaves_in_the_tick_in_which_it_came(rig: Rig, talkers: int) -> None:
    """Batching waits for nothing: a message to 100 is not held back until there are more."""
    peers = rig.dial_many(100)
    stats = rig.stats
    for turn in range(10):
        received, delivered = stats.messages_received, stats.messages_delivered
        for peer in peers[turn : turn + talkers]:
            peer.say(b"now\n")
        while stats.messages_received == received:
            rig.tick()

        owed = 99 * (stats.messages_received - received)
        assert stats.messages_delivered - delivered == owed
        assert not stats.outbox_messages
        rig.tick_until(lambda r=received: stats.messages_received == r + talkers)
    assert stats.syscalls["sendto"] + stats.syscalls["sendmsg"] <= 100 * stats.epoll_wakeups


# -- slow consumers ----


@pytest.fixture
def small(make_rig: Callable[..., Rig]) -> Iterator[Rig]:
    """Small kernel buffers: they would hide the first megabytes of a slow reader."""
    return make_rig(sndbuf=4096, high_water_bytes=20_000)


def test_a_peer_that_stops_reading_is_told_how_much_it_missed(small: Rig) -> None:
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    line = b"x" * 999 + b"\n"
    said = small.fill(slow, anna, line)
    while not slow.conn.withheld:
        anna.say(line)
        said += 1
        small.tick_until(lambda: small.stats.messages_received == said)
    for _ in range(7):
        anna.say(line)
        said += 1
        small.tick_until(lambda: small.stats.messages_received == said)
    missed = small.stats.messages_dropped["slow_consumer"]
    small.assert_ledger()

    small.tick_until(lambda: slow.hear().endswith(b"dropped\n"))
    anna.say(b"welcome back\n")
    small.tick_until(lambda: slow.hear().endswith(b"welcome back\n"))

    *got, notice, last = slow.inbox.splitlines(keepends=True)
    assert set(got) == {b"[USER1] " + line}
    assert len(got) + missed == said
    assert notice == b"[etltd] %d messages dropped\n" % missed
    assert last == b"[USER1] welcome back\n"


def test_after_a_drop_nothing_overtakes_the_notice(small: Rig) -> None:
    """A short line would still fit; sent on, it would hide where the gap is."""
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    line = b"x" * 999 + b"\n"
    said = small.fill(slow, anna, line)
    while not slow.conn.withheld:
        anna.say(line)
        said += 1
        small.tick_until(lambda: small.stats.messages_received == said)
    anna.say(b"tiny\n")
    small.tick_until(lambda: small.stats.messages_received == said + 1)

    assert slow.conn.withheld == 2
    small.tick_until(lambda: slow.hear().endswith(b"[etltd] 2 messages dropped\n"))


def test_one_slow_reader_does_not_hurt_the_others(small: Rig) -> None:
    anna, bert, slow = small.dial(), small.dial(), small.dial(rcvbuf=4096)
    line = b"x" * 999 + b"\n"
    for i in range(200):
        anna.say(line)
        small.tick_until(lambda i=i: small.stats.messages_received == i + 1)
        bert.hear()

    small.tick_until(lambda: bert.hear().count(b"\n") == 200)
    assert slow.conn.withheld
    assert slow.conn.outbox is not None
    assert slow.conn.outbox.size <= 20_000 + 1008  # high water and the rest of one batch


def test_one_slow_reader_is_evicted_alone(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(sndbuf=4096, high_water_bytes=20_000, slow_consumer="evict")
    anna, bert, slow = rig.dial(), rig.dial(), rig.dial(rcvbuf=4096)
    line = b"x" * 999 + b"\n"
    said = 0
    while not rig.stats.connections_closed["slow_consumer"]:
        anna.say(line)
        said += 1
        rig.tick_until(lambda: rig.stats.messages_received == said)
        assert said < 1000

    rig.tick_until(lambda: bert.hear().count(b"\n") == said)
    assert len(rig.reactor.connections) == 2
    assert rig.stats.messages_dropped["evicted"] > 0
    assert rig.stats.messages_dropped["slow_consumer"] == 0
    assert slow.hear().startswith(b"[USER1] ")


def test_a_short_write_loses_and_tears_nothing(small: Rig) -> None:
    """The C original ignores write()'s result here."""
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    said = small.fill(slow, anna)

    small.tick_until(lambda: slow.hear().count(b"\n") == said)

    assert slow.inbox == (b"[USER1] " + b"x" * 1023 + b"\n") * said
    assert small.stats.outbox_bytes == 0


def test_what_a_leaving_slow_reader_was_owed_is_counted(small: Rig) -> None:
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    small.fill(slow, anna)
    owed = small.stats.outbox_messages

    slow.reset()
    small.tick_until(lambda: small.stats.connections == 1)

    assert owed >= 1
    assert small.stats.messages_dropped["closed"] == owed


def test_notices_do_not_grow_the_outbox_of_a_peer_that_does_not_read(
    make_rig: Callable[..., Rig],
) -> None:
    """A flood of too long lines would otherwise buy memory, a notice each."""
    rig = make_rig(sndbuf=4096, high_water_bytes=1000, max_line_bytes=4)
    rude = rig.dial(rcvbuf=4096)
    sent = 0
    while sent < 4000:
        rude.say(b"too long\n" * 50)
        sent += 50
        rig.tick_until(lambda: rig.stats.messages_discarded["too_long"] == sent)

    assert rude.conn.outbox is not None
    assert rude.conn.outbox.size <= 1000 + 50 * 64


def test_after_half_close_a_slow_reader_gets_all_it_is_owed(small: Rig) -> None:
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    slow.finish()
    said = small.fill(slow, anna)

    small.tick_until(lambda: slow.hear().count(b"\n") == said)


# -- fan-out control ----


def test_message_by_message_fan_out_delivers_the_same_with_a_write_each(mode: str) -> None:
    heard, writes = {}, {}
    for fan_out in ("batch", "message"):
        rig = Rig(mode, fan_out=fan_out)
        anna, bert, carl = rig.dial_many(3)
        anna.say(b"a\nb\nc\n")
        carl.say(b"d\n")
        rig.settle()
        heard[fan_out] = sorted(bert.hear().splitlines()), anna.hear(), carl.hear()
        writes[fan_out] = rig.stats.syscalls["sendto"] + rig.stats.syscalls["sendmsg"]
        assert rig.stats.messages_delivered == 8
        rig.close()

    assert heard["batch"] == heard["message"]
    assert writes == {"batch": 3, "message": 8}


# -- limits ----


def test_one_too_many_is_told_so_and_the_others_stay(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections=2)
    anna, bert = rig.dial_many(2)

    extra = rig.connect()
    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections"])

    assert extra.recv(100) == b"[etltd] too many connections\n"
    assert extra.recv(100) == b""
    anna.say(b"still here\n")
    rig.tick_until(bert.hear)
    assert rig.stats.connections_accepted == 2


def test_ids_are_never_reused_and_the_rejected_take_none(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections=1)
    rig.dial().reset()
    rig.tick_until(lambda: not rig.reactor.connections)
    rig.dial()
    rig.connect()
    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections"])
    rig.reactor.close_all(CloseReason.SHUTDOWN)

    assert rig.dial().conn.id == 3


def test_a_single_address_cannot_take_every_place(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections_per_ip=1)
    first = rig.dial()
    extra = rig.connect()
    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections_per_ip"])
    assert extra.recv(100) == b"[etltd] too many connections\n"

    other = socket.socket()
    other.bind(("127.0.0.2", 0))
    other.connect(rig.listener.sock.getsockname())
    rig.spare.append(other)
    rig.tick_until(lambda: rig.stats.connections == 2)

    first.reset()
    rig.tick_until(lambda: rig.stats.connections == 1)
    rig.dial()


def test_a_talkative_peer_is_limited_and_told(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_limit=10)
    anna, bert = rig.dial_many(2)

    anna.say(b"x\n" * 23)
    rig.tick_until(lambda: bert.hear().count(b"\n") == 10)
    rig.reactor.do_chores(rig.reactor.ticked_ns)
    rig.tick_until(anna.hear)

    assert anna.inbox == b"[etltd] rate limited, 13 messages dropped\n"
    assert rig.stats.messages_discarded["rate_limited"] == 13
    assert rig.stats.messages_received == 10


def test_only_idle_peers_are_disconnected(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(idle_timeout=5)
    quiet, anna = rig.dial_many(2)
    second = 1_000_000_000
    now = rig.reactor.ticked_ns
    anna.conn.heard_ns = now + 4 * second

    rig.reactor.do_chores(now + 6 * second)

    assert rig.stats.connections_closed["idle"] == 1
    assert quiet.hear() == b""
    assert quiet.at_end
    assert list(rig.reactor.connections.values()) == [anna.conn]


def test_running_out_of_descriptors_pauses_accepting_without_spinning(rig: Rig) -> None:
    """Level-triggered, a backlog that cannot be emptied would wake the loop for ever."""
    anna = rig.dial()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = rig.connect()
    free = socket.socket()
    lowest_free = free.fileno()
    free.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        rig.tick()
        waits = rig.stats.epoll_waits
        assert rig.stats.connections_rejected["no_descriptors"] == 1
        assert not rig.reactor.is_accepting
        assert rig.tick(0.01) == 0
        assert rig.stats.epoll_waits == waits + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    rig.reactor.do_chores(rig.reactor.ticked_ns)
    assert not rig.reactor.is_accepting, "it must wait before it tries again"
    rig.reactor.do_chores(rig.reactor.ticked_ns + reactor_module.ACCEPT_PAUSE_NS)
    rig.tick_until(lambda: rig.stats.connections == 2)
    anna.say(b"welcome\n")
    rig.tick_until(lambda: rig.stats.messages_delivered)
    assert waiting.recv(100) == b"[USER1] welcome\n"


# -- stopping ----


def test_a_stop_says_goodbye_at_a_message_boundary(small: Rig) -> None:
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    said = small.fill(slow, anna)

    small.reactor.stop_accepting()
    small.reactor.stop_reading()
    small.reactor.announce(b"[etltd] server is stopping\n")
    small.tick_until(lambda: slow.hear().endswith(b"stopping\n"))
    small.reactor.delivery.finish_output()
    small.tick_until(lambda: not small.reactor.delivery.unacknowledged_bytes())

    assert slow.inbox.count(b"\n") == said + 1
    slow.hear()
    assert slow.at_end


def test_after_stop_reading_unread_input_does_not_make_the_loop_spin(rig: Rig) -> None:
    anna, _ = rig.dial_many(2)
    rig.reactor.stop_reading()
    anna.say(b"too late\n")
    rig.tick_until(lambda: not rig.tick(0.02), max_ticks=10)  # an edge may be reported, once

    assert [rig.tick(0.02) for _ in range(3)] == [0, 0, 0]
    assert rig.stats.messages_received == 0


def test_what_a_stop_abandons_is_counted(small: Rig) -> None:
    anna, slow = small.dial(), small.dial(rcvbuf=4096)
    small.fill(slow, anna)
    owed = small.stats.outbox_messages

    small.reactor.close_all(CloseReason.SHUTDOWN)

    assert small.stats.messages_dropped["shutdown"] == owed > 0
    assert small.stats.connections_closed["shutdown"] == 2


def test_at_a_stop_a_peer_learns_what_it_missed_before_the_goodbye(
    make_rig: Callable[..., Rig],
) -> None:
    """The goodbye is to be the last line: a client that leaves on it misses the number."""
    rig = make_rig(sndbuf=4096, high_water_bytes=16_384)
    talker, slow = rig.dial(), rig.dial(rcvbuf=4096)
    rig.fill(slow, talker)
    while not slow.conn.withheld:
        talker.say(b"x" * 1023 + b"\n")
        rig.tick()

    rig.reactor.stop_reading()
    rig.reactor.announce(wire.STOPPING)
    rig.tick_until(lambda: b"dropped\n" in slow.hear() and wire.STOPPING in slow.inbox)

    assert slow.inbox.endswith(wire.STOPPING)


def test_what_a_slow_flooder_is_owed_does_not_keep_its_own_flood_in_memory(
    make_rig: Callable[..., Rig],
) -> None:
    """One peer that talks much and never reads could make a daemon of 1 MiB limits hold gigabytes.

    It is owed only what others said: little per tick, as views of batches full of its own words,
    and the high water counts the views.
    """
    rig = make_rig(sndbuf=4096, high_water_bytes=65_536)
    talker, flooder = rig.dial(), rig.dial(rcvbuf=4096)
    rig.fill(flooder, talker)
    for _ in range(200):
        flooder.say((b"x" * 7999 + b"\n") * 4)
        talker.say(b"y" * 5000 + b"\n")  # too long to be merged, too short to keep a batch for
        rig.tick_until(lambda: rig.stats.received_bytes == talker.said + flooder.said)
        talker.hear()

    outbox = flooder.conn.outbox
    assert outbox is not None
    kept = {
        id(piece.data.obj): len(piece.data.obj)
        for piece in outbox._pieces
        if isinstance(piece.data, memoryview)
    }
    assert sum(kept.values()) < 3 * 65_536


def test_a_unix_peer_that_does_not_read_does_not_hold_up_a_stop(rig: Rig, tmp_path: Path) -> None:
    """SIOCOUTQ of a Unix socket counts what its peer has not read: a stop waits out the grace.

    Nothing is gained by it: what is in a Unix peer's queue survives our close.
    """
    rig.reactor.listen(bind_unix(tmp_path / "chat.sock", 8))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "chat.sock"))
        rig.tick_until(lambda: rig.stats.connections == 1)

        rig.reactor.announce(wire.STOPPING)

        assert rig.reactor.delivery.unacknowledged_bytes() == 0


def test_one_too_many_that_talks_first_is_not_reset(make_rig: Callable[..., Rig]) -> None:
    """Over a real network the reset may overtake the reason; on loopback it comes after it."""
    rig = make_rig(max_connections=1)
    rig.dial()
    sock = rig.connect()
    sock.settimeout(5)
    sock.sendall(b"hi\n")

    rig.tick_until(lambda: rig.stats.connections_rejected["max_connections"])

    assert sock.recv(1000) == wire.TOO_MANY_CONNECTIONS
    assert sock.recv(1000) == b""
