"""Pools on the bus: calls that name one, and an operator who gives one rules of its own while calls wait."""

import pytest
from support.model_caller import ModelCaller, StartScheduler
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker, StartWorker

ON_BATCH = {"prompt": "x", "pool": "batch"}


@pytest.fixture
async def batch(start_worker: StartWorker) -> ScriptedWorker:
    return await start_worker("b1", pool="batch")


async def test_a_call_that_names_a_pool_runs_there_alone(
    caller: ModelCaller, worker: ScriptedWorker, batch: ScriptedWorker, scheduler: InProcess
) -> None:
    await batch.hello()
    first, second = await caller.model_call(ON_BATCH), await caller.model_call(ON_BATCH)
    await batch.done(await batch.run())
    await batch.done(await batch.run(1))
    for call in (first, second):
        assert (await caller.end(call))["type"] == "done"
    assert not worker.given


async def test_a_pool_nobody_has_heard_of_is_refused_by_name(caller: ModelCaller, scheduler: InProcess) -> None:
    error = await caller.error(await caller.model_call({"prompt": "x", "pool": "hatch"}))
    assert (error["code"], error["field"]) == ("resource.not_found", "pool")
    error = await caller.error(await caller.model_call({"prompt": "x", "pool": "no pool"}))
    assert (error["code"], error["field"]) == ("request.invalid", "pool")


async def test_a_pool_gets_rules_of_its_own_while_calls_wait_and_the_others_keep_theirs(
    caller: ModelCaller, worker: ScriptedWorker, batch: ScriptedWorker, scheduler: InProcess
) -> None:
    await batch.hello()
    calls = {}
    for pool, its_worker in (("default", worker), ("batch", batch)):
        await caller.model_call({"prompt": "x", "pool": pool})
        await its_worker.run()
        for priority in (1, 9):
            calls[pool, priority] = await caller.model_call({"prompt": "x", "pool": pool}, priority=priority)
    changed = await caller.call("scheduler", "policy", {"pool": "batch", "policy": "fifo", "queue_per_tenant": 2})
    assert changed["result"] == {
        "pool": "batch",
        "before": "aios",
        "after": "fifo",
        "tenant_weights": {},
        "queue_per_tenant": 2,
        "queue_total": 10_000,
    }
    error = await caller.error(await caller.model_call(ON_BATCH))
    assert error["code"] == "queue.full"
    state = (await caller.call("scheduler", "state"))["result"]
    assert state["policy"] == "aios"
    shown = {each["pool"]: (each["policy"], each["queue_per_tenant"], each["queued"]) for each in state["pools"]}
    assert shown == {"batch": ("fifo", 2, 2), "default": ("aios", 1000, 2)}
    for its_worker in (worker, batch):
        for number in range(3):
            await its_worker.done(await its_worker.run(number))
    assert [given.headers.id for given in worker.given][1:] == [calls["default", 9].id, calls["default", 1].id]
    assert [given.headers.id for given in batch.given][1:] == [calls["batch", 1].id, calls["batch", 9].id]


async def test_what_was_said_of_a_pool_outlives_the_scheduler_until_it_is_reset(
    caller: ModelCaller, worker: ScriptedWorker, batch: ScriptedWorker, start_scheduler: StartScheduler
) -> None:
    configured = {"batch": {"policy": "las", "flood_share": 2.0}, "night": {"queue_total": 5}}
    async with start_scheduler(wait_ready=True, scheduler_pools=configured):
        await caller.call("scheduler", "policy", {"pool": "batch", "policy": "edf"})
        await caller.call("scheduler", "policy", {"policy": "fair", "queue_total": 77})
    async with start_scheduler(wait_ready=True, scheduler_pools=configured):
        result = (await caller.call("scheduler", "policy", {"pool": "batch"}))["result"]
        assert (result["after"], result["flood_share"], result["queue_total"]) == ("edf", 2.0, 77)
        result = (await caller.call("scheduler", "policy", {"pool": "night"}))["result"]
        assert (result["after"], result["queue_total"]) == ("fair", 5)
        result = (await caller.call("scheduler", "policy", {"pool": "batch", "reset": True}))["result"]
        assert (result["before"], result["after"]) == ("edf", "las"), "the settings say so"
        result = (await caller.call("scheduler", "policy", {"reset": True}))["result"]
        assert (result["before"], result["after"], result["queue_total"]) == ("fair", "aios", 10_000)


async def test_a_bound_that_is_none_is_refused_by_name(caller: ModelCaller, scheduler: InProcess) -> None:
    for field, value in (("queue_total", 0), ("queue_per_tenant", "many"), ("pool", "a b"), ("limit", 3)):
        error = (await caller.call("scheduler", "policy", {field: value}))["error"]
        assert (error["code"], error["field"]) == ("request.invalid", field)


async def test_a_worker_is_told_the_budget_of_a_call(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    await caller.model_call(budget_tokens=321)
    assert (await worker.run()).headers.budget_tokens == 321
