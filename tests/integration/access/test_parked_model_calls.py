"""A volatile model call that waited for a human is given to a worker once, and its approval is used up by it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer
from support.quota_waits import CHAT, ended, two_replicas
from support.scripted_worker import ScriptedWorker

from aios_proto import headers as wire
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    async with two_replicas(server) as made:
        yield made


async def ask_first(installation: Installation, agent: RawAgent) -> None:
    """Has a human asked before the agent's model calls, and waits until both replicas know."""
    ask = (
        f'@id("ask") @ask permit(principal == Agent::"default.{agent.agent}", action == Action::"llm.chat", resource);'
    )
    await installation.operator.result("access", "policy.put", {"name": agent.agent, "text": ask})
    in_a_row = 0
    async with asyncio.timeout(60):
        while in_a_row < 8:
            call_id = new_syscall_id()
            frame = await agent.inbox.next(await agent.send("llm", "chat", CHAT, call_id=call_id), 20)
            in_a_row = in_a_row + 1 if frame["type"] == "pending_approval" else 0
            await ended(agent, call_id)


async def test_an_approved_volatile_model_call_runs_once_and_is_released(installation: Installation) -> None:
    agent = await installation.agent()
    nc = await installation.server.connect("llm")
    worker = ScriptedWorker(nc)
    try:
        await ask_first(installation, agent)
        call_id = new_syscall_id()
        reply = await agent.send("llm", "chat", CHAT, headers={wire.DURABILITY: "volatile"}, call_id=call_id)
        frame = await agent.inbox.next(reply, 20)
        assert frame["type"] == "pending_approval"
        await worker.start()
        await installation.operator.result("access", "approve", {"approval_id": frame["approval_id"]})
        await worker.done(await worker.run())
        assert (await agent.inbox.until_end(reply, 20))[-1]["type"] == "done"
        async with asyncio.timeout(30):
            while True:
                shown = (await installation.operator.result("access", "approvals", {"all": True}))["approvals"]
                (state,) = [each["state"] for each in shown if each["approval_id"] == frame["approval_id"]]
                if state == "released":
                    break
        assert [given.headers.id for given in worker.given] == [call_id]
    finally:
        await worker.stop()
        await nc.close()
