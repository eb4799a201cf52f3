from hypothesis import given
from hypothesis import strategies as st

from etltd.ratelimit import LeftBuckets, TokenBucket

SECOND = 1_000_000_000


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 200)), max_size=30),
)
def test_never_more_than_the_rate_and_one_seconds_worth(
    rate: int, asks: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(rate, 0)
    now = allowed = wanted = 0
    for step, messages in asks:
        now += step
        allowed += bucket.take(messages, now)
        wanted += messages

        assert allowed <= rate + rate * now / SECOND + 1e-6

    assert allowed + bucket.refused == wanted


def test_a_patient_sender_is_never_refused() -> None:
    bucket = TokenBucket(10, 0)

    assert all(bucket.take(1, i * SECOND // 10) == 1 for i in range(1, 200))


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 200), st.booleans()), max_size=30),
)
def test_who_comes_again_and_again_has_one_bucket(
    rate: int, asks: list[tuple[int, int, bool]]
) -> None:
    """Each connection had a second's worth of its own, so the limit was one of connections."""
    left, bucket = LeftBuckets(), TokenBucket(rate, 0)
    now = allowed = 0
    for step, messages, comes_again in asks:
        now += step
        if comes_again:
            left.keep(b"here", bucket.full_ns)
            left.forget_full(now)
            bucket = TokenBucket(rate, now, left.full_ns(b"here"))
        allowed += bucket.take(messages, now)

        assert allowed <= rate + rate * now / SECOND + 1e-6


def test_of_what_was_left_the_emptiest_counts() -> None:
    """Who comes to say nothing must not fill the bucket of the one who floods."""
    left = LeftBuckets()
    empty, used, unused = (TokenBucket(10, 0) for _ in range(3))
    empty.take(10, 0)
    used.take(4, 0)
    for bucket in (used, empty, unused):
        left.keep(b"here", bucket.full_ns)

    assert TokenBucket(10, 0, left.full_ns(b"here")).take(10, 0) == 0
    assert TokenBucket(10, SECOND // 2, left.full_ns(b"here")).take(10, SECOND // 2) == 5
    assert TokenBucket(10, SECOND // 2, left.full_ns(b"elsewhere")).take(10, SECOND // 2) == 10


def test_what_was_left_is_forgotten_when_it_is_full_again() -> None:
    left, empty = LeftBuckets(), TokenBucket(3, 0)
    empty.take(3, 0)
    left.keep(b"here", empty.full_ns)

    left.forget_full(SECOND - 1)
    assert len(left) == 1
    left.forget_full(SECOND)
    assert not len(left)


def test_no_more_than_so_much_is_kept() -> None:
    """Who has many networks has a bucket for each anyhow: the oldest has had the most time."""
    left = LeftBuckets(most=2)
    left.keep(b"a", 10)
    left.keep(b"b", 11)
    left.keep(b"a", 12)
    left.keep(b"c", 13)

    assert [left.full_ns(network) for network in (b"a", b"b", b"c")] == [12, 0, 13]


def test_a_bucket_that_lacks_nothing_leaves_nothing() -> None:
    """Visitors who say nothing would push out what others have used up."""
    left = LeftBuckets(most=1)
    empty = TokenBucket(3, 0)
    empty.take(3, 0)
    left.keep(b"here", empty.full_ns)

    left.keep(b"elsewhere", TokenBucket(3, SECOND).full_ns)

    assert left.full_ns(b"here") == SECOND
