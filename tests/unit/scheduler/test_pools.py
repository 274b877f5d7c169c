"""Calls in several pools: where each waits, by which rules, and when it moves."""

from dataclasses import replace

import pytest
from support.scheduler_core import CoreBench

from aios_proto.errors import AiosError
from aios_proto.messages.scheduler import QueueLimits
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Dispatch, Refuse
from aios_scheduler.core.configuration import Configuration, PoolConfiguration


@pytest.fixture
def bench() -> CoreBench:
    """A pool `fast` with the worker f and a pool `batch` with the worker b, of one slot each."""
    bench = CoreBench("fifo")
    bench.worker("f", pool="fast")
    bench.worker("b", pool="batch")
    return bench


def runs_on(call: ModelCall) -> str | None:
    return None if call.worker is None else call.worker[1]


def refusal(bench: CoreBench) -> AiosError:
    (refused,) = bench.take(Refuse)
    return refused.error


def set_pool(bench: CoreBench, pool: str, **changes: object) -> None:
    before = bench.core.pools.configuration
    changed = replace(before.of(pool), **changes)  # type: ignore[arg-type]
    bench.core.configure(Configuration(before.default, {**before.pools, pool: changed}))


def test_a_call_that_names_a_pool_waits_for_it_while_others_are_idle(bench: CoreBench) -> None:
    first, second = bench.call("a", pool="fast"), bench.call("b", pool="fast")
    assert (runs_on(first), runs_on(second)) == ("f", None)
    bench.ended(first, "f")
    assert runs_on(second) == "f"


def test_a_call_that_names_none_runs_where_there_is_room(bench: CoreBench) -> None:
    calls = [bench.call(name, program=name) for name in "abc"]
    assert sorted(str(runs_on(call)) for call in calls) == ["None", "b", "f"]
    bench.ended(calls[0], runs_on(calls[0]) or "")
    assert runs_on(calls[2]) is not None


def test_an_idle_pool_takes_over_what_waits_elsewhere_and_is_not_bound(bench: CoreBench) -> None:
    running = [bench.call(name, pool=pool) for name, pool in (("f1", "fast"), ("b1", "batch"))]
    free = bench.call("free")
    bound = bench.call("bound", pool=free.pool)
    other = "b" if free.pool == "fast" else "f"
    bench.ended(running[0 if other == "f" else 1], other)
    assert runs_on(free) == other
    assert runs_on(bound) is None


def test_a_bound_call_at_the_head_does_not_hold_up_a_free_one_behind_it(bench: CoreBench) -> None:
    bench.call("f1", pool="fast")
    b1 = bench.call("b1", pool="batch")
    bench.call("bound", pool="fast")
    free = bench.call("free")
    bench.core.pools.move(free, bench.core.pools.get("fast"), bench.now)
    bench.core.pools.get("fast").assignment.enqueue(free)
    bench.ended(b1, "b")
    assert runs_on(free) == "b"


def test_calls_move_on_by_their_rank_when_their_pool_has_no_worker_left() -> None:
    bench = CoreBench("priority")
    bench.worker("f", pool="fast")
    bench.worker("b", pool="batch")
    running = bench.call("b1", pool="batch")
    bench.call("f1", pool="fast")
    bench.call("low", pool="batch", priority=1)
    free = bench.call("free", priority=9)
    bench.core.pools.move(free, bench.core.pools.get("fast"), bench.now)
    bench.core.pools.get("fast").assignment.enqueue(free)
    bench.goodbye("f")
    assert free.pool == "batch"
    bench.ended(running, "b")
    assert runs_on(free) == "b", "it has the higher priority, wherever it came from"


def test_calls_that_came_before_any_worker_go_to_the_pool_that_comes() -> None:
    bench = CoreBench()
    free, bound = bench.call("free"), bench.call("bound", pool="default")
    bench.worker("g", pool="gpu", limit=4)
    assert (runs_on(free), runs_on(bound)) == ("g", None)


def test_a_call_for_a_pool_nobody_has_heard_of_is_refused_and_leaves_nothing(bench: CoreBench) -> None:
    bench.call("a", pool="fats")
    error = refusal(bench)
    assert (error.code, error.field) == ("resource.not_found", "pool")
    assert sorted(pool.name for pool in bench.core.pools) == ["batch", "default", "fast"]


def test_a_model_that_the_named_pool_does_not_serve_is_refused_by_name(bench: CoreBench) -> None:
    bench.worker("q", pool="batch", model="qwen")
    bench.call("a", pool="fast", model="qwen")
    error = refusal(bench)
    assert (error.code, error.field) == ("engine.model_unknown", "model")
    assert "fast" in error.message
    assert runs_on(bench.call("b", model="qwen")) == "q"


def test_each_pool_has_its_own_order(bench: CoreBench) -> None:
    set_pool(bench, "fast", policy="priority")
    running = {name: bench.call(f"{name}-run", pool=pool) for name, pool in (("f", "fast"), ("b", "batch"))}
    for priority in (1, 9):
        bench.call(f"f{priority}", pool="fast", priority=priority)
        bench.call(f"b{priority}", pool="batch", priority=priority)
    bench.take(Dispatch)
    for name, call in running.items():
        bench.ended(call, name)
    assert [command.call.id for command in bench.take(Dispatch)] == ["f9", "b1"]


def test_each_pool_has_its_own_bounds_and_more_may_wait_once_they_are_raised(bench: CoreBench) -> None:
    set_pool(bench, "fast", limits=QueueLimits(per_tenant=1, per_pool=10))
    for name in ("run", "waits", "refused"):
        bench.call(name, pool="fast")
    for name in ("run-b", "waits-b", "waits-too"):
        bench.call(name, pool="batch")
    assert bench.refusals() == {"refused": "queue.full"}
    set_pool(bench, "fast", limits=QueueLimits(per_tenant=2, per_pool=10))
    bench.call("more", pool="fast")
    assert list(bench.refusals()) == ["refused"]


def test_a_tenant_served_much_in_one_pool_is_not_behind_in_another() -> None:
    bench = CoreBench("fair")
    bench.worker("f", pool="fast")
    bench.worker("b", pool="batch")
    for number in range(5):
        bench.ended(bench.call(f"much{number}", tenant="greedy", pool="fast", size_bytes=40_000), "f")
    running = bench.call("run", tenant="other", pool="batch")
    first = bench.call("first", tenant="greedy", pool="batch")
    second = bench.call("second", tenant="other", pool="batch")
    bench.ended(running, "b")
    assert (runs_on(first), runs_on(second)) == ("b", None)


def test_a_pool_without_workers_and_calls_is_forgotten_after_a_while_but_not_what_was_set_for_it(
    bench: CoreBench,
) -> None:
    set_pool(bench, "batch", policy="las")
    bench.worker("d")
    bench.goodbye("f")
    bench.goodbye("b")
    bench.pass_time(700, beating=("d",))
    assert sorted(pool.name for pool in bench.core.pools) == ["batch", "default"]
    bench.call("a", pool="fast")
    assert refusal(bench).field == "pool"
    bench.worker("b", pool="batch")
    assert bench.core.pools.get("batch").queue.policy.name == "las"


def test_a_drained_pool_gives_its_free_calls_away(bench: CoreBench) -> None:
    for name, pool in (("f1", "fast"), ("b1", "batch")):
        bench.call(name, pool=pool)
    free = bench.call("free")
    where = free.pool
    bench.core.drain((where, "f" if where == "fast" else "b"), drain=True)
    bench.pass_time(0.1, beating=())
    assert free.pool != where


def test_a_call_with_little_budget_left_counts_as_one_that_needs_little() -> None:
    bench = CoreBench("aios")
    bench.worker(limit=1)
    running = bench.call("run", program="run")
    long, short = bench.call("long", program="long"), bench.call("short", program="short", budget_tokens=60)
    bench.ended(running)
    assert (runs_on(long), runs_on(short)) == (None, "w1"), "it cannot need more than it may use"


def test_a_call_reserves_no_more_memory_than_its_budget_pays_for() -> None:
    bench = CoreBench("fifo")
    bench.worker(limit=8, kv_tokens=1000)
    names = [f"c{number}" for number in range(4)]
    calls = [bench.call(name, program=name, size_bytes=400, budget_tokens=200) for name in names]
    assert [runs_on(call) for call in calls] == ["w1"] * 4, "a default answer of each would not fit"


def test_a_configuration_equal_to_the_one_in_force_changes_nothing(bench: CoreBench) -> None:
    queue = bench.core.pools.get("fast").queue
    policy = queue.policy
    bench.core.configure(Configuration(PoolConfiguration("fifo", QueueLimits(per_tenant=1000, per_pool=10_000))))
    assert queue.policy is policy
