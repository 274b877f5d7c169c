"""A call that waits for a quota passes by the rights its agent has when its turn comes, at either replica of access."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.audit_reader import AuditReader, Record
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer
from support.quota_waits import CHAT, begun, ended, full, open_calls, two_replicas, waiting

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

WAITING = 6
"""The bus deals calls out to the replicas as it likes; of so many each has some."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    async with two_replicas(server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def audit(installation: Installation) -> AsyncIterator[AuditReader]:
    reader = await AuditReader.connect(installation.server)
    yield reader
    await reader.close()


async def put_policy(installation: Installation, agent: RawAgent, text: str) -> None:
    """Puts a document of this agent in force; empty is none."""
    await installation.operator.result("access", "policy.put", {"name": agent.agent, "text": text})


async def until_all_say(installation: Installation, agent: RawAgent, decision: str) -> None:
    """Returns when ten answers in a row, which both replicas share, say this of the agent's model calls."""
    body = {"agent": agent.agent, "operation": "llm.chat"}
    in_a_row = 0
    async with asyncio.timeout(20):
        while in_a_row < 10:
            found = await installation.operator.result("access", "policy.check", body)
            in_a_row = in_a_row + 1 if found["decision"] == decision else 0


def is_decision_on(call_id: str, record: Record) -> bool:
    return record.get("id") == call_id and record["kind"] == "decision"


async def test_a_call_that_a_policy_forbids_by_the_time_its_turn_comes_is_refused_and_takes_nothing(
    installation: Installation, audit: AuditReader
) -> None:
    # What some of these calls reserve is more than all the tokens there are.
    agent, running = await full(installation, tokens=100, tokens_window_s=86_400)
    waits = [await waiting(agent) for _ in range(WAITING)]
    forbid = f'@id("stop") forbid(principal == Agent::"default.{agent.agent}", action == Action::"llm.chat", resource);'
    await put_policy(installation, agent, forbid)
    await until_all_say(installation, agent, "deny")
    await ended(agent, running)
    at_once = await agent.error("llm", "chat", CHAT)
    for call_id, reply in waits:
        error = (await agent.inbox.next(reply, 20))["error"]
        assert {**error, "syscall_id": "", "trace_id": ""} == {**at_once, "syscall_id": "", "trace_id": ""}
        record = await audit.find("default", partial(is_decision_on, call_id))
        assert (record["effect"], record["code"]) == ("deny", "access.denied")
    assert await open_calls(agent) == {}
    await put_policy(installation, agent, "")
    await until_all_say(installation, agent, "allow")
    await ended(agent, await begun(agent))


async def test_a_call_that_needs_a_humans_consent_by_the_time_its_turn_comes_is_parked(
    installation: Installation,
) -> None:
    agent, running = await full(installation)
    call_id, reply = await waiting(agent)
    ask = (
        f'@id("ask") @ask permit(principal == Agent::"default.{agent.agent}", action == Action::"llm.chat", resource);'
    )
    await put_policy(installation, agent, ask)
    await until_all_say(installation, agent, "ask")
    await ended(agent, running)
    assert (await agent.inbox.next(reply, 20))["type"] == "pending_approval"
    assert (await agent.result("syscall", "cancel", {"id": call_id}))["state"] == "parked"
    await put_policy(installation, agent, "")


async def test_the_waiting_calls_of_a_revoked_agent_end_at_once_and_never_run(
    installation: Installation, audit: AuditReader
) -> None:
    agent, running = await full(installation)
    waits = [await waiting(agent) for _ in range(WAITING)]
    await installation.operator.result("access", "agent.revoke", {"agent": agent.agent})
    # The call they wait for has not ended.
    for call_id, _ in waits:
        record = await audit.find("default", partial(is_decision_on, call_id))
        assert (record["effect"], record["code"]) == ("deny", "access.denied")
    # An agent of the same name is another one, but is shown what still runs under it.
    again = await installation.connect(await installation.create(agent.agent))
    assert set(await open_calls(again)) == {running}
    await ended(again, running)
    last = await begun(again)
    assert set(await open_calls(again)) == {last}
    await ended(again, last)
    records = await audit.records("default")
    for call_id, _ in waits:
        assert [record["effect"] for record in records if is_decision_on(call_id, record)] == ["deny"]
