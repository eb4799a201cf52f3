"""Gaps are found, repetitions are not delivered, whatever the way does to the envelopes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etltd.bus import sequence
from etltd.bus.envelope import Envelope, Identity, Parcel
from etltd.bus.sequence import ALIVE_NS, Followers, Heard

SECOND = 1_000_000_000


def said(
    first: int, messages: int, *, incarnation: int = 1, age_ns: int = 0, is_last: bool = False
) -> Envelope:
    lines = b"x\n" * messages
    return Envelope(Identity("b", incarnation), age_ns, Parcel(first, messages, lines, 0, is_last))


def test_what_comes_in_order_is_delivered() -> None:
    followers = Followers()

    heard = [followers.hear(said(first, 3), SECOND, 0) for first in (0, 3, 6)]

    assert heard == [Heard(0, is_new=True)] * 3


def test_a_gap_is_known_by_number_and_what_fills_it_later_is_not_delivered() -> None:
    """It was announced as dropped; delivered after all, it would be out of order, too."""
    followers = Followers()
    followers.hear(said(0, 2), SECOND, 0)

    assert followers.hear(said(7, 1), SECOND, 0) == Heard(5, is_new=True)
    assert followers.hear(said(2, 5), SECOND, 0) == Heard(0, is_new=False)
    assert followers.hear(said(7, 1), SECOND, 0) == Heard(0, is_new=False)


def test_what_was_lost_at_the_end_is_found_by_the_next_sign_of_life() -> None:
    followers = Followers()
    followers.hear(said(0, 2), SECOND, 0)

    assert followers.hear(said(5, 0), SECOND, 0).lost == 3
    assert followers.hear(said(5, 0), SECOND, 0) == Heard(0, is_new=True)


def test_who_spoke_before_we_came_is_followed_from_where_it_is() -> None:
    """A newcomer would else be told of all that was said since the beginning."""
    older = said(1000, 1, age_ns=9 * SECOND)

    assert Followers().hear(older, now_ns=10 * SECOND, member_ns=5 * SECOND).lost == 0


def test_who_came_after_us_owes_us_its_first_word() -> None:
    """Its beginning may have been lost while our link was down."""
    younger = said(4, 1, age_ns=2 * SECOND)

    assert Followers().hear(younger, now_ns=10 * SECOND, member_ns=5 * SECOND).lost == 4


def test_a_restart_under_the_same_name_begins_anew() -> None:
    followers = Followers()
    followers.hear(said(0, 100), SECOND, 0)

    heard = followers.hear(said(0, 1, incarnation=2), 2 * SECOND, 0)

    assert heard == Heard(0, is_new=True)


def test_the_silent_and_those_that_left_are_not_counted_as_there() -> None:
    followers = Followers()
    followers.hear(said(0, 0, incarnation=1), 0, 0)
    followers.hear(said(0, 0, incarnation=2), ALIVE_NS - 1, 0)
    followers.hear(said(0, 0, incarnation=3, is_last=True), ALIVE_NS - 1, 0)

    assert followers.alive(ALIVE_NS - 1) == 2
    assert followers.alive(ALIVE_NS) == 1


def test_memory_is_bounded_and_the_talkative_are_kept() -> None:
    """Incarnations are numbers that anybody on the bus may make up."""
    followers = Followers()
    followers.hear(said(0, 5, incarnation=0), SECOND, 0)
    for incarnation in range(1, sequence.MOST_FOLLOWED):
        followers.hear(said(0, 0, incarnation=incarnation), SECOND, 0)
    followers.hear(said(5, 0, incarnation=0), SECOND, 0)
    followers.hear(said(0, 0, incarnation=sequence.MOST_FOLLOWED), SECOND, 0)

    assert followers.alive(SECOND) == sequence.MOST_FOLLOWED
    assert followers.hear(said(7, 0, incarnation=0), SECOND, 0).lost == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["goes", "is lost", "comes twice"]))))
def test_all_is_delivered_once_in_order_or_counted_as_lost(way: list[tuple[int, str]]) -> None:
    followers = Followers()
    number = lost = 0
    delivered: list[int] = []
    envelopes = []
    for messages, fate in way:
        copies = {"goes": 1, "is lost": 0, "comes twice": 2}[fate]
        envelopes += [said(number, messages)] * copies
        number += messages
    for envelope in [*envelopes, said(number, 0)]:
        heard = followers.hear(envelope, SECOND, 0)
        lost += heard.lost
        if heard.is_new:
            first = envelope.parcel.first
            delivered += range(first, first + envelope.parcel.messages)

    assert delivered == sorted(set(delivered))
    assert len(delivered) + lost == number
