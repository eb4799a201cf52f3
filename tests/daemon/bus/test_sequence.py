"""Gaps are found, repetitions are not delivered, whatever the way does to the envelopes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.bus import sequence
from etltd.bus.envelope import MOST_WELCOMES, Envelope, Identity, Parcel, Welcome
from etltd.bus.sequence import ALIVE_NS, TIMES_WELCOMED, Followers, Heard

SECOND = 1_000_000_000
ME = 99


def welcomed_now(followers: Followers) -> tuple[Welcome, ...]:
    """Have the newcomers told what is to be said to them."""
    welcomes = followers.welcomes()
    followers.have_been_told(welcomes)
    return welcomes


def said(
    first: int,
    messages: int,
    *welcomes: Welcome,
    incarnation: int = 1,
    age_ns: int = 0,
    is_last: bool = False,
) -> Envelope:
    parcel = Parcel(first, messages, b"x\n" * messages, 0, is_last, welcomes)
    return Envelope(Identity("b", incarnation), age_ns, parcel)


def hear(
    followers: Followers, envelope: Envelope, now_ns: int, member_ns: int = 0, numbered: int = 0
) -> Heard:
    return followers.hear(envelope, now_ns, member_ns, numbered)


def test_what_comes_in_order_is_delivered() -> None:
    followers = Followers(ME)

    heard = [hear(followers, said(first, 3), SECOND) for first in (0, 3, 6)]

    assert heard == [Heard(0, is_new=True)] * 3


def test_a_gap_is_known_by_number_and_what_fills_it_later_is_not_delivered() -> None:
    """It was announced as dropped; delivered after all, it would be out of order, too."""
    followers = Followers(ME)
    hear(followers, said(0, 2), SECOND)

    assert hear(followers, said(7, 1), SECOND) == Heard(5, is_new=True)
    assert hear(followers, said(2, 5), SECOND) == Heard(0, is_new=False)
    assert hear(followers, said(7, 1), SECOND) == Heard(0, is_new=False)


def test_what_was_lost_at_the_end_is_found_by_the_next_sign_of_life() -> None:
    followers = Followers(ME)
    hear(followers, said(0, 2), SECOND)

    assert hear(followers, said(5, 0), SECOND).lost == 3
    assert hear(followers, said(5, 0), SECOND) == Heard(0, is_new=True)


def test_who_spoke_before_we_came_is_followed_from_where_it_is() -> None:
    """A newcomer would else be told of all that was said since the beginning."""
    older = said(1000, 1, age_ns=9 * SECOND)

    assert hear(Followers(ME), older, 10 * SECOND, 5 * SECOND).lost == 0


def test_who_came_after_us_owes_us_its_first_word() -> None:
    """Its beginning may have been lost while our link was down."""
    younger = said(4, 1, age_ns=2 * SECOND)

    assert hear(Followers(ME), younger, 10 * SECOND, 5 * SECOND).lost == 4


def test_a_restart_under_the_same_name_begins_anew() -> None:
    followers = Followers(ME)
    hear(followers, said(0, 100), SECOND)

    heard = hear(followers, said(0, 1, incarnation=2), 2 * SECOND)

    assert heard == Heard(0, is_new=True)


def older(first: int, messages: int, *welcomes: Welcome) -> Envelope:
    """Said by somebody who was there before us."""
    return said(first, messages, *welcomes, age_ns=99 * SECOND)


def test_what_was_lost_before_a_newcomer_heard_anything_is_told_by_its_welcome() -> None:
    """It could else not tell what is missing from what was said before it came."""
    followers = Followers(ME)

    assert hear(followers, older(150, 1), SECOND).lost == 0
    assert hear(followers, older(151, 0, Welcome(7, 0), Welcome(ME, 100)), SECOND).lost == 50
    assert hear(followers, older(151, 0, Welcome(ME, 100)), SECOND).lost == 0, "told twice"


def test_a_welcome_that_is_the_first_word_tells_what_was_lost_before_it() -> None:
    assert hear(Followers(ME), older(150, 0, Welcome(ME, 100)), SECOND).lost == 50


def test_what_came_before_the_welcome_was_not_owed() -> None:
    """A newcomer would else be told of losses that are none."""
    followers = Followers(ME)
    hear(followers, older(90, 20), SECOND)

    assert hear(followers, older(110, 0, Welcome(ME, 100)), SECOND).lost == 0


def test_who_owes_us_everything_cannot_take_it_back() -> None:
    """What it says of its own beginning is counted already."""
    followers = Followers(ME)
    assert hear(followers, said(4, 1), 2 * SECOND, SECOND).lost == 4

    assert hear(followers, said(5, 0, Welcome(ME, 0)), 2 * SECOND, SECOND).lost == 0


def test_a_newcomer_is_welcomed_for_a_while_with_the_number_at_which_it_came() -> None:
    followers = Followers(ME)
    hear(followers, older(0, 0), SECOND, numbered=100)
    hear(followers, older(0, 0), 2 * SECOND, numbered=200)

    rounds = [welcomed_now(followers) for _ in range(TIMES_WELCOMED + 1)]

    assert rounds == [(Welcome(1, 100),)] * TIMES_WELCOMED + [()]


def test_who_was_silent_is_welcomed_again_with_the_same_number() -> None:
    """The link may have been down since it came, and it has not heard its welcome yet."""
    followers = Followers(ME)
    hear(followers, older(0, 0), 0, numbered=100)
    for _ in range(TIMES_WELCOMED):
        welcomed_now(followers)
    assert welcomed_now(followers) == ()

    hear(followers, older(0, 0), ALIVE_NS, numbered=200)

    assert welcomed_now(followers) == (Welcome(1, 100),)


def test_who_left_is_welcomed_no_more() -> None:
    """It would take the turns of those who are there."""
    followers = Followers(ME)
    hear(followers, said(0, 0), SECOND)
    hear(followers, said(0, 0, is_last=True), SECOND)

    assert welcomed_now(followers) == ()


def test_many_newcomers_are_welcomed_in_turn() -> None:
    followers = Followers(ME)
    for incarnation in range(2 * MOST_WELCOMES):
        hear(followers, said(0, 0, incarnation=incarnation), SECOND)

    first, second, again = (welcomed_now(followers) for _ in range(3))

    assert len(first) == MOST_WELCOMES
    assert not {*first} & {*second}
    assert again == first


@pytest.mark.parametrize("newcomers", [1, 100, 1125])
def test_each_of_many_newcomers_is_welcomed_as_often_as_the_only_one(newcomers: int) -> None:
    """For thirty seconds each, 928 of 1,125 were welcomed once and 197 never."""
    followers = Followers(ME)
    for incarnation in range(newcomers):
        hear(followers, said(0, 0, incarnation=incarnation), SECOND)
    turn = -(-newcomers // MOST_WELCOMES)  # rounds in which everybody has one

    rounds = [welcomed_now(followers) for _ in range(turn * TIMES_WELCOMED)]

    assert max(map(len, rounds)) <= MOST_WELCOMES
    assert len({welcome for one in rounds[:turn] for welcome in one}) == newcomers
    times = Counter(welcome.incarnation for one in rounds for welcome in one)
    assert times == dict.fromkeys(range(newcomers), TIMES_WELCOMED)
    assert welcomed_now(followers) == ()


def test_newcomers_are_remembered_up_to_a_bound() -> None:
    """Incarnations are numbers that anybody on the bus may make up."""
    followers = Followers(ME)
    for incarnation in range(sequence.MOST_FOLLOWED + 1):
        hear(followers, said(0, 0, incarnation=incarnation), SECOND)

    welcomed: set[int] = set()
    while (
        len(now := welcomed_now(followers)) == MOST_WELCOMES and now[0].incarnation not in welcomed
    ):
        welcomed |= {welcome.incarnation for welcome in now}

    assert welcomed == {*range(1, sequence.MOST_FOLLOWED + 1)}


def test_the_silent_and_those_that_left_are_not_counted_as_there() -> None:
    followers = Followers(ME)
    hear(followers, said(0, 0, incarnation=1), 0)
    hear(followers, said(0, 0, incarnation=2), ALIVE_NS - 1)
    hear(followers, said(0, 0, incarnation=3, is_last=True), ALIVE_NS - 1)

    assert followers.alive(ALIVE_NS - 1) == 2
    assert followers.alive(ALIVE_NS) == 1


def test_memory_is_bounded_and_the_talkative_are_kept() -> None:
    """Incarnations are numbers that anybody on the bus may make up."""
    followers = Followers(ME)
    hear(followers, said(0, 5, incarnation=0), SECOND)
    for incarnation in range(1, sequence.MOST_FOLLOWED):
        hear(followers, said(0, 0, incarnation=incarnation), SECOND)
    hear(followers, said(5, 0, incarnation=0), SECOND)
    hear(followers, said(0, 0, incarnation=sequence.MOST_FOLLOWED), SECOND)

    assert followers.alive(SECOND) == sequence.MOST_FOLLOWED
    assert hear(followers, said(7, 0, incarnation=0), SECOND).lost == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["goes", "is lost", "comes twice"]))))
def test_all_is_delivered_once_in_order_or_counted_as_lost(way: list[tuple[int, str]]) -> None:
    followers = Followers(ME)
    number = lost = 0
    delivered: list[int] = []
    envelopes = []
    for messages, fate in way:
        copies = {"goes": 1, "is lost": 0, "comes twice": 2}[fate]
        envelopes += [said(number, messages)] * copies
        number += messages
    for envelope in [*envelopes, said(number, 0)]:
        heard = hear(followers, envelope, SECOND)
        lost += heard.lost
        if heard.is_new:
            first = envelope.parcel.first
            delivered += range(first, first + envelope.parcel.messages)

    assert delivered == sorted(set(delivered))
    assert len(delivered) + lost == number
