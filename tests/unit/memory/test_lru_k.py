"""Which notes leave the hot tier."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_memory.core.lru_k import LruK


def test_a_scan_does_not_push_out_what_is_used_again_and_again() -> None:
    cache: LruK[int] = LruK(2, 10)
    for _ in range(3):
        for key in range(5):
            cache.use(key, 1)
    for key in range(100, 200):
        cache.use(key, 1)
    assert all(key in cache for key in range(5))


def test_of_notes_used_once_the_least_recent_leaves() -> None:
    cache: LruK[str] = LruK(2, 2)
    cache.use("a", 1)
    cache.use("b", 1)
    assert cache.use("c", 1) == ["a"]


def test_what_left_is_remembered_when_it_comes_back() -> None:
    cache: LruK[str] = LruK(2, 2)
    for key in ("a", "b", "c"):
        cache.use(key, 1)
    assert "a" not in cache
    cache.use("a", 1)  # its second use: it is older than nothing that was used twice
    assert cache.use("d", 1) == ["c"]
    assert "a" in cache


def test_a_note_larger_than_the_tier_does_not_empty_it() -> None:
    cache: LruK[str] = LruK(2, 10)
    cache.use("small", 4)
    assert cache.use("huge", 11) == ["huge"]
    assert "small" in cache
    assert cache.total == 4


def test_a_note_that_grew_makes_others_leave() -> None:
    cache: LruK[str] = LruK(2, 10)
    cache.use("a", 4)
    cache.use("b", 4)
    assert cache.use("b", 9) == ["a"]
    assert cache.total == 9


@given(st.lists(st.integers(0, 12), max_size=200), st.integers(1, 6))
def test_with_k_of_one_it_is_lru(uses: list[int], capacity: int) -> None:
    cache: LruK[int] = LruK(1, capacity)
    lru: OrderedDict[int, None] = OrderedDict()
    for key in uses:
        cache.use(key, 1)
        lru[key] = None
        lru.move_to_end(key)
        if len(lru) > capacity:
            lru.popitem(last=False)
        assert {key for key in range(13) if key in cache} == set(lru)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 7), st.booleans()), max_size=300),
    st.integers(1, 20),
    st.integers(1, 3),
)
def test_sizes_add_up_and_never_exceed_the_capacity(steps: list[tuple[int, int, bool]], capacity: int, k: int) -> None:
    cache: LruK[int] = LruK(k, capacity)
    resident: dict[int, int] = {}
    for key, size, removes in steps:
        if removes:
            cache.remove(key)
            resident.pop(key, None)
        else:
            resident[key] = size
            for evicted in cache.use(key, size):
                del resident[evicted]
        assert cache.total == sum(resident.values()) <= capacity
        assert len(cache) == len(resident)
        assert all(key in cache for key in resident)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_many_uses_keep_the_bookkeeping_small(k: int) -> None:
    cache: LruK[int] = LruK(k, 50)
    for number in range(20_000):
        cache.use(number % 5000, 1)
    assert len(cache) == 50
    assert len(cache._order) < 2000
    assert len(cache._uses) < 2000
