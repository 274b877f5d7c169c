"""Two replicas of access, agents whose calls wait there for a quota, and who knows of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer
from support.otlp_sink import OtlpSink
from support.running_service import access_env, running_process

from aios_proto.ids import new_syscall_id

CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8}


@contextlib.asynccontextmanager
async def two_replicas(server: NatsServer) -> AsyncIterator[Installation]:
    """Two replicas of access and a real scheduler, which has no workers: what passes stays open there."""
    with OtlpSink() as sink:
        env = access_env(server) | {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
        async with (
            running_process("aios_access", server, "access", env, instance="access-1") as first,
            running_process("aios_access", server, "access", env, instance="access-2"),
            running_process("aios_scheduler", server, "scheduler", wait_ready=False) as scheduler,
        ):
            await scheduler.logged("ready")
            operator = await RawAgent.connect(server.url, server.operator_token, allow_reconnect=True)
            made = Installation(server, first, operator, sink)
            yield made
            await made.close()
            await operator.close()


async def limit(installation: Installation, agent: RawAgent, **limits: float) -> None:
    """Sets a quota, and waits until both replicas know it."""
    body = {"scope": "agent", "name": agent.agent, "limits": limits}
    await installation.operator.result("access", "quota.set", body)
    seen = 0
    async with asyncio.timeout(20):
        while seen < 8:
            shown = (await installation.operator.result("access", "quota.show"))["quotas"]
            found = [quota for quota in shown if quota["name"] == agent.agent]
            known = bool(found) and all(found[0]["limits"].get(name) == value for name, value in limits.items())
            seen = seen + 1 if known else 0


async def open_calls(agent: RawAgent) -> dict[str, dict[str, Any]]:
    """The open calls of an agent, by id."""
    listed = await agent.result("syscall", "list")
    return {each["id"]: each for each in listed["calls"]}


async def listed(agent: RawAgent, *call_ids: str) -> dict[str, dict[str, Any]]:
    """The open calls of an agent, once all of these are among them, whichever replica is asked."""
    seen = 0
    async with asyncio.timeout(20):
        while True:
            shown = await open_calls(agent)
            seen = seen + 1 if set(call_ids) <= set(shown) else 0
            if seen == 8:
                return shown


async def begun(agent: RawAgent) -> str:
    """A model call that has passed and stays open."""
    call_id = new_syscall_id()
    reply = await agent.send("llm", "chat", CHAT, call_id=call_id)
    frame = await agent.inbox.next(reply, 20)
    assert frame["type"] == "accepted", frame
    return call_id


async def waiting(agent: RawAgent, call_id: str | None = None) -> tuple[str, str]:
    """A model call for which there is no place, once it is known to wait; its id and its reply subject."""
    name = call_id or new_syscall_id()
    reply = await agent.send("llm", "chat", CHAT, call_id=name)
    await listed(agent, name)
    return name, reply


async def ended(agent: RawAgent, call_id: str) -> None:
    """Cancels a call."""
    assert (await agent.result("syscall", "cancel", {"id": call_id}))["id"] == call_id


async def full(installation: Installation, **more: float) -> tuple[RawAgent, str]:
    """An agent that may have one model call open, and has."""
    agent = await installation.agent()
    await limit(installation, agent, concurrent_calls=1, wait_s=60, **more)
    return agent, await begun(agent)
