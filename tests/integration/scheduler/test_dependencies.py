"""Chains submitted at once: a call starts when those it names have ended, with their results in its body."""

import asyncio

import pytest
from support.model_caller import ModelCaller, StartScheduler
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker, StartWorker

from aios_proto.ids import new_syscall_id
from aios_scheduler.results import Results

JsonBody = dict[str, str]


def wants(call_id: str) -> JsonBody:
    return {"prompt": f'before {{{{result:{call_id}}}}} "after"'}


async def test_a_chain_submitted_at_once_flows_with_its_results(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    first = await caller.model_call()
    second = await caller.model_call(wants(first.id), after=(first.id,))
    given = await worker.run()
    state = (await caller.call("scheduler", "state"))["result"]
    assert (state["held"], state["queued"], state["running"]) == (1, 0, 1)
    (_, shown) = (await caller.call("syscall", "list"))["result"]["calls"]
    assert (shown["state"], shown["why"]) == ("waiting", f"waits for {first.id}")
    await worker.done(given)
    assert (await worker.run(1)).body == {"prompt": 'before by w1 "after"'}
    await worker.done(await worker.run(1))
    assert (await caller.end(second))["type"] == "done"
    await caller.queue_is_empty()


async def test_a_call_may_come_before_the_one_it_waits_for(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    early = new_syscall_id()
    late = await caller.model_call(wants(early), after=(early,))
    await caller.model_call(call_id=early)
    for number in range(2):
        await worker.done(await worker.run(number))
    assert [given.headers.id for given in worker.given] == [early, late.id]
    assert (await caller.end(late))["type"] == "done"


async def test_a_chain_goes_on_when_the_result_is_told_and_need_not_wait_until_it_is_stored(
    caller: ModelCaller, start_worker: StartWorker, start_scheduler: StartScheduler
) -> None:
    worker = await start_worker(limit=2)
    async with start_scheduler(wait_ready=True):
        early = new_syscall_id()
        late = await caller.model_call(wants(early), after=(early,))
        async with asyncio.timeout(10):
            while (await caller.call("scheduler", "state"))["result"]["held"] == 0:
                await asyncio.sleep(0.01)
        await caller.model_call(call_id=early)
        first = await worker.run()
        assert first.headers.awaited
        await worker.tell(first)
        second = await worker.run(1)
        assert second.body == {"prompt": 'before by w1 "after"'}
        assert not second.headers.awaited, "nobody waits for the last of a chain"
        assert (await caller.call("scheduler", "state"))["result"]["running"] == 2
        for given in (first, second):
            await worker.done(given)
        assert (await caller.end(late))["type"] == "done"
        await caller.queue_is_empty()


async def test_who_waits_for_the_store_holds_up_nobody_else_and_keeps_its_order(
    caller: ModelCaller,
    start_worker: StartWorker,
    start_scheduler: StartScheduler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = await start_worker(limit=8)
    read, asked, find = asyncio.Event(), asyncio.Event(), Results.find_patiently

    async def find_late(self: Results, key: str) -> bytes | None:
        asked.set()
        await read.wait()
        return await find(self, key)

    async with start_scheduler(wait_ready=True):
        first = await caller.model_call()
        await worker.done(await worker.run())
        assert (await caller.end(first))["type"] == "done"
        await caller.queue_is_empty()
        monkeypatch.setattr(Results, "find_patiently", find_late)
        waits = await caller.model_call(wants(first.id), after=(first.id,))
        await asyncio.wait_for(asked.wait(), 10)
        other = await caller.model_call()
        assert (await worker.run(1)).headers.id == other.id
        await caller.call("syscall", "cancel", {"id": waits.id})
        assert worker.cancelled == [], "an order to end a call never overtakes the one to run it"
        read.set()
        assert (await worker.run(2)).headers.id == waits.id
        await worker.wait(worker.cancelled)
        for given in worker.given[1:]:
            await worker.done(given)
        assert (await caller.end(other))["type"] == "done"


async def test_a_failed_call_fails_all_that_wait_for_it_with_the_cause(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    first = await caller.model_call()
    await worker.run()
    second = await caller.model_call(after=(first.id,))
    third = await caller.model_call(after=(second.id,))
    queued = await caller.model_call(priority=1)
    fourth = await caller.model_call(after=(queued.id,))
    await caller.call("syscall", "cancel", {"id": queued.id})
    assert (await caller.error(queued))["code"] == "syscall.cancelled"
    error = await caller.error(fourth)
    assert error["code"] == "dependency.failed"
    assert "syscall.cancelled" in error["message"]
    await worker.give_back(await worker.run(), "failed")
    for attempt in range(1, 4):
        await worker.give_back(await worker.run(attempt), "failed")
    assert (await caller.error(first))["code"] == "engine.failed"
    for call in (second, third):
        assert (await caller.error(call))["code"] == "dependency.failed"
    await caller.queue_is_empty()


async def test_a_circle_of_calls_is_refused(caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess) -> None:
    one, other = new_syscall_id(), new_syscall_id()
    first = await caller.model_call(call_id=one, after=(other,))
    second = await caller.model_call(call_id=other, after=(one,))
    assert (await caller.error(second))["code"] == "dependency.cycle"
    assert (await caller.error(first))["code"] == "dependency.failed"


@pytest.mark.parametrize("durable", [True, False])
async def test_a_placeholder_must_be_waited_for(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess, durable: bool
) -> None:
    error = await caller.error(await caller.model_call(wants("nobody"), durable=durable))
    assert (error["code"], error["field"]) == ("request.invalid", "Aios-After")


async def test_the_result_of_a_volatile_call_cannot_be_put_in(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    first = await caller.model_call(durable=False)
    given = await worker.run()
    second = await caller.model_call(wants(first.id), after=(first.id,))
    await worker.done(given)
    # Only reading gives up late: a result that is not stored is asked for once.
    error = await caller.error(second)
    assert error["code"] == "dependency.failed"
    assert "only durable calls" in error["message"]


async def test_a_chain_goes_on_after_the_scheduler_was_restarted(
    caller: ModelCaller, worker: ScriptedWorker, start_scheduler: StartScheduler
) -> None:
    async with start_scheduler(wait_ready=True):
        first = await caller.model_call()
        await worker.done(await worker.run())
        assert (await caller.end(first))["type"] == "done"
        await caller.queue_is_empty()
    async with start_scheduler(wait_ready=True):
        second = await caller.model_call(wants(first.id), after=(first.id,))
        assert (await worker.run(1)).body == {"prompt": 'before by w1 "after"'}
        await worker.done(await worker.run(1))
        assert (await caller.end(second))["type"] == "done"
