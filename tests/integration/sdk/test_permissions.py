"""What an agent's author sees when the bus itself refuses a message or a subscription."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import NatsServer, running_nats, settle
from support.scripted_kernel import scripted_kernel

import aios
from aios import Agent
from aios_access.nats_jwt import Issuer, Xkey, callout_answer, read_claims, user_claims
from aios_proto import subjects
from aios_proto.permissions import Permissions

TOKEN = "acme.alice.secret"
OWN_INBOX = "_INBOX.acme.alice.>"


async def grant(bus: NatsServer, client: Client, permissions: Permissions) -> None:
    """Lets whoever comes in, with these permissions."""
    credentials = bus.credentials
    assert credentials is not None
    issuer = Issuer(credentials.issuer_seed.read_text().strip())
    xkey = Xkey(credentials.xkey_seed.read_text().strip())

    async def answer(message: Msg) -> None:
        assert message.headers is not None
        server = message.headers["Nats-Server-Xkey"]
        claims = read_claims(xkey.open(message.data, server).decode())["nats"]
        jwt = issuer.sign(user_claims(claims["user_nkey"], "acme.alice", "AIOS", permissions))
        text = issuer.sign(callout_answer(claims["user_nkey"], claims["server_id"]["id"], jwt=jwt))
        await client.publish(message.reply, xkey.seal(text.encode(), server))

    await client.subscribe(subjects.AUTH_CALLOUT, cb=answer)
    await settle(client)


@pytest.fixture
async def bus_and_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[NatsServer, Client]]:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    for_access = tmp_path / "bus"
    with running_nats(for_access) as server:
        client = await server.connect("access")
        yield server, client
        await client.close()


async def test_a_call_the_bus_refuses_is_denied_at_once_and_the_others_go_on(
    bus_and_access: tuple[NatsServer, Client],
) -> None:
    bus, client = bus_and_access
    await grant(bus, client, Permissions(("aios.sys.acme.alice.llm.*",), (OWN_INBOX,)))
    async with (
        scripted_kernel(bus.url, nkeys_seed=str(bus.seed_file("access"))) as kernel,
        Agent(token=TOKEN, url=bus.url) as agent,
    ):
        allowed = agent.llm.chat("Hi")
        refused = agent.syscall("memory", "list")
        with pytest.raises(aios.AccessDenied, match=r"memory\.list"):
            await refused
        await (await kernel.next("llm.chat")).stream("fine")
        assert (await allowed).text == "fine"


async def test_an_agent_that_may_not_hear_its_replies_is_told(bus_and_access: tuple[NatsServer, Client]) -> None:
    bus, client = bus_and_access
    await grant(bus, client, Permissions(("aios.sys.acme.alice.>",), ("nothing",)))
    with pytest.raises(aios.AccessDenied, match="_INBOX"):
        async with Agent(token=TOKEN, url=bus.url):
            pass


async def test_a_bus_whose_access_service_is_away_is_unavailable_not_a_wrong_token(
    bus_and_access: tuple[NatsServer, Client],
) -> None:
    bus, _ = bus_and_access
    with pytest.raises(aios.BusUnavailable):
        await Agent(token=TOKEN, url=bus.url, connect_timeout_s=0.5).connect()


async def test_connecting_waits_for_an_access_service_that_comes_late(
    bus_and_access: tuple[NatsServer, Client],
) -> None:
    bus, client = bus_and_access
    agent = Agent(token=TOKEN, url=bus.url, connect_timeout_s=15)
    connecting = asyncio.create_task(agent.connect())
    await asyncio.sleep(0)
    await grant(bus, client, Permissions(("aios.sys.acme.alice.>",), (OWN_INBOX,)))
    await connecting
    assert agent.connected
    await agent.close()
    assert not agent.connected
