"""From end to end with the real tool manager: an agent's own irreversible tool, called by another through the SDK."""

import asyncio
from pathlib import Path

import pytest
from support.nats_server import running_nats
from support.running_service import access_env, running_process

from aios import Agent, ApprovalDenied
from aios_proto.messages.access import (
    AgentCreateRequest,
    ApprovalDecision,
    ApprovalInfo,
    ApprovalListRequest,
    ApprovalListResult,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def one_waiting(human: Agent) -> ApprovalInfo:
    async with asyncio.timeout(20):
        while True:
            reply = await human.syscall("access", "approvals", ApprovalListRequest())
            if found := ApprovalListResult.model_validate(reply.result).approvals:
                return found[0]
            await asyncio.sleep(0.05)


async def test_a_human_lets_one_shot_pass_and_refuses_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    shots: list[str] = []
    with running_nats(tmp_path / "bus") as server:
        async with (
            running_process("aios_access", server, "access", access_env(server)) as access,
            running_process("aios_tool", server, "tool") as tools,
            Agent(token=server.operator_token, url=server.url) as human,
        ):

            async def new_agent(name: str) -> Agent:
                made = await human.syscall("access", "agent.create", AgentCreateRequest(agent=name))
                return Agent(token=str(made.result["token"]), url=server.url, connect_timeout_s=15)

            owner, caller = await new_agent("owner"), await new_agent("caller")

            @owner.tool(effects=["irreversible"])
            async def fire(where: str) -> str:
                """Fires the rocket."""
                shots.append(where)
                return "fired"

            async with owner, caller:
                first = caller.tools.call("fire", {"where": "moon"}, deadline_s=60)
                waiting = await one_waiting(human)
                assert (waiting.operation, waiting.agent) == ("tool.call", "caller")
                assert "moon" in waiting.summary
                assert shots == []
                # Whoever was asked is gone; who comes after him knows.
                await access.kill()
                async with running_process("aios_access", server, "access", access_env(server), instance="next"):
                    decision = ApprovalDecision(approval_id=waiting.approval_id, reason="go")
                    await human.syscall("access", "approve", decision)
                    assert (await first).content == "fired"
                    second = caller.tools.call("fire", {"where": "sun"}, deadline_s=60)
                    waiting = await one_waiting(human)
                    refusal = ApprovalDecision(approval_id=waiting.approval_id, reason="too hot")
                    await human.syscall("access", "deny", refusal)
                    with pytest.raises(ApprovalDenied, match="too hot"):
                        await second
            assert shots == ["moon"]
            assert tools.returncode is None


async def test_who_attaches_to_a_shot_that_waits_hears_it_and_so_does_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    shots: list[str] = []
    with running_nats(tmp_path / "bus") as server:
        async with (
            running_process("aios_access", server, "access", access_env(server)),
            running_process("aios_tool", server, "tool"),
            Agent(token=server.operator_token, url=server.url) as human,
        ):

            async def new_token(name: str) -> str:
                made = await human.syscall("access", "agent.create", AgentCreateRequest(agent=name))
                return str(made.result["token"])

            owner, caller = Agent(token=await new_token("owner"), url=server.url), await new_token("caller")

            @owner.tool(effects=["irreversible"])
            async def fire(where: str) -> str:
                """Fires the rocket."""
                shots.append(where)
                return "fired"

            async with (
                owner,
                Agent(token=caller, url=server.url, connect_timeout_s=15) as first,
                Agent(token=caller, url=server.url, connect_timeout_s=15) as second,
            ):
                made = first.tools.call("fire", {"where": "moon"}, deadline_s=60)
                waiting = await one_waiting(human)
                attached = second.calls.attach(made.id, deadline_s=60)
                await attached.accepted()
                decision = ApprovalDecision(approval_id=waiting.approval_id, reason="go")
                await human.syscall("access", "approve", decision)
                assert (await attached).result["content"] == "fired"
                assert (await made).content == "fired"
            assert shots == ["moon"]
