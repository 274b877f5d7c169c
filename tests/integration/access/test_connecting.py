"""Who gets onto the bus, and what the bus then lets it do."""

import asyncio
import uuid

import pytest
from nats.errors import Error as NatsError
from support.access_installation import Installation
from support.frame_inbox import RawAgent, connect_once
from support.nats_server import settle

from aios_proto.tokens import AgentToken

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refused(agent: RawAgent) -> str:
    """The permission error the bus sends, once it has."""
    await settle(agent.nc)
    async with asyncio.timeout(10):
        while not agent.errors:
            await asyncio.sleep(0.01)
    return agent.errors.pop()


async def test_the_operators_token_lets_it_in_as_itself(installation: Installation) -> None:
    seen = await installation.operator.result("access", "whoami")
    assert seen == {"tenant": "default", "agent": "operator", "group": "operator"}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "garbage",
        "default.operator",
        "default.operator.wrong",
        "default.nobody.secret",
        "default.>.secret",
        f"default.operator.{'x' * 3000}",
    ],
)
async def test_a_credential_that_proves_nothing_is_refused(installation: Installation, token: str) -> None:
    async def quiet(_: Exception) -> None: ...

    with pytest.raises(NatsError, match=r"(?i)authorization"):
        await connect_once(installation.server.url, token=token, error_cb=quiet)


async def test_without_a_credential_nobody_gets_in(installation: Installation) -> None:
    async def quiet(_: Exception) -> None: ...

    with pytest.raises(NatsError, match=r"(?i)authorization"):
        await connect_once(installation.server.url, error_cb=quiet)


async def test_another_agents_secret_does_not_fit(installation: Installation) -> None:
    mine = AgentToken.parse(await installation.create())
    other = AgentToken.parse(await installation.create())
    with pytest.raises(NatsError, match=r"(?i)authorization"):
        await RawAgent.connect(installation.server.url, str(AgentToken(other.tenant, other.agent, mine.secret)))


@pytest.mark.parametrize(
    "subject",
    [
        "aios.sys.default.operator.access.whoami",
        "aios.sys.other.{agent}.access.whoami",
        "aios.k.access.agent.create",
        "aios.k.llm.chat",
        "aios.k.presence.memory.fake",
        "aios.q.llm.chat",
        "aios.evt.default.syscall.denied",
        "$JS.API.STREAM.DELETE.AIOS_SYSCALLS",
        "$JS.API.STREAM.INFO.KV_AIOS_AGENTS",
        "$JS.API.STREAM.MSG.GET.KV_AIOS_AGENTS",
        "$JS.API.DIRECT.GET.KV_AIOS_AGENTS.$KV.AIOS_AGENTS.default.operator",
        "$KV.AIOS_AGENTS.default.evil",
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.default.operator.1",
        "_INBOX_AIOS.access.1",
    ],
)
async def test_the_bus_lets_an_agent_publish_nothing_but_its_own_calls(
    installation: Installation, subject: str
) -> None:
    agent = await installation.agent()
    await agent.nc.publish(subject.format(agent=agent.agent), b"{}")
    assert "permissions violation for publish" in (await refused(agent)).lower()
    assert (await agent.result("access", "whoami"))["agent"] == agent.agent


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "aios.>",
        "aios.sys.>",
        "aios.sys.default.{agent}.>",
        "aios.k.>",
        "aios.q.>",
        "aios.evt.>",
        "_INBOX.>",
        "_INBOX.default.>",
        "_INBOX.*.{agent}.>",
        "_INBOX.default.operator.>",
        "_INBOX.default.{agent}",
        "$KV.AIOS_AGENTS.>",
        "$SYS.>",
        "$JS.EVENT.>",
    ],
)
async def test_the_bus_lets_an_agent_hear_nothing_but_its_own_inbox(installation: Installation, subject: str) -> None:
    agent = await installation.agent()
    await agent.nc.subscribe(subject.format(agent=agent.agent))
    assert "permissions violation for subscription" in (await refused(agent)).lower()


async def test_a_name_that_begins_like_anothers_opens_nothing_of_it(installation: Installation) -> None:
    stem = f"a{uuid.uuid4().hex[:8]}"
    short = await installation.connect(await installation.create(stem))
    await installation.create(f"{stem}-long")
    await short.nc.subscribe(f"_INBOX.default.{stem}-long.>")
    assert "permissions violation" in (await refused(short)).lower()


async def test_refusals_do_not_write_the_secret_into_a_log(installation: Installation) -> None:
    secret = f"sesame-{uuid.uuid4().hex}"
    before = installation.access.events().count("a client was refused")
    with pytest.raises(NatsError):
        await RawAgent.connect(installation.server.url, f"default.operator.{secret}")
    await installation.access.logged("a client was refused", before + 1)
    assert secret not in installation.access.text()
    assert secret not in installation.server.log
