"""A model call's way from the queue to a worker and out again."""

import asyncio

import pytest
from support.model_caller import ModelCaller
from support.nats_server import NatsServer
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker, StartWorker

from aios_proto import headers as wire
from aios_proto import subjects

pytestmark = pytest.mark.usefixtures("scheduler")


async def test_a_durable_call_stays_in_the_queue_until_it_has_ended(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    call = await caller.model_call({"prompt": "Hi", "max_tokens": 3}, priority=7)
    given = await worker.run()
    assert given.body == {"prompt": "Hi", "max_tokens": 3}
    assert (given.headers.key, given.headers.operation) == (call.key, "complete")
    assert (given.headers.durability, given.headers.attempt, given.headers.reply) == ("durable", 1, call.reply)
    assert len(given.headers.times_us) == 3
    assert list(given.headers.times_us) == sorted(given.headers.times_us)
    assert await caller.queued() == 1
    await worker.done(given)
    assert (await caller.end(call))["result"]["text"] == "by w1"
    await caller.queue_is_empty()


async def test_a_volatile_call_takes_the_same_way_without_the_queue(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    call = await caller.model_call({"messages": [{"role": "user", "content": "x"}]}, durable=False, operation="chat")
    given = await worker.run()
    assert (given.headers.operation, given.headers.durability) == ("chat", "volatile")
    assert await caller.queued() == 0
    await worker.done(given)
    assert (await caller.end(call))["type"] == "done"


async def test_urgent_calls_overtake_those_that_wait(caller: ModelCaller, worker: ScriptedWorker) -> None:
    first = await caller.model_call()
    await worker.run()
    low = await caller.model_call(priority=1)
    high = await caller.model_call(priority=9)
    assert (await caller.call("scheduler", "state"))["result"]["queued"] == 2
    for number in range(3):
        await worker.done(await worker.run(number))
    assert [given.headers.id for given in worker.given] == [first.id, high.id, low.id]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{nonsense", "request.malformed", "body"),
        (b"[]", "request.malformed", "body"),
        ({"prompt": "x", "max_tokens": 0}, "request.invalid", "max_tokens"),
        ({"prompt": "x", "temprature": 1}, "request.invalid", "temprature"),
        ({}, "request.invalid", "prompt"),
    ],
)
async def test_a_bad_body_is_answered_with_its_fault_and_leaves_the_queue(
    caller: ModelCaller, worker: ScriptedWorker, durable: bool, body: object, code: str, field: str
) -> None:
    call = await caller.model_call(body, durable=durable)
    error = await caller.error(call)
    assert (error["code"], error["field"]) == (code, field)
    await caller.queue_is_empty()
    good = await caller.model_call(durable=durable)
    await worker.done(await worker.run())
    assert (await caller.end(good))["type"] == "done"


async def test_what_no_kernel_service_wrote_does_not_block_the_queue(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    js = caller.nc.jetstream()
    await js.publish(subjects.durable("llm", "complete"), b"{}")
    await js.publish(subjects.durable("llm", "complete"), b"{}", headers={wire.ID: "x", wire.PRIORITY: "high"})
    strange = await caller.model_call(operation="dance")
    assert (await caller.error(strange))["code"] == "request.unknown_operation"
    await caller.queue_is_empty()


async def test_a_call_that_waits_for_longer_than_its_deadline_is_told_so_on_time(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    await caller.model_call()
    await worker.run()
    call = await caller.model_call(deadline_s=0.3)
    assert (await caller.error(call))["code"] == "deadline.exceeded"
    await caller.queue_has(1)


async def test_a_model_nobody_serves_is_refused_at_once(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call({"prompt": "x", "model": "lama"})
    error = await caller.error(call)
    assert (error["code"], error["field"]) == ("engine.model_unknown", "model")
    await caller.queue_is_empty()


async def test_a_call_a_worker_gives_back_goes_to_another(
    caller: ModelCaller, worker: ScriptedWorker, start_worker: StartWorker
) -> None:
    call = await caller.model_call()
    given = await worker.run()
    other = await start_worker("w2")
    await worker.give_back(given, "overloaded", retry_after_s=5)
    again = await other.run()
    assert (again.headers.id, again.headers.attempt) == (call.id, 2)
    await other.done(again)
    assert (await caller.end(call))["result"]["text"] == "by w2"


async def test_an_engine_that_fails_every_time_is_a_typed_error(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    for number in range(4):
        await worker.give_back(await worker.run(number), "failed")
    error = await caller.error(call)
    assert (error["code"], error["message"], error["retryable"]) == ("engine.failed", "told so", True)
    await caller.queue_is_empty()


async def test_a_worker_that_dies_loses_no_call(
    caller: ModelCaller, worker: ScriptedWorker, start_worker: StartWorker
) -> None:
    call = await caller.model_call()
    await worker.run()
    await worker.stop()  # silent, as a crash
    other = await start_worker("w2")
    await other.done(await other.run())
    assert (await caller.end(call))["result"]["text"] == "by w2"
    await caller.queue_is_empty()


async def test_an_end_that_was_stored_and_not_reported_is_not_run_again(
    caller: ModelCaller, worker: ScriptedWorker, start_worker: StartWorker
) -> None:
    call = await caller.model_call()
    await worker.done(await worker.run(), answer=False, report=False)
    await worker.goodbye()
    other = await start_worker("w2")
    assert (await caller.end(call))["result"]["text"] == "by w1"
    await caller.queue_is_empty()
    await caller.model_call(call_id="next")
    assert (await other.run()).headers.id == "next"


async def test_a_lost_run_is_sent_again(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    await worker.run()
    worker.running.clear()  # as if it had never come
    again = await worker.run(1)
    assert (again.headers.id, again.headers.attempt) == (call.id, 2)


async def test_reports_that_make_no_sense_do_not_hurt(caller: ModelCaller, worker: ScriptedWorker) -> None:
    for report in (b"", b"{}", b'{"type":"hello"}', b'{"type":"ended","pool":"p","worker":"w"}'):
        await caller.nc.publish(subjects.worker_report("default", "w1"), report)
    await caller.model_call()
    await worker.run()


async def test_a_durable_call_survives_a_restart_of_the_bus(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer, scheduler: InProcess
) -> None:
    running = await caller.model_call()
    given = await worker.run()
    waiting = await caller.model_call()
    await asyncio.to_thread(server.restart)
    await scheduler.wait_ready()
    await worker.done(given)
    assert (await caller.end(running))["type"] == "done"
    await worker.done(await worker.run(1))
    assert (await caller.end(waiting))["type"] == "done"
    await caller.queue_is_empty()
