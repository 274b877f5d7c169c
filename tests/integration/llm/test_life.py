"""A worker's life: what it says of itself, how it waits for its engine, how it leaves."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from support.nats_server import NatsServer
from support.running_service import InProcess, running_process
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import GenerateStream, TgiStandIn

from aios_proto.kernel import CallEnded, CallReturned, WorkerBye, WorkerHello

StartWorker = Callable[..., AbstractAsyncContextManager[InProcess]]


async def test_a_worker_says_what_it_serves_and_how_much_it_takes(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    hello = await scheduler.heard(WorkerHello)
    assert (hello.pool, hello.worker, hello.model, hello.engine) == ("default", "w1", "stand-in", "tgi 3.3.7")
    assert (hello.max_input_tokens, hello.max_total_tokens, hello.kv_tokens) == (1000, 2000, 16000)
    assert (hello.in_flight_limit, hello.ready, hello.running) == (8, True, {})


async def test_names_and_limits_may_be_set_from_outside(
    scheduler: ScriptedScheduler, start_worker: StartWorker
) -> None:
    async with start_worker(AIOS_MODEL_NAME="our-model", llm_in_flight=2):
        hello = await scheduler.heard(WorkerHello)
        assert (hello.model, hello.in_flight_limit) == ("our-model", 2)


async def test_running_calls_are_named_with_their_tokens(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    async def script(stream: GenerateStream) -> None:
        for _ in range(3):
            await stream.token("x")
        await stream.forever()

    tgi.script = script
    call = await scheduler.run()
    await scheduler.heard(WorkerHello, lambda hello: hello.running == {call.key: 3})
    await scheduler.cancel(call)
    await scheduler.heard(CallEnded)
    await scheduler.heard(WorkerHello, lambda hello: hello.running == {}, len(scheduler.reports))


async def test_a_worker_without_its_engine_is_not_ready_until_it_comes(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, start_worker: StartWorker
) -> None:
    await tgi.stop()
    async with start_worker(wait_ready=False) as worker:
        async with asyncio.timeout(10):
            while (await worker.readiness())[1] != "the engine is not ready":
                await asyncio.sleep(0.02)
        call = await scheduler.run()
        assert (await scheduler.heard(CallReturned)).reason == "unavailable"
        await tgi.start()
        await worker.wait_ready()
        await scheduler.run(headers=call)
        assert (await scheduler.frames(call))[-1]["type"] == "done"


@pytest.mark.parametrize("info", [{}, {"model_id": 7}, {"model_id": "m", "aios": {"chat_template": "{% if %}"}}])
async def test_an_engine_that_does_not_say_what_it_serves_is_looked_at_again(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, start_worker: StartWorker, info: dict[str, object]
) -> None:
    sound, tgi.info = tgi.info, info
    async with start_worker(wait_ready=False) as worker:
        async with asyncio.timeout(10):
            while (await worker.readiness())[1] != "the engine is not ready":
                await asyncio.sleep(0.02)
        tgi.info = sound
        await worker.wait_ready()


async def test_an_engine_that_is_lost_is_noticed_by_the_first_call(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, start_worker: StartWorker
) -> None:
    async with start_worker(llm_engine_check_s=60) as worker:  # only a call can notice it
        await tgi.stop()
        call = await scheduler.run()
        returned = await scheduler.heard(CallReturned)
        assert (returned.key, returned.reason) == (call.key, "unavailable")
        await scheduler.heard(WorkerHello, lambda hello: not hello.ready)
        assert await worker.wait_readiness(503) == "the engine is not ready"


async def test_an_engine_that_comes_back_is_used_again(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.healthy = False
    await scheduler.heard(WorkerHello, lambda hello: not hello.ready)
    since = len(scheduler.reports)
    tgi.healthy = True
    await scheduler.heard(WorkerHello, lambda hello: hello.ready, since)
    assert (await scheduler.frames(await scheduler.run()))[-1]["type"] == "done"


async def test_a_stopping_worker_lets_its_streams_end_and_takes_nothing_new(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello")
        await more.wait()
        await stream.last("!")

    tgi.script = script
    call = await scheduler.run()
    await scheduler.inbox.next(call.reply)
    worker.service.stop()
    await scheduler.heard(WorkerHello, lambda hello: not hello.ready)
    late = await scheduler.run()
    returned = await scheduler.heard(CallReturned)
    assert (returned.key, returned.reason) == (late.key, "draining")
    second = await scheduler.attach(call)
    assert (await scheduler.inbox.next(second))["text"] == "Hello"
    more.set()
    assert (await scheduler.frames(call))[-1]["result"]["text"] == "Hello!"
    await scheduler.heard(WorkerBye)
    assert isinstance(scheduler.reports[-1], WorkerBye)
    await worker.wait()


async def test_a_stopping_worker_stays_not_ready_however_well_its_engine_is(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.script = lambda stream: stream.forever()
    call = await scheduler.run()
    await tgi.stream()
    worker.service.stop()
    await scheduler.heard(WorkerHello, lambda hello: not hello.ready)
    since = len(scheduler.reports)
    for n in range(2):
        await scheduler.heard(WorkerHello, since=since + n)
    assert not any(report.ready for report in scheduler.reports[since:] if isinstance(report, WorkerHello))
    await scheduler.cancel(call)
    assert (await scheduler.frames(call))[-1]["error"]["code"] == "syscall.cancelled"
    await worker.wait()


async def test_a_stream_that_does_not_end_in_time_goes_back_to_the_scheduler(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, start_worker: StartWorker
) -> None:
    tgi.script = lambda stream: stream.forever()
    async with start_worker(drain_timeout_s=0.5) as worker:
        call = await scheduler.run()
        stream = await tgi.stream()
        await worker.stop()
        returned = await scheduler.heard(CallReturned)
        assert (returned.key, returned.reason) == (call.key, "draining")
        assert scheduler.inbox.waiting(call.reply) == 0
        await asyncio.wait_for(stream.closed.wait(), 5)
        await scheduler.heard(WorkerBye)


async def test_a_worker_goes_on_when_the_bus_was_away(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, server: NatsServer, worker: InProcess
) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello")
        await more.wait()
        await stream.last("!")

    tgi.script = script
    call = await scheduler.run()
    await scheduler.inbox.next(call.reply)
    await asyncio.to_thread(server.restart)
    since = len(scheduler.reports)  # what is heard from now on was said after the restart, to a caller that is back
    await scheduler.heard(WorkerHello, lambda hello: call.key in hello.running, since)
    more.set()
    assert (await scheduler.frames(call))[-1]["result"]["text"] == "Hello!"
    await scheduler.heard(CallEnded)


async def test_sigterm_ends_the_process_after_its_streams(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, server: NatsServer
) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello")
        await more.wait()
        await stream.last("!")

    tgi.script = script
    env = {"AIOS_ENGINE_URL": tgi.url, "AIOS_WORKER": "w1"}
    async with running_process("aios_llm", server, env=env) as worker:
        call = await scheduler.run()
        await scheduler.inbox.next(call.reply)
        os.kill(worker.pid, signal.SIGTERM)
        await scheduler.heard(WorkerHello, lambda hello: not hello.ready)
        more.set()
        assert (await scheduler.frames(call))[-1]["result"]["text"] == "Hello!"
        assert await worker.wait() == 0
