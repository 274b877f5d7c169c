"""Whatever the replicas do and in whatever order, together they never let more pass than the limit."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_access.quota_meter import POOL_PART, Exhausted, NeedsLease, SlotMeter, WindowMeter, base_share
from aios_access.quotas import Price

REPLICAS = 4


@dataclass
class Pool:
    """What a record in KV is: one replica after another leases from it."""

    window: int = 0
    granted: int = 0

    def lease(self, meter: WindowMeter, needed: NeedsLease, now: float) -> None:
        if needed.window > self.window:
            self.window, self.granted = needed.window, 0
        left = meter.pool - self.granted
        part = max(needed.want, left // POOL_PART) if left >= needed.want else 0
        self.granted += part
        meter.leased(self.window, part, left - part, now)


def take(meter: WindowMeter, pool: Pool, amount: int, now: float) -> bool:
    """As the guard does: take, else lease, else fail."""
    while True:
        missing = meter.take(amount, now)
        if missing is None:
            return True
        if isinstance(missing, Exhausted):
            assert missing.retry_after_s >= 0
            return False
        pool.lease(meter, missing, now)


steps = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 40), st.floats(0, 0.4), st.integers(0, 40)), min_size=1, max_size=120
)


@settings(deadline=None)
@given(limit=st.integers(0, 300), steps=steps, base=st.booleans())
def test_two_replicas_never_let_more_pass_in_a_window_than_the_limit(
    limit: int, steps: list[tuple[int, int, float, int]], base: bool
) -> None:
    share = base_share(limit, REPLICAS) if base else 0
    meters = [WindowMeter(limit, 1.0, share, REPLICAS) for _ in range(2)]
    pool = Pool()
    now, passed = 1000.0, dict[int, int]()
    for which, amount, pause, unused in steps:
        now += pause
        meter = meters[which]
        if take(meter, pool, amount, now):
            returned = min(unused, amount)
            meter.give_back(returned, meter.window)
            passed[meter.window] = passed.get(meter.window, 0) + amount - returned
    assert all(used <= limit for used in passed.values()), passed


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100, 1001])
def test_one_replica_alone_may_use_nearly_all_and_two_take_turns(limit: int) -> None:
    for share in (0, base_share(limit, REPLICAS)):
        pool = Pool()
        alone = WindowMeter(limit, 1.0, share, REPLICAS)
        passed = sum(take(alone, pool, 1, 5.0) for _ in range(2 * limit))
        assert passed == limit - share * (REPLICAS - 1)
        pool = Pool()
        pair = [WindowMeter(limit, 1.0, share, REPLICAS) for _ in range(2)]
        passed = sum(take(pair[number % 2], pool, 1, 5.0) for number in range(3 * limit))
        assert passed == limit - share * (REPLICAS - 2)


def test_what_is_exhausted_is_said_until_the_window_ends_and_then_there_is_more() -> None:
    meter, pool = WindowMeter(2, 10.0, 0, REPLICAS), Pool()
    assert take(meter, pool, 2, 101.0)
    assert not take(meter, pool, 1, 103.0)
    missing = meter.take(1, 103.0)
    assert isinstance(missing, Exhausted)
    assert missing.retry_after_s == pytest.approx(7.0)
    assert take(meter, pool, 2, 110.0)


def test_more_used_than_was_reserved_is_paid_for_in_the_next_window() -> None:
    meter, pool = WindowMeter(100, 10.0, 0, REPLICAS), Pool()
    assert take(meter, pool, 50, 1.0)
    meter.give_back(50 - 130, meter.window)
    assert not take(meter, pool, 1, 2.0)
    assert not take(meter, pool, 71, 11.0)
    assert take(meter, pool, 70, 11.0)
    assert take(meter, pool, 100, 21.0)


def test_a_debt_beyond_a_whole_window_is_paid_off_and_locks_nobody_out() -> None:
    meter, pool = WindowMeter(100, 10.0, 0, REPLICAS), Pool()
    assert take(meter, pool, 100, 1.0)
    meter.give_back(-250, meter.window)
    assert not take(meter, pool, 1, 11.0)
    assert not take(meter, pool, 1, 21.0)
    assert not take(meter, pool, 51, 31.0)
    assert take(meter, pool, 50, 31.0)


@pytest.mark.parametrize(("share", "replicas"), [(100, 1), (25, REPLICAS), (0, REPLICAS)])
def test_a_debt_is_paid_off_by_each_window_that_has_passed_though_nothing_was_called(share: int, replicas: int) -> None:
    meter, pool = WindowMeter(100, 10.0, share, replicas), Pool()
    each = share + meter.pool
    assert take(meter, pool, each, 1.0)
    meter.give_back(-(2 * each + each // 2), meter.window)
    assert not take(meter, pool, each - each // 2 + 1, 31.0)
    assert take(meter, pool, each - each // 2, 31.0)
    assert take(meter, pool, each, 61.0)  # and no more is paid than was owed


def test_calls_about_calls_use_the_next_windows_share_up_to_one_limit_and_in_the_long_run_no_more() -> None:
    meter, pool = WindowMeter(4, 1.0, 0, REPLICAS), Pool()
    assert take(meter, pool, 4, 1.0)
    assert not take(meter, pool, 1, 1.0)
    assert [meter.take_ahead(1, 1.5) for _ in range(5)] == [True] * 4 + [False]
    assert not take(meter, pool, 1, 2.0)
    assert take(meter, pool, 4, 3.0)
    assert not WindowMeter(0, 1.0, 0, REPLICAS).take_ahead(1, 1.0)


def test_slots_are_free_again_when_calls_end_and_idle_ones_are_returned() -> None:
    meter = SlotMeter(3, 1, 1)
    assert meter.take()
    assert not meter.take()
    meter.leased = 2
    assert meter.take()
    assert meter.take()
    assert not meter.take()
    assert meter.idle() == 0
    meter.release()
    meter.release()
    assert (meter.used, meter.idle()) == (1, 2)
    meter.release()
    meter.release()
    assert meter.used == 0


def test_a_price_is_rounded_up_so_that_nothing_is_free() -> None:
    assert Price(0.5, 1.5).micro(1, 0) == 1
    assert Price(0.5, 1.5).micro(1_000_000, 1_000_000) == 2_000_000
    assert Price(0, 0).micro(10, 10) == 0
