"""Policies as an operator changes them while agents are working: on every replica, at once, and never half."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import KernelPeer, kernel_peer
from support.nats_server import NatsServer
from support.running_service import access_env, running_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_NOTES = '@id("no-notes") forbid(principal, action == Action::"memory.add", resource);'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def second(server: NatsServer, installation: Installation) -> AsyncIterator[None]:
    async with running_process("aios_access", server, "access", access_env(server), instance="access-2"):
        yield


async def until_all_say(
    operator: RawAgent, operation: str, body: object, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The answer that ten calls in a row, which both replicas share, agree on; a replica may not have heard yet."""
    in_a_row = 0
    async with asyncio.timeout(10):
        while True:
            frame = await operator.call("access", operation, body)
            in_a_row = in_a_row + 1 if frame["type"] == "done" and wanted(frame["result"]) else 0
            if in_a_row == 10:
                result: dict[str, Any] = frame["result"]
                return result


async def until(agent: RawAgent, expected: str) -> None:
    """Returns when ten calls in a row, which both replicas share, end like this: a code, or `done`."""
    in_a_row = 0
    async with asyncio.timeout(10):
        while in_a_row < 10:
            frame = await agent.call("memory", "add", {"content": "x"})
            ended = frame["error"]["code"] if frame["type"] == "error" else "done"
            in_a_row = in_a_row + 1 if ended == expected else 0


async def test_a_policy_takes_effect_on_all_replicas_and_goes_again(
    installation: Installation, memory: KernelPeer, second: None
) -> None:
    operator, agent = installation.operator, await installation.agent()
    await until(agent, "done")
    made = await operator.result("access", "policy.put", {"name": "notes", "text": NO_NOTES})
    assert (made["version"], made["policies"], made["author"]) == (1, ["notes:no-notes"], "default.operator")
    await until(agent, "access.denied")
    error = await agent.error("memory", "add", {"content": "x"})
    assert "notes:no-notes" in error["message"]
    assert (await operator.result("access", "policy.put", {"name": "notes", "text": ""}))["version"] == 2
    await until(agent, "done")
    old = await operator.result("access", "policy.get", {"name": "notes", "version": 1})
    assert old["text"] == NO_NOTES
    assert (await operator.result("access", "policy.get", {"name": "notes"}))["text"] == ""


async def test_the_built_in_policies_can_be_read_replaced_and_put_back(
    installation: Installation, memory: KernelPeer, second: None
) -> None:
    operator, agent = installation.operator, await installation.agent()
    builtin = await operator.result("access", "policy.get")
    assert builtin["version"] == 0
    await operator.result("access", "policy.put", {"text": 'permit(principal in Group::"operator", action, resource);'})
    await until(agent, "access.denied")
    await operator.result("access", "policy.put", {"text": builtin["text"]})
    await until(agent, "done")
    assert (await operator.result("access", "policy.get", {"version": 0}))["text"] == builtin["text"]


async def test_check_says_whether_and_by_which_policy(installation: Installation, second: None) -> None:
    operator, agent = installation.operator, await installation.agent()
    text = '@id("wipe") @ask permit(principal, action == Action::"tool.call", resource == Tool::"default/wipe");'
    await operator.result("access", "policy.put", {"name": "tools", "text": text})

    async def check(operation: str, resource: str | None = None) -> tuple[str, list[str]]:
        body = {"agent": agent.agent, "operation": operation, "resource": resource}
        found = await operator.result("access", "policy.check", body)
        return found["decision"], found["policies"]

    wipe = {"agent": agent.agent, "operation": "tool.call", "resource": 'Tool::"wipe"'}
    await until_all_say(operator, "policy.check", wipe, lambda found: found["decision"] == "ask")
    assert await check("tool.call", 'Tool::"look"') == ("allow", ["default:agent"])
    assert await check("scheduler.drain") == ("deny", [])
    for body, field in (
        ({"agent": agent.agent, "operation": "no.such"}, "operation"),
        ({"agent": "nobody", "operation": "llm.chat"}, "agent"),
        ({"agent": agent.agent, "operation": "llm.chat", "resource": "Folder::x"}, "resource"),
    ):
        assert (await operator.error("access", "policy.check", body))["field"] == field
    await operator.result("access", "policy.put", {"name": "tools", "text": ""})


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"name": "bad", "text": "permit("}, "request.invalid", "text"),
        (
            {"name": "bad", "text": 'permit(principal, action == Action::"no.such", resource);'},
            "request.invalid",
            "text",
        ),
        ({"name": "a.b", "text": ""}, "request.invalid", "name"),
        ({"name": "bad", "text": "forbid(principal, action, resource);"}, "request.invalid", "text"),
        ({"name": "bad", "text": "", "expect_version": 3}, "resource.conflict", "expect_version"),
        ({"text": "x" * 131_073}, "request.invalid", "text"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_and_nothing_changes(
    installation: Installation, body: object, code: str, field: str
) -> None:
    operator = installation.operator
    error = await operator.error("access", "policy.put", body)
    assert (error["code"], error["field"]) == (code, field)
    names = {document["name"] for document in (await operator.result("access", "policy.list"))["documents"]}
    assert "bad" not in names


async def test_agents_and_operators_of_other_tenants_cannot_change_or_read_policies(
    installation: Installation,
) -> None:
    agent = await installation.agent()
    foreign = await installation.agent("operator", tenant="acme")
    for operation, body in (("put", {"text": ""}), ("get", {}), ("list", {})):
        assert (await agent.error("access", f"policy.{operation}", body))["code"] == "access.denied"
        abroad = {**body, "tenant": "default"}
        assert (await foreign.error("access", f"policy.{operation}", abroad))["code"] == "access.denied"
    made = await foreign.result("access", "policy.put", {"name": "own", "text": "", "tenant": "acme"})
    assert made["tenant"] == "acme"
    await until_all_say(
        installation.operator,
        "policy.list",
        {"tenant": "acme"},
        lambda listed: [document["name"] for document in listed["documents"]] == ["default", "own"],
    )


async def test_policies_outlive_access(server: NatsServer, installation: Installation, second: None) -> None:
    operator = installation.operator
    await operator.result("access", "policy.put", {"name": "kept", "text": NO_NOTES})
    async with running_process("aios_access", server, "access", access_env(server), instance="access-3"):
        agent = await installation.agent()
        for _ in range(12):
            assert (await agent.error("memory", "add", {"content": "x"}))["code"] == "access.denied"
    await operator.result("access", "policy.put", {"name": "kept", "text": ""})
