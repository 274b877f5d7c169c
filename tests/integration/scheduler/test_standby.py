"""Two schedulers: one is active, the other stands by and takes over."""

import signal
import time

import pytest
from nats.aio.client import Client
from support.model_caller import ModelCaller
from support.nats_server import NatsServer
from support.running_service import running_process
from support.scripted_worker import ScriptedWorker

from aios_proto import headers as wire
from aios_proto import subjects

TAKE_OVER_S = 3.0
SLACK_S = 7.0
"""For a machine that is busy with other tests."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]  # each starts two processes


async def test_a_standby_takes_over_when_the_active_one_dies_and_loses_no_call(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    async with (
        running_process("aios_scheduler", server, instance="first") as first,
        running_process("aios_scheduler", server, instance="second", wait_ready=False) as second,
    ):
        assert (await second.logged("standing by"))["active"] == "first"
        running = await caller.model_call()
        given = await worker.run()
        waiting = await caller.model_call()
        await first.kill()
        killed = time.monotonic()
        await worker.done(given)
        assert (await caller.end(running))["type"] == "done"
        await worker.done(await worker.run(1))
        took = time.monotonic() - killed
        assert (await caller.end(waiting))["type"] == "done"
        await caller.queue_is_empty()
        assert took < TAKE_OVER_S + SLACK_S, f"the standby took {took:.1f} s"
    assert [call.headers.id for call in worker.given] == [running.id, waiting.id]


async def test_a_standby_takes_over_at_once_from_one_that_is_stopped(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer
) -> None:
    patient = {"AIOS_SCHEDULER_LEASE_S": "30"}
    async with (
        running_process("aios_scheduler", server, env=patient, instance="first") as first,
        running_process("aios_scheduler", server, env=patient, instance="second", wait_ready=False) as second,
    ):
        await second.logged("standing by")
        assert await first.stop() == 0
        await second.logged("ready")
        call = await caller.model_call()
        await worker.done(await worker.run())
        assert (await caller.end(call))["type"] == "done"


async def test_only_the_active_one_answers(caller: ModelCaller, worker: ScriptedWorker, server: NatsServer) -> None:
    async with (
        running_process("aios_scheduler", server, instance="first"),
        running_process("aios_scheduler", server, instance="second", wait_ready=False) as second,
    ):
        await second.logged("standing by")
        assert await second.readiness() == (200, None)
        for _ in range(8):
            assert (await caller.call("scheduler", "state"))["result"]["workers"][0]["worker"] == "w1"


async def test_a_paused_scheduler_leaves_when_it_finds_another_in_its_place(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer, nc: Client
) -> None:
    async with (
        running_process("aios_scheduler", server, instance="first") as first,
        running_process("aios_scheduler", server, instance="second", wait_ready=False) as second,
    ):
        await second.logged("standing by")
        first.signal(signal.SIGSTOP)
        await second.logged("ready")
        first.signal(signal.SIGCONT)
        assert await first.wait() == 0
        call = await caller.model_call()
        await worker.done(await worker.run())
        assert (await caller.end(call))["type"] == "done"


async def test_each_scheduler_sends_a_higher_fencing_token(
    caller: ModelCaller, worker: ScriptedWorker, server: NatsServer, nc: Client
) -> None:
    tokens: list[int] = []

    async def note(message: object) -> None:
        tokens.append(int((getattr(message, "headers", None) or {})[wire.FENCE]))

    await nc.subscribe(subjects.worker("default", "w1", "run"), cb=note)
    for number in range(2):
        async with running_process("aios_scheduler", server, instance="only"):
            call = await caller.model_call()
            await worker.done(await worker.run(number))
            assert (await caller.end(call))["type"] == "done"
    assert 0 < tokens[0] < tokens[1]
