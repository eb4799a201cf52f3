from hypothesis import given
from hypothesis import strategies as st

from etltd.ratelimit import TokenBucket

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
