"""Many at once, and many that are wrong at once."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from nats.errors import Error as NatsError
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import KernelPeer, kernel_peer

from aios_proto import headers as wire
from aios_proto.frames import FRAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

Wrong = tuple[str, str, dict[str, Any], str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


def kinds() -> list[Wrong]:
    past = str(int(time.time() * 1000) - 60_000)
    far = str(int(time.time() * 1000) + 10 * 24 * 3_600_000)
    return [
        ("memory", "add", {"headers": {wire.ID: None}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.ID: "a.b"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.PROTO: None}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.PROTO: "99"}}, "request.unsupported_protocol"),
        ("memory", "add", {"headers": {wire.PRIORITY: "urgent"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.PRIORITY: "10"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.DEADLINE: "tomorrow"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.DEADLINE: far}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.DEADLINE: past}}, "deadline.exceeded"),
        ("memory", "add", {"headers": {wire.AFTER: "a b c"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.CONTEXT: "../x"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.DURABILITY: "forever"}}, "request.invalid"),
        ("memory", "add", {"headers": {wire.DURABILITY: "durable"}}, "request.invalid"),
        ("memory", "add", {"body": b"x" * (2 << 20)}, "request.too_large"),
        ("memory", "nothing", {}, "request.unknown_operation"),
        ("nobody", "add", {}, "request.unknown_manager"),
        ("access", "agent.create", {"body": {"agent": "mine"}}, "access.denied"),
        ("access", "whoami", {"body": b"{broken"}, "request.malformed"),
        ("access", "whoami", {"body": b"\x00\xff"}, "request.malformed"),
        ("access", "whoami", {"body": {"who": "me"}}, "request.invalid"),
        ("storage", "read", {}, "manager.unavailable"),
        (
            "scheduler",
            "state",
            {"headers": {wire.GROUP: "operator", wire.TENANT: "default", wire.AGENT: "operator"}},
            "access.denied",
        ),
    ]


async def test_a_hundred_wrong_calls_of_every_kind_each_get_their_error_and_sound_ones_still_pass(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    wrong = list(itertools.islice(itertools.cycle(kinds()), 100))

    async def one(manager: str, operation: str, call: dict[str, Any], code: str) -> tuple[str, str]:
        frame = await agent.call(manager, operation, call.get("body", {}), headers=call.get("headers"))
        FRAME.validate_python(frame)
        return frame["error"]["code"], code

    outcomes = await asyncio.gather(*(one(*each) for each in wrong))
    assert [got for got, _ in outcomes] == [expected for _, expected in outcomes]
    assert memory.received == []
    assert await agent.result("memory", "add", {"content": "x"}) == {"subject": "aios.k.memory.add"}
    assert installation.access.returncode is None
    assert not [line for line in installation.access.log if line.get("level") == "error"]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_two_hundred_agents_that_connect_at_once_all_get_in_as_themselves(installation: Installation) -> None:
    tokens = await asyncio.gather(*(installation.create(f"crowd-{number}") for number in range(200)))

    async def arrive(number: int, token: str) -> str:
        agent = await patiently(lambda: RawAgent.connect(installation.server.url, token))
        try:
            seen = await agent.result("access", "whoami")
        finally:
            await agent.close()
        return str(seen["agent"])

    names = await asyncio.gather(*(arrive(number, token) for number, token in enumerate(tokens)))
    assert names == [f"crowd-{number}" for number in range(200)]


async def patiently(connect: Callable[[], Awaitable[RawAgent]]) -> RawAgent:
    """As a client does: where the server did not get to it in its three seconds, it asks again."""
    for _ in range(4):
        try:
            return await connect()
        except (NatsError, OSError, TimeoutError):
            continue
    return await connect()


async def test_a_crowd_of_strangers_keeps_nobody_out(installation: Installation) -> None:
    token = await installation.create()

    async def stranger(number: int) -> bool:
        try:
            agent = await RawAgent.connect(installation.server.url, f"default.stranger-{number}.secret")
        except (NatsError, OSError, TimeoutError):
            return False
        await agent.close()
        return True

    strangers = [asyncio.create_task(stranger(number)) for number in range(60)]
    agent = await patiently(lambda: RawAgent.connect(installation.server.url, token))
    assert (await agent.result("access", "whoami"))["agent"] == agent.agent
    await agent.close()
    assert not any(await asyncio.gather(*strangers))
