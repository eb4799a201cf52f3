from etltd.bus.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    backoff = Backoff(lambda: 0.0)

    waits = [backoff.next_seconds() for _ in range(9)]

    assert waits[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert waits[-1] == LONGEST_SECONDS
    backoff.reset()
    assert backoff.next_seconds() == FIRST_SECONDS


def test_instances_do_not_come_back_all_at_once() -> None:
    """They lost the server at one moment; it would be hit by all of them at another."""
    assert Backoff(lambda: 0.5).next_seconds() == 0.75 * FIRST_SECONDS
