"""Workers on the same engine: together they are given what it runs at once, and hold what its cache holds."""

from hypothesis import given, settings
from hypothesis import strategies as st
from support.scheduler_core import CoreBench

from aios_scheduler.core.commands import Dispatch


def limits(bench: CoreBench) -> dict[str, int]:
    return {worker.id[1]: worker.limit for worker in bench.core.workers}


def test_two_workers_on_one_engine_are_given_no_more_calls_than_it_runs() -> None:
    bench = CoreBench()
    bench.worker("w1", limit=5, engine="gpu-1")
    bench.worker("w2", limit=5, engine="gpu-1")
    for number in range(9):
        bench.call(f"call-{number}", program=f"program-{number}")
    given_to = [command.worker[1] for command in bench.take(Dispatch)]
    assert sorted(given_to) == ["w1", "w1", "w1", "w2", "w2"]


def test_workers_with_engines_of_their_own_share_nothing() -> None:
    bench = CoreBench()
    for name, engine in (("w1", "gpu-1"), ("w2", "gpu-2"), ("w3", ""), ("w4", "")):
        bench.worker(name, limit=4, engine=engine, kv_tokens=1000)
    assert limits(bench) == dict.fromkeys(("w1", "w2", "w3", "w4"), 4)
    assert {worker.kv_tokens for worker in bench.core.workers} == {1000}


def test_who_is_left_alone_on_an_engine_has_all_of_it() -> None:
    bench = CoreBench()
    bench.worker("w1", limit=4, engine="gpu-1", kv_tokens=4000)
    bench.worker("w2", limit=4, engine="gpu-1", kv_tokens=4000)
    assert limits(bench) == {"w1": 2, "w2": 2}
    for number in range(4):
        bench.call(f"call-{number}", program=f"program-{number}", durable=False)
    assert len(bench.take(Dispatch)) == 4
    bench.goodbye("w2")
    assert limits(bench) == {"w1": 4}
    assert [command.worker[1] for command in bench.take(Dispatch)] == ["w1", "w1"]
    house = bench.pool.assignment.residency.houses["default", "w1"]
    assert house.capacity == 3800


def test_the_cache_of_an_engine_is_shared_too() -> None:
    bench = CoreBench(policy="aios")
    bench.worker("w1", limit=9, engine="gpu-1", kv_tokens=1000)
    bench.worker("w2", limit=9, engine="gpu-1", kv_tokens=1000)
    assert {worker.kv_tokens for worker in bench.core.workers} == {500}
    houses = bench.pool.assignment.residency.houses
    assert {house.capacity for house in houses.values()} == {475}


def test_a_worker_that_moves_to_another_engine_leaves_its_share() -> None:
    bench = CoreBench()
    bench.worker("w1", limit=6, engine="gpu-1")
    bench.worker("w2", limit=6, engine="gpu-1")
    bench.worker("w2", limit=6, engine="gpu-2", incarnation="second")
    assert limits(bench) == {"w1": 6, "w2": 6}


def test_workers_of_several_pools_share_their_engine() -> None:
    bench = CoreBench()
    bench.worker("w1", limit=6, engine="gpu-1")
    bench.worker("w2", limit=6, engine="gpu-1", pool="batch")
    assert limits(bench) == {"w1": 3, "w2": 3}
    bench.goodbye("w1")
    assert limits(bench) == {"w2": 6}


def test_a_drained_worker_keeps_what_its_calls_use_and_the_other_has_the_rest() -> None:
    bench = CoreBench()
    for name in ("w1", "w2"):
        bench.worker(name, limit=6, engine="gpu-1")
    for number in range(6):
        bench.call(f"call-{number}", program=f"program-{number}")
    there = [command.call for command in bench.take(Dispatch) if command.worker[1] == "w2"]
    bench.core.drain(("default", "w2"), drain=True)
    assert limits(bench)["w1"] == 3
    for call in there:
        bench.ended(call, "w2")
    bench.hello("w1")
    assert limits(bench)["w1"] == 6
    bench.core.drain(("default", "w2"), drain=False)
    assert limits(bench) == {"w1": 3, "w2": 3}


def test_workers_that_all_wait_for_their_engine_keep_their_shares() -> None:
    bench = CoreBench()
    for name in ("w1", "w2"):
        bench.worker(name, limit=6, engine="gpu-1")
    for name in ("w1", "w2"):
        bench.hello(name, ready=False)
    for name in ("w1", "w2"):
        bench.hello(name, ready=True)
    assert limits(bench) == {"w1": 3, "w2": 3}


def test_a_worker_that_joins_before_its_engine_answers_harms_nothing() -> None:
    bench = CoreBench()
    bench.worker("w1", limit=6, engine="gpu-1", kv_tokens=4000)
    bench.worker("w2", limit=6, engine="gpu-1", kv_tokens=4000, ready=False)
    assert limits(bench)["w1"] == 6, "it takes nothing yet"
    late = bench.core.workers.get(("default", "w2"))
    assert late is not None
    assert late.limit > 0
    assert late.load == 0
    bench.hello("w2", ready=True)
    assert limits(bench) == {"w1": 3, "w2": 3}


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_shares_never_exceed_the_engine_unless_there_are_more_workers_than_slots(wanted: list[int]) -> None:
    bench = CoreBench()
    for number, limit in enumerate(wanted):
        bench.worker(f"w{number}", limit=limit, engine="gpu-1")
    shares = limits(bench)
    assert sum(shares.values()) <= max(max(wanted), len(wanted))
    assert all(1 <= shares[f"w{number}"] <= limit for number, limit in enumerate(wanted))
