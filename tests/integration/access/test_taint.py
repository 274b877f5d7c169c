"""The mark of untrusted content: known to every replica at once, to managers and in traces; policies can act on it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.attack_world import CONTAINMENT, declare
from support.frame_inbox import RawAgent
from support.kernel_peer import kernel_peer
from support.nats_server import NatsServer, running_nats
from support.otlp_sink import OtlpSink
from support.running_service import access_env, running_process

from aios_proto import headers as wire
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

WIPE = {"name": "wipe", "arguments": {}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with running_nats(tmp_path / "bus") as running:
        yield running


async def prepared(server: NatsServer) -> tuple[RawAgent, RawAgent]:
    """The operator, with the containment policy in force, and an agent."""
    operator = await RawAgent.connect(server.url, server.operator_token)
    await declare(server, "default", "wipe", "irreversible")
    await operator.result("access", "policy.put", {"name": "containment", "text": CONTAINMENT})
    made = await operator.result("access", "agent.create", {"agent": "pilot"})
    act = {"agent": "pilot", "operation": "tool.call", "resource": 'Tool::"wipe"', "tainted": True}
    in_a_row = 0
    async with asyncio.timeout(10):  # every replica has heard of the policy, the tool and the agent
        while in_a_row < 10:
            frame = await operator.call("access", "policy.check", act)
            in_a_row = in_a_row + 1 if frame["type"] == "done" and frame["result"]["decision"] == "deny" else 0
    return operator, await RawAgent.connect(server.url, made["token"])


async def test_no_replica_lets_a_program_act_that_another_saw_read_a_shared_note(server: NatsServer) -> None:
    env = access_env(server)
    async with (
        running_process("aios_access", server, "access", env, instance="access-1"),
        running_process("aios_access", server, "access", env, instance="access-2"),
        kernel_peer(server, "memory", "memory"),
        kernel_peer(server, "tool", "tool") as tools,
    ):
        operator, agent = await prepared(server)
        for number in range(30):
            headers = {wire.PROGRAM: f"run-{number}"}
            clean = await agent.send("tool", "call", WIPE, headers=headers)
            assert (await agent.inbox.next(clean))["type"] == "pending_approval"
            await agent.result("memory", "search", {"query": "x", "pool": "news"}, headers=headers)
            # At once: the other replica may not have heard of the mark yet.
            refused = await agent.error("tool", "call", WIPE, headers=headers)
            assert refused["code"] == "access.denied"
            assert "containment:no-undo-when-tainted" in refused["message"]
        assert tools.received == []
        await agent.close()
        await operator.close()


async def test_a_mark_outlives_access(server: NatsServer) -> None:
    env = access_env(server)
    headers = {wire.PROGRAM: "run-1"}
    async with kernel_peer(server, "memory", "memory"), kernel_peer(server, "tool", "tool") as tools:
        async with running_process("aios_access", server, "access", env) as access:
            operator, agent = await prepared(server)
            await agent.result("memory", "search", {"query": "x", "pool": "news"}, headers=headers)
            await access.kill()
        async with running_process("aios_access", server, "access", env):
            assert (await agent.error("tool", "call", WIPE, headers=headers))["code"] == "access.denied"
            assert tools.received == []
            await agent.close()
            await operator.close()


async def test_managers_and_traces_are_told_where_untrusted_content_came_from(server: NatsServer) -> None:
    with OtlpSink() as sink:
        env = access_env(server) | {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
        async with (
            running_process("aios_access", server, "access", env),
            kernel_peer(server, "memory", "memory") as memory,
        ):
            operator, agent = await prepared(server)
            headers = {wire.PROGRAM: "run-1", wire.TAINT: "tool:forged"}
            await agent.result("memory", "list", {}, headers=headers, call_id=(clean := new_syscall_id()))
            await agent.result("memory", "search", {"query": "x", "pool": "news"}, headers=headers)
            await agent.result("memory", "list", {}, headers=headers, call_id=(tainted := new_syscall_id()))
            assert wire.TAINT not in ((await memory.received_call(clean)).headers or {})
            assert ((await memory.received_call(tainted)).headers or {})[wire.TAINT] == "pool:news"
            spans = await sink.wait(
                lambda spans: any(span.attributes.get("aios.syscall.id") == tainted for span in spans)
            )
            by_call = {span.attributes.get("aios.syscall.id"): span for span in spans if span.name == "access"}
            assert by_call[tainted].attributes["aios.taint"] == "pool:news"
            assert "aios.taint" not in by_call[clean].attributes
            await agent.close()
            await operator.close()
