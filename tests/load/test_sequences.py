from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadclient import sequences as module
from loadclient.pacing import first_marked
from loadclient.sequences import Sequences, censored


def fed(numbers: list[int], interval: int = 1) -> Sequences:
    sequences = Sequences(1, interval)
    sequences.see(7, ((0, number & 0xFFFFFF) for number in numbers))
    return sequences


def tally(sequences: Sequences) -> tuple[int, int, int, int]:
    return sequences.lost, sequences.duplicated, sequences.reordered, sequences.damaged


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3], (0, 0, 0, 0)),
        ([0, 1, 3], (1, 0, 0, 0)),
        ([2], (2, 0, 0, 0)),
        ([0, 1, 1, 2], (0, 1, 0, 0)),
        ([0, 2, 1, 3], (0, 0, 1, 0)),
        ([0, 2, 1, 1], (0, 1, 1, 0)),
        ([0, 3, 1], (1, 0, 1, 0)),
    ],
)
def test_each_disorder_has_its_own_name(
    numbers: list[int], expected: tuple[int, int, int, int]
) -> None:
    assert tally(fed(numbers)) == expected


def test_only_marked_numbers_are_missed() -> None:
    """With every fifth message looked at, 0 5 10 is no loss of four each."""
    assert tally(fed([0, 5, 10], interval=5)) == (0, 0, 0, 0)
    assert tally(fed([0, 15], interval=5)) == (2, 0, 0, 0)
    assert tally(fed([0, 7], interval=5)) == (0, 0, 0, 1)


def test_an_unknown_sender_is_damage() -> None:
    sequences = Sequences(1, 1)
    sequences.see(7, [(1, 0)])

    assert sequences.damaged == 1


def test_numbers_go_on_after_their_wrap() -> None:
    sequences = Sequences(1, 1)
    sequences._rows[7] = sequences._first_row[:]
    sequences._rows[7][0] = 0xFFFFFF
    sequences.see(7, [(0, 0xFFFFFF), (0, 0), (0, 2), (0, 1)])

    assert tally(sequences) == (0, 0, 1, 0)
    assert sequences.next_rounds(7)[0] == 0x1000003


def test_memory_for_gaps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that loses everything must not make the client grow without end."""
    monkeypatch.setattr(module, "MAX_HOLES", 2)

    assert tally(fed([5, 0, 4])) == (4, 1, 1, 0)  # 4 was not remembered


@given(st.permutations(range(8)))
def test_a_permutation_loses_nothing(numbers: list[int]) -> None:
    sequences = fed(numbers)

    assert (sequences.lost, sequences.duplicated) == (0, 0)
    assert sequences.seen == 8


def test_marks_that_never_came_are_counted_with_the_oldest() -> None:
    """Leaving them out would call the slowest messages fast."""
    sequences = Sequences(2, 5)  # sender 0 is marked in rounds 0, 5, 10; sender 1 in 2, 7
    sequences.see(9, [(0, 0), (0, 5)])
    count, oldest = censored(
        sequences, [(9, None), (8, 1)], interval=5, said=[11] * 2, when=by_message
    )

    assert count == (1 + 2) + 3
    assert oldest == by_message(0, 0)


def test_nothing_is_censored_when_everything_came() -> None:
    sequences = Sequences(1, 5)
    sequences.see(9, [(0, 0), (0, 5), (0, 10)])

    found = censored(sequences, [(9, None)], interval=5, said=[11], when=by_message)

    assert found == (0, None)


def by_message(message: int, sender: int) -> int:
    """Return when a message was due, if all say their first, then all say their second."""
    return 1000 * message + sender


def pair_by_pair(
    sequences: Sequences, readers: list[tuple[int, int | None]], said: list[int]
) -> tuple[int, int | None]:
    """Return what `censored` should, asking about every mark of every pair."""
    missing = [
        by_message(round_, sender)
        for receiver, own in readers
        for sender, end in enumerate(said)
        if sender != own
        for round_ in range(first_marked(sender, senders=len(said), interval=3), end, 3)
        if round_ >= sequences.next_rounds(receiver)[sender]
    ]
    return len(missing), min(missing, default=None)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), max_size=40),
    st.sampled_from([1, 3]),
    st.lists(st.integers(1, 14), min_size=5, max_size=5),
)
def test_a_short_cut_overlooks_no_missing_mark(
    heard: list[tuple[int, int, int]], interval: int, said: list[int]
) -> None:
    """Passing over a receiver that lacks something would call its slowest messages fast."""
    sequences = Sequences(5, interval)
    for receiver, sender, n in heard:
        first = first_marked(sender, senders=5, interval=interval)
        sequences.see(receiver, [(sender, first + n * interval)])
    readers = [(0, 0), (1, 4), (2, None), (3, 2)]
    found = censored(sequences, readers, interval=3, said=said, when=by_message)

    assert found == pair_by_pair(sequences, readers, said)


def test_settling_does_not_ask_about_every_pair() -> None:
    """At 6,000 connections the workers answered so late that the result was lost."""
    senders, readers = 400, [(n, n) for n in range(400)]
    sequences = Sequences(senders, 3)
    for receiver in range(400):
        firsts = (first_marked(sender, senders=senders, interval=3) for sender in range(senders))
        sequences.see(receiver, enumerate(firsts))
    start = process_time()
    asked = pair_by_pair(sequences, readers, [3] * senders)
    between = process_time()
    found = censored(sequences, readers, interval=3, said=[3] * senders, when=by_message)
    end = process_time()

    assert found == asked == (0, None)
    assert end - between < (between - start) / 5


@pytest.mark.parametrize(
    ("sequence", "reordered"), [(0, 1), (1, 1), (4, 1), (6, 0), (9, 0), (0xFFFFFF, 1)]
)
def test_a_message_that_samples_overtook_is_out_of_order(sequence: int, reordered: int) -> None:
    """A server that favours what it knows to be looked at has to let it pass the rest."""
    sequences = fed([0, 5], interval=5)
    sequences.look_into(7, 0, sequence)

    assert tally(sequences) == (0, 0, reordered, 0)


def test_nothing_is_out_of_order_before_a_sample_was_seen() -> None:
    sequences = Sequences(1, 5)
    sequences.look_into(7, 0, 3)
    sequences.look_into(7, 1, 3)

    assert tally(sequences) == (0, 0, 0, 1)
