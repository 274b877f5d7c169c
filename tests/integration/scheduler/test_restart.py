"""A scheduler that dies or is stopped, and the one after it."""

import asyncio

import pytest
from support.model_caller import ModelCaller
from support.nats_server import NatsServer
from support.running_service import running_process
from support.scripted_worker import ScriptedWorker, StartWorker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # each starts two processes

LISTENING = {"AIOS_SCHEDULER_LISTEN_S": "1.2"}


async def test_a_killed_scheduler_loses_no_call_and_runs_none_twice(
    caller: ModelCaller,
    worker: ScriptedWorker,
    start_worker: StartWorker,
    server: NatsServer,
) -> None:
    async with running_process("aios_scheduler", server, env=LISTENING) as first:
        running = await caller.model_call()
        given = await worker.run()
        ended_unseen = await caller.model_call()
        other = await start_worker("w2")
        given_unseen = await other.run()
        waiting = [await caller.model_call() for _ in range(3)]
        await first.kill()
    # While nobody schedules, one call ends, and one more is accepted.
    await other.done(given_unseen)
    assert (await caller.end(ended_unseen))["type"] == "done"
    late = await caller.model_call()
    async with running_process("aios_scheduler", server, env=LISTENING):
        await worker.done(given)
        assert (await caller.end(running))["type"] == "done"
        serving = [asyncio.create_task(_serve(worker)), asyncio.create_task(_serve(other))]
        for call in (*waiting, late):
            assert (await caller.end(call))["type"] == "done"
        await caller.queue_is_empty()
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
    ids = [given.headers.id for given in (*worker.given, *other.given)]
    assert sorted(ids) == sorted(call.id for call in (running, ended_unseen, *waiting, late))


async def test_a_call_that_ended_before_the_restart_is_not_run_ahead_of_the_queue(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    async with running_process("aios_scheduler", server, env=LISTENING):
        call = await caller.model_call()
        await worker.done(await worker.run())
        await caller.end(call)
        await caller.queue_is_empty()
    async with running_process("aios_scheduler", server, env=LISTENING):
        again = await caller.model_call(call_id=call.id)
        assert (await caller.end(again))["result"]["text"] == "by w1"
        assert len(worker.given) == 1


async def test_a_call_that_was_stored_as_ended_is_answered_from_there(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    async with running_process("aios_scheduler", server, env=LISTENING) as first:
        call = await caller.model_call()
        given = await worker.run()
        await first.kill()
    await worker.done(given, answer=False)
    async with running_process("aios_scheduler", server, env=LISTENING):
        assert (await caller.end(call))["result"]["text"] == "by w1"
        await caller.queue_is_empty()
    assert len(worker.given) == 1


async def test_a_listener_that_came_during_the_restart_hears_the_call_that_is_taken_over(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    async with running_process("aios_scheduler", server, env=LISTENING) as first:
        call = await caller.model_call()
        await worker.run()
        await first.kill()
    await worker.stop()
    async with running_process("aios_scheduler", server, env=LISTENING, wait_ready=False) as second:
        await second.logged("ready")
        reply = await caller.send("syscall", "attach", {"id": call.id})
        await caller.call("scheduler", "state")
        await worker.start()
        await worker.wait(worker.attached)
        assert worker.attached[0]["reply"] == reply
    assert len(worker.given) == 1


async def test_a_stopped_scheduler_leaves_durable_calls_in_the_queue_and_sends_volatile_ones_back(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    async with running_process("aios_scheduler", server) as first:
        await caller.model_call()
        given = await worker.run()
        durable, volatile = await caller.model_call(), await caller.model_call(durable=False)
        await caller.call("scheduler", "state")
        assert await first.stop() == 0
        error = await caller.error(volatile)
        assert (error["code"], error["retryable"]) == ("syscall.unknown", True)
        assert await caller.queued() == 2
    async with running_process("aios_scheduler", server):
        await worker.done(given)
        await worker.done(await worker.run(1))
        assert (await caller.end(durable))["type"] == "done"
        await caller.queue_is_empty()


async def _serve(worker: ScriptedWorker) -> None:
    number = 1
    while True:
        await worker.done(await worker.run(number))
        number += 1
