"""A tool that keeps failing is left alone, tried once, and trusted again when that went well."""

from aios_tool.core.breaker import Breaker


def failing(times: int, now: float = 0) -> Breaker:
    breaker = Breaker(failures=3, rest_s=5, longest_rest_s=12)
    for _ in range(times):
        assert breaker.wait_s(now) == 0
        breaker.ended(now, well=False)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = failing(2)
    breaker.ended(0, well=True)
    breaker.ended(0, well=False)
    assert breaker.closed
    assert not failing(3).closed


def test_one_call_tries_it_after_its_rest() -> None:
    breaker = failing(3)
    assert breaker.wait_s(2) == 3
    assert breaker.wait_s(5) == 0
    assert breaker.wait_s(5) > 0
    breaker.ended(6, well=True)
    assert breaker.closed
    assert breaker.wait_s(6) == 0


def test_its_rest_grows_while_it_goes_on_failing() -> None:
    breaker, now = failing(3), 0.0
    for rest_s in (5, 10, 12, 12):
        assert breaker.wait_s(now) == rest_s
        now += rest_s
        assert breaker.wait_s(now) == 0
        breaker.ended(now, well=False)


def test_a_trial_that_was_cancelled_is_followed_by_another() -> None:
    breaker = failing(3)
    assert breaker.wait_s(5) == 0
    breaker.abandoned()
    assert breaker.wait_s(5) == 0
