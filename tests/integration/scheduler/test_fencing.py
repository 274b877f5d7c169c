"""A worker obeys no scheduler that was replaced, and takes nothing that was meant for the process before it."""

import orjson
from nats.aio.client import Client
from support.model_caller import ModelCaller
from support.nats_server import NatsServer
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler
from support.scripted_worker import ScriptedWorker

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.kernel import CallEnded, WorkerHello


async def test_a_worker_ignores_the_commands_of_a_scheduler_that_was_replaced(server: NatsServer, nc: Client) -> None:
    scheduler = ScriptedScheduler(nc)
    await scheduler.open()
    settings = WorkerSettings(nats_url=server.url, instance="w1", engine_kind="instant", worker="w1")
    async with running_in_process(WorkerService(settings).service, wait_ready=True):

        async def run(fence: int) -> wire.CallHeaders:
            headers = scheduler.headers()
            sent = headers.to_wire() | {wire.FENCE: str(fence)}
            await nc.publish(
                subjects.worker("default", "w1", "run"), orjson.dumps({"prompt": "Hi", "max_tokens": 2}), headers=sent
            )
            return headers

        newest = await run(7)
        await scheduler.heard(CallEnded, lambda ended: ended.key == newest.key)
        replaced = await run(6)
        later = await run(7)
        await scheduler.heard(CallEnded, lambda ended: ended.key == later.key)
        ended = [report.key for report in scheduler.reports if isinstance(report, CallEnded)]
        assert ended == [newest.key, later.key]
        assert replaced.key not in ended


async def test_a_worker_does_not_take_a_call_for_the_process_before_it(server: NatsServer, nc: Client) -> None:
    scheduler = ScriptedScheduler(nc)
    await scheduler.open()
    settings = WorkerSettings(nats_url=server.url, instance="w1", engine_kind="instant", worker="w1")
    async with running_in_process(WorkerService(settings).service, wait_ready=True):
        hello = await scheduler.heard(WorkerHello)

        async def run(incarnation: str) -> wire.CallHeaders:
            headers = scheduler.headers()
            sent = headers.to_wire() | {wire.INCARNATION: incarnation}
            await nc.publish(
                subjects.worker("default", "w1", "run"), orjson.dumps({"prompt": "Hi", "max_tokens": 2}), headers=sent
            )
            return headers

        await run("of a process that died")
        own = await run(hello.incarnation)
        await scheduler.heard(CallEnded, lambda ended: ended.key == own.key)
        assert [report.key for report in scheduler.reports if isinstance(report, CallEnded)] == [own.key]


async def test_a_call_is_given_to_the_process_that_the_scheduler_knows(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    await caller.model_call()
    assert (await worker.run()).incarnation == worker.incarnation
