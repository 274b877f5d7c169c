"""Replicas of access come and go while calls wait there for a quota."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer, running_nats
from support.running_service import ServiceProcess, access_env, running_process

from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# More than the quota ever has: it waits for as long as it may.
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200}
LIMITS = {"tokens": 100, "tokens_window_s": 10, "wait_s": 60}


class World:
    """A bus, one replica of access, a scheduler, and an agent with a quota."""

    def __init__(self, server: NatsServer, first: ServiceProcess, agent: RawAgent) -> None:
        self.server = server
        self.first = first
        self.agent = agent

    def second(self) -> contextlib.AbstractAsyncContextManager[ServiceProcess]:
        return running_process("aios_access", self.server, "access", access_env(self.server), instance="access-2")

    async def send(self, *call_ids: str) -> list[str]:
        """Sends calls that have to wait; their reply subjects."""
        return [await self.agent.send("llm", "chat", CHAT, call_id=each) for each in call_ids]

    async def open_calls(self) -> set[str]:
        """The ids of the agent's open calls, once the list can be had."""
        async with asyncio.timeout(30):
            while True:
                frame = await self.agent.call("syscall", "list")
                if frame["type"] == "done":
                    return {each["id"] for each in frame["result"]["calls"]}
                assert frame["error"]["retryable"], frame

    async def until_open(self, *call_ids: str) -> None:
        """Returns when these calls are open and no others."""
        async with asyncio.timeout(30):
            while await self.open_calls() != set(call_ids):
                await asyncio.sleep(0.02)

    async def cancel(self, call_id: str) -> dict[str, Any]:
        return await self.agent.result("syscall", "cancel", {"id": call_id})


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    with running_nats(folder) as server:
        async with (
            running_process("aios_access", server, "access", access_env(server), instance="access-1") as first,
            running_process("aios_scheduler", server, "scheduler", wait_ready=False) as scheduler,
        ):
            await scheduler.logged("ready")
            operator = await RawAgent.connect(server.url, server.operator_token)
            token = (await operator.result("access", "agent.create", {"agent": "pilot"}))["token"]
            agent = await RawAgent.connect(server.url, token)
            await operator.result("access", "quota.set", {"scope": "agent", "name": "pilot", "limits": LIMITS})
            yield World(server, first, agent)
            await agent.close()
            await operator.close()


async def test_a_replica_that_comes_later_knows_what_waits_at_the_first(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        ids = [new_syscall_id() for _ in range(10)]
        replies = await made.send(*ids)
        await made.until_open(*ids)
        async with made.second():
            for _ in range(8):
                assert await made.open_calls() == set(ids)
            for call_id, reply in zip(ids, replies, strict=True):
                assert (await made.cancel(call_id))["state"] == "queued"
                assert (await made.agent.inbox.next(reply))["error"]["code"] == "syscall.cancelled"
            assert await made.open_calls() == set()


async def test_calls_that_wait_at_a_replica_that_stops_are_sent_again_and_wait_at_the_other(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.second():
        ids = [new_syscall_id() for _ in range(10)]
        replies = await made.send(*ids)
        await made.until_open(*ids)
        assert await made.first.stop() == 0
        # Which of them waited there the bus has decided.
        left = await made.open_calls()
        for call_id, reply in zip(ids, replies, strict=True):
            if call_id not in left:
                error = (await made.agent.inbox.next(reply))["error"]
                assert (error["code"], error["retryable"]) == ("bus.unavailable", True)
                await made.agent.send("llm", "chat", CHAT, call_id=call_id, reply=reply)
        await made.until_open(*ids)
        for call_id, reply in zip(ids, replies, strict=True):
            assert (await made.cancel(call_id))["state"] == "queued"
            assert (await made.agent.inbox.next(reply))["error"]["code"] == "syscall.cancelled"


async def test_calls_that_waited_at_a_replica_that_was_killed_are_gone_and_can_be_made_again(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        ids = [new_syscall_id() for _ in range(4)]
        await made.send(*ids)
        await made.until_open(*ids)
        async with made.second():
            await made.until_open(*ids)
            await made.first.kill()
            await made.until_open()
            async with asyncio.timeout(30):
                # It is believed to live for as long as its heartbeats may be late.
                while (error := await made.agent.error("syscall", "cancel", {"id": ids[0]}))["retryable"]:
                    assert error["code"] == "manager.unavailable"
                    await asyncio.sleep(0.1)
            assert error["code"] == "syscall.unknown"
            # A caller that heard nothing sends again, as the SDK does.
            replies = await made.send(*ids)
            await made.until_open(*ids)
            for call_id, reply in zip(ids, replies, strict=True):
                assert (await made.cancel(call_id))["state"] == "queued"
                assert (await made.agent.inbox.next(reply))["error"]["code"] == "syscall.cancelled"
