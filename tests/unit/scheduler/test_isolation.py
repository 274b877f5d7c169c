"""A tenant that floods is held to what each of the others has; nobody else is."""

from aios_scheduler.core.isolation import FLOOD, WINDOW_S, Isolation


def make(share: float | None = 1.0, **weights: float) -> Isolation:
    return Isolation(lambda tenant: weights.get(tenant, 1.0), share)


def allows(isolation: Isolation, tenant: str, now: float = 0.0, tokens: int = 100) -> bool:
    return isolation.allows(tenant, tokens, now, lambda: 1000)


def fill(isolation: Isolation, tenant: str, asked: float, running: int, now: float = 0.0) -> None:
    isolation.asked(tenant, asked, now)
    isolation.started(tenant, running)


def test_a_flooding_tenant_gets_no_more_than_the_others_have() -> None:
    isolation = make()
    fill(isolation, "light", 100, 300)
    fill(isolation, "flood", 100 * (FLOOD + 1), 100)
    assert allows(isolation, "flood")
    isolation.started("flood", 200)
    assert not allows(isolation, "flood")
    assert allows(isolation, "light")


def test_a_tenant_that_asks_for_little_more_is_not_bound() -> None:
    isolation = make()
    fill(isolation, "light", 100, 100)
    fill(isolation, "busy", 100 * (FLOOD - 1), 900)
    assert allows(isolation, "busy")


def test_alone_a_tenant_may_have_all() -> None:
    isolation = make()
    fill(isolation, "flood", 1e6, 900)
    assert allows(isolation, "flood")


def test_others_that_went_away_do_not_bind_it_any_more() -> None:
    isolation = make()
    fill(isolation, "light", 100, 0)
    fill(isolation, "flood", 1000, 900)
    assert not allows(isolation, "flood")
    later = 20 * WINDOW_S
    isolation.asked("flood", 1000, later)
    assert allows(isolation, "flood", later)


def test_one_call_and_a_little_memory_are_always_allowed() -> None:
    isolation = make()
    fill(isolation, "light", 100, 0)
    fill(isolation, "flood", 1000, 0)
    assert allows(isolation, "flood"), "one call"
    isolation.started("flood", 10)
    assert allows(isolation, "flood", tokens=10), "a fiftieth of the memory"
    assert not allows(isolation, "flood", tokens=11)


def test_a_weight_counts_as_so_many_tenants() -> None:
    isolation = make(flood=3.0)
    fill(isolation, "light", 100, 100)
    fill(isolation, "flood", 100 * 3 * (FLOOD + 1), 200)
    assert allows(isolation, "flood")
    isolation.started("flood", 100)
    assert not allows(isolation, "flood")


def test_without_a_share_nobody_is_bound() -> None:
    isolation = make(None)
    fill(isolation, "light", 100, 1)
    fill(isolation, "flood", 1e9, 900)
    assert allows(isolation, "flood")
