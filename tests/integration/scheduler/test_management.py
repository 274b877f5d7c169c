"""What an operator sees and does: state, draining, policy, full queues, readiness."""

import asyncio

import orjson
from support.model_caller import ModelCaller, StartScheduler
from support.nats_server import settle
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker, StartWorker


async def test_a_scheduler_without_workers_is_not_ready_and_calls_wait_for_one(
    caller: ModelCaller,
    start_scheduler: StartScheduler,
    start_worker: StartWorker,
) -> None:
    async with start_scheduler() as scheduler:
        async with asyncio.timeout(10):
            while (await scheduler.readiness())[1] != "no worker is ready":
                await asyncio.sleep(0.02)
        call = await caller.model_call({"prompt": "x", "model": "qwen"})
        worker = await start_worker(model="qwen")
        await scheduler.wait_ready()
        await worker.done(await worker.run())
        assert (await caller.end(call))["type"] == "done"


async def test_state_shows_what_waits_and_what_runs_on_whom(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    await caller.model_call()
    await worker.run()
    for _ in range(2):
        await caller.model_call(durable=False)
    state = (await caller.call("scheduler", "state"))["result"]
    assert (state["policy"], state["queued"], state["running"]) == ("aios", 2, 1)
    assert state["queued_by_tenant"] == {"acme": 2}
    (shown,) = state["workers"]
    assert 0 <= shown.pop("seen_s_ago") < 3
    assert shown == {
        "pool": "default",
        "worker": "w1",
        "model": "llama",
        "state": "ready",
        "running": 1,
        "in_flight_limit": 1,
        "kv_used": shown["kv_used"],
        "residents": 1,
    }


async def test_models_are_those_of_the_workers_that_are_ready(
    caller: ModelCaller,
    worker: ScriptedWorker,
    scheduler: InProcess,
    start_worker: StartWorker,
) -> None:
    await start_worker("w2")
    await start_worker("w3", model="qwen")
    down = await start_worker("w4", model="mistral")
    down.ready = False
    await down.hello()
    await settle(caller.nc)
    models = (await caller.call("llm", "models"))["result"]["models"]
    assert [(m["model"], m["workers"], m["max_input_tokens"]) for m in models] == [("llama", 2, 100), ("qwen", 1, 100)]


async def test_a_drained_worker_gets_nothing_new_until_it_may_again(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    frame = await caller.call("scheduler", "drain", {"worker": "w1"})
    assert frame["result"]["state"] == "draining"
    await caller.model_call()
    assert (await caller.call("scheduler", "state"))["result"]["queued"] == 1
    await caller.call("scheduler", "drain", {"worker": "w1", "drain": False})
    await worker.run()


async def test_draining_a_worker_that_is_not_there_names_the_field(caller: ModelCaller, scheduler: InProcess) -> None:
    error = (await caller.call("scheduler", "drain", {"worker": "nobody"}))["error"]
    assert (error["code"], error["field"]) == ("resource.not_found", "worker")


async def test_the_policy_is_changed_while_calls_wait(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    first = await caller.model_call()
    await worker.run()
    low, high = await caller.model_call(priority=1), await caller.model_call(priority=9)
    assert (await caller.call("scheduler", "policy", {"policy": "fifo"}))["result"] == {
        "before": "aios",
        "after": "fifo",
        "tenant_weights": {},
        "queue_per_tenant": 1000,
        "queue_total": 10_000,
    }
    for number in range(3):
        await worker.done(await worker.run(number))
    assert [given.headers.id for given in worker.given] == [first.id, low.id, high.id]


async def test_what_an_operator_chose_outlives_the_scheduler(
    caller: ModelCaller, worker: ScriptedWorker, start_scheduler: StartScheduler
) -> None:
    async with start_scheduler(wait_ready=True):
        await caller.call("scheduler", "policy", {"tenant_weights": {"acme": 3.0}, "flood_share": 1.5})
        await caller.call("scheduler", "policy", {"policy": "las"})
    async with start_scheduler(wait_ready=True, scheduler_policy="fifo", scheduler_tenant_weights={"acme": 9.0}):
        assert (await caller.call("scheduler", "policy", {}))["result"] == {
            "before": "las",
            "after": "las",
            "tenant_weights": {"acme": 3.0},
            "flood_share": 1.5,
            "queue_per_tenant": 1000,
            "queue_total": 10_000,
        }
        result = (await caller.call("scheduler", "policy", {"flood_share": 0}))["result"]
        assert "flood_share" not in result, "0 takes the bound away"


async def test_a_weight_that_is_none_is_refused(caller: ModelCaller, scheduler: InProcess) -> None:
    for weight in (0, -1, "much", None):
        error = (await caller.call("scheduler", "policy", {"tenant_weights": {"acme": weight}}))["error"]
        assert (error["code"], error["field"]) == ("request.invalid", "tenant_weights.acme")


async def test_a_waiting_call_is_shown_with_the_reason(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    await caller.model_call()
    await worker.run()
    waits = await caller.model_call(priority=7)
    state = (await caller.call("scheduler", "state"))["result"]
    (shown,) = state["waiting"]
    assert (shown["id"], shown["tenant"], shown["priority"]) == (waits.id, "acme", 7)
    assert "has all its slots in use" in shown["why"]
    (tenant,) = state["tenants"]
    assert (tenant["tenant"], tenant["queued"], tenant["running"]) == ("acme", 1, 1)
    assert state["instance"] == "s1"
    assert state["fence"] > 0


async def test_a_policy_that_is_not_there_is_refused_by_name(caller: ModelCaller, scheduler: InProcess) -> None:
    for policy in ("lottery", "random"):
        error = (await caller.call("scheduler", "policy", {"policy": policy}))["error"]
        assert (error["code"], error["field"]) == ("request.invalid", "policy")


async def test_a_full_queue_says_when_to_come_back_and_takes_what_is_accepted(
    caller: ModelCaller, worker: ScriptedWorker, start_scheduler: StartScheduler
) -> None:
    async with start_scheduler(wait_ready=True, scheduler_queue_per_tenant=2):
        await caller.model_call()
        await worker.run()
        waiting = [await caller.model_call(durable=durable) for durable in (True, False)]
        for durable in (True, False):
            error = await caller.error(await caller.model_call(durable=durable))
            assert (error["code"], error["retryable"]) == ("queue.full", True)
            assert error["retry_after_s"] >= 0.5
        for number in range(3):
            await worker.done(await worker.run(number))
        for call in waiting:
            assert (await caller.end(call))["type"] == "done"
        await caller.queue_is_empty()


async def test_ends_are_counted_by_operation_and_outcome(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    await caller.model_call()
    await worker.done(await worker.run())
    await caller.error(await caller.model_call({"prompt": "x", "model": "lama"}))
    await caller.queue_is_empty()
    _, text = await scheduler.get("/metrics")
    assert 'aios_calls_total{operation="llm.complete",outcome="ok"} 1.0' in text
    assert 'aios_calls_total{operation="llm.complete",outcome="engine.model_unknown"} 1.0' in text


async def test_every_decision_is_an_event_where_that_is_wanted(
    caller: ModelCaller, worker: ScriptedWorker, start_scheduler: StartScheduler
) -> None:
    events = await caller.nc.subscribe("aios.evt.acme.scheduler.>")
    async with start_scheduler(wait_ready=True, scheduler_decision_events="all", scheduler_queue_per_tenant=1):
        first, _, refused = [await caller.model_call() for _ in range(3)]
        await worker.run()
        assert (await caller.error(refused))["code"] == "queue.full"
        told = [await events.next_msg(5) for _ in range(2)]
    facts = {message.subject.rsplit(".", 1)[-1]: orjson.loads(message.data) for message in told}
    assert (facts["dispatched"]["id"], facts["dispatched"]["worker"]) == (first.id, "w1")
    assert (facts["refused"]["id"], facts["refused"]["code"]) == (refused.id, "queue.full")
