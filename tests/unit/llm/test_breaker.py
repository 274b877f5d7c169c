"""An engine that keeps failing is left alone for a while, and tried again."""

from aios_llm.breaker import Breaker


def failing(times: int, now: float = 0.0) -> Breaker:
    breaker = Breaker(failures=3, pause_s=5.0)
    for _ in range(times):
        breaker.failed(now)
    return breaker


def test_a_few_failures_close_nothing() -> None:
    assert failing(2).left_s(0) == 0


def test_several_in_a_row_close_it_for_the_pause_and_no_longer() -> None:
    breaker = failing(3, now=10)
    assert breaker.left_s(10) == 5
    assert breaker.left_s(14) == 1
    assert breaker.left_s(15) == 0


def test_a_success_between_them_starts_the_count_again() -> None:
    breaker = failing(2)
    breaker.succeeded()
    breaker.failed(0)
    breaker.failed(0)
    assert breaker.left_s(0) == 0


def test_a_try_after_the_pause_that_fails_closes_it_at_once_again() -> None:
    breaker = failing(3)
    breaker.failed(5)
    assert breaker.left_s(6) == 4


def test_a_try_that_succeeds_opens_it() -> None:
    breaker = failing(4)
    breaker.succeeded()
    assert breaker.left_s(0) == 0
