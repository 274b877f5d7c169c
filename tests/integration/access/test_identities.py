"""How agents come into being, change their secret and go."""

import asyncio
import json
from pathlib import Path

import pytest
from nats.errors import Error as NatsError
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer, running_nats
from support.running_service import access_env, running_process

from aios_proto.tokens import AgentToken

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def is_let_in(server: NatsServer, token: str) -> bool:
    try:
        agent = await RawAgent.connect(server.url, token)
    except NatsError:
        return False
    await agent.close()
    return True


async def test_a_new_agent_is_usable_at_once_with_the_rights_of_its_group(installation: Installation) -> None:
    agent = await installation.agent("guest")
    seen = await agent.result("access", "whoami")
    assert seen == {"tenant": "default", "agent": agent.agent, "group": "guest"}
    assert (await agent.error("access", "agent.list"))["code"] == "access.denied"


async def test_a_name_is_given_once(installation: Installation) -> None:
    token = await installation.create("twin")
    error = await installation.operator.error("access", "agent.create", {"agent": "twin"})
    assert (error["code"], error["field"]) == ("resource.conflict", "agent")
    assert await is_let_in(installation.server, token)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "request.invalid", "agent"),
        ({"agent": "a.b"}, "request.invalid", "agent"),
        ({"agent": ""}, "request.invalid", "agent"),
        ({"agent": "x" * 65}, "request.invalid", "agent"),
        ({"agent": "x", "group": "wizard"}, "request.invalid", "group"),
        ({"agent": "x", "tenant": "kernel"}, "request.invalid", "tenant"),
        ({"agent": "x", "admin": True}, "request.invalid", "admin"),
        (b"[]", "request.malformed", "body"),
    ],
)
async def test_an_identity_that_cannot_be_is_refused_by_field(
    installation: Installation, body: object, code: str, field: str
) -> None:
    error = await installation.operator.error("access", "agent.create", body)
    assert (error["code"], error["field"]) == (code, field)


async def test_the_list_shows_the_own_tenant_and_no_secret(installation: Installation) -> None:
    token = AgentToken.parse(await installation.create("listed"))
    await installation.create("elsewhere", tenant="far")
    result = await installation.operator.result("access", "agent.list")
    names = [agent["agent"] for agent in result["agents"]]
    assert names == sorted(names)
    assert {"listed", "operator"} <= set(names)
    assert {agent["tenant"] for agent in result["agents"]} == {"default"}
    assert token.secret not in json.dumps(result)
    assert token.secret_sha256 not in json.dumps(result)


async def test_rotating_gives_a_new_secret_and_ends_the_old_one(installation: Installation) -> None:
    old = await installation.create("rotated", group="guest")
    made = await installation.operator.result("access", "agent.rotate", {"agent": "rotated"})
    assert made["group"] == "guest"
    assert await is_let_in(installation.server, made["token"])
    assert not await is_let_in(installation.server, old)


async def test_a_revoked_agent_may_do_nothing_any_more_even_while_connected(installation: Installation) -> None:
    token = await installation.create("fired")
    cut = asyncio.Event()

    async def closed() -> None:
        cut.set()

    await installation.connect(token, closed_cb=closed)
    info = await installation.operator.result("access", "agent.revoke", {"agent": "fired"})
    assert info["agent"] == "fired"
    await asyncio.wait_for(cut.wait(), 10)
    assert not await is_let_in(installation.server, token)
    again = await installation.operator.error("access", "agent.revoke", {"agent": "fired"})
    assert (again["code"], again["field"]) == ("resource.not_found", "agent")
    assert await is_let_in(installation.server, await installation.create("fired"))
    assert not await is_let_in(installation.server, token)


@pytest.mark.parametrize("operation", ["agent.rotate", "agent.revoke"])
async def test_what_does_not_exist_cannot_be_changed(installation: Installation, operation: str) -> None:
    error = await installation.operator.error("access", operation, {"agent": "ghost"})
    assert (error["code"], error["field"]) == ("resource.not_found", "agent")


async def test_an_operator_of_another_tenant_rules_there_and_only_there(installation: Installation) -> None:
    theirs = await installation.connect(await installation.create("boss", tenant="their", group="operator"))
    made = await theirs.result("access", "agent.create", {"agent": "worker"})
    assert made["tenant"] == "their"
    assert await is_let_in(installation.server, made["token"])
    victim = await installation.create("victim")
    for operation, body in (
        ("agent.create", {"agent": "spy", "tenant": "default"}),
        ("agent.rotate", {"agent": "victim", "tenant": "default"}),
        ("agent.revoke", {"agent": "victim", "tenant": "default"}),
    ):
        error = await theirs.error("access", operation, body)
        assert (error["code"], error["field"]) == ("access.denied", "tenant")
    assert await is_let_in(installation.server, victim)
    names = {agent["agent"] for agent in (await theirs.result("access", "agent.list"))["agents"]}
    assert names == {"boss", "worker"}
    gone = await installation.operator.result("access", "agent.revoke", {"agent": "worker", "tenant": "their"})
    assert gone["tenant"] == "their"
    assert not await is_let_in(installation.server, made["token"])


async def test_an_agent_that_two_operators_rotate_at_once_has_one_working_secret(installation: Installation) -> None:
    await installation.create("contended")
    frames = await asyncio.gather(
        *(installation.operator.call("access", "agent.rotate", {"agent": "contended"}) for _ in range(8))
    )
    tokens = [frame["result"]["token"] for frame in frames if frame["type"] == "done"]
    codes = {frame["error"]["code"] for frame in frames if frame["type"] == "error"}
    assert tokens
    assert codes <= {"resource.conflict"}
    assert [await is_let_in(installation.server, token) for token in tokens].count(True) == 1


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_what_one_replica_does_the_other_knows(installation: Installation) -> None:
    async with running_process(
        "aios_access", installation.server, "access", access_env(installation.server), instance="access-2"
    ) as second:
        tokens = [await installation.create() for _ in range(20)]
        agents = await asyncio.gather(*(installation.connect(token) for token in tokens))
        seen = await asyncio.gather(*(agent.result("access", "whoami") for agent in agents for _ in range(3)))
        assert len(seen) == 60
        served = (await second.get("/metrics"))[1]
        assert 'aios_calls_total{operation="access.whoami",outcome="ok"}' in served
        for agent in agents:
            await installation.operator.result("access", "agent.revoke", {"agent": agent.agent})
        for token in tokens:
            async with asyncio.timeout(10):
                while await is_let_in(installation.server, token):
                    pass


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_access_gone_and_back_knows_everyone_it_knew(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        env = access_env(server)
        async with running_process("aios_access", server, "access", env) as access:
            operator = await RawAgent.connect(server.url, server.operator_token, allow_reconnect=True)
            survivor, revoked = [
                (await operator.result("access", "agent.create", {"agent": name}))["token"]
                for name in ("survivor", "revoked")
            ]
            await operator.result("access", "agent.revoke", {"agent": "revoked"})
            await access.kill()
            async with running_process("aios_access", server, "access", env):
                agent = await RawAgent.connect(server.url, survivor)
                assert (await agent.result("access", "whoami"))["agent"] == "survivor"
                assert not await is_let_in(server, revoked)
                await agent.close()
                # The connection of before is served by the new process as well.
                assert (await operator.result("access", "whoami"))["agent"] == "operator"
            await operator.close()
