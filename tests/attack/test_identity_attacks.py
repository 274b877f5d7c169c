"""ASI03: coming in as somebody else. The bus asks access, which refuses and records it in the kernel's own log."""

import secrets
from collections.abc import Callable
from typing import Any

import nkeys
import pytest
from support.attack_world import AttackWorld

from aios_proto.tokens import AgentToken

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _of(world: AttackWorld, name: str) -> AgentToken:
    return AgentToken.parse(world.tokens[name])


def _other(secret: str) -> str:
    return secret[:-1] + ("A" if secret[-1] != "A" else "B")


TOKENS: dict[str, Callable[[AttackWorld], str]] = {
    "a guessed secret": lambda world: f"default.victim.{secrets.token_urlsafe(32)}",
    "the victim's name with our own secret": lambda world: f"default.victim.{_of(world, 'agent').secret}",
    "an operator's name with our own secret": lambda world: f"default.operator.{_of(world, 'agent').secret}",
    "our name in another tenant": lambda world: f"acme.agent.{_of(world, 'agent').secret}",
    "another tenant's agent under our tenant": lambda world: f"default.worker.{_of(world, 'worker').secret}",
    "a secret that is one character short": lambda world: str(_of(world, "agent"))[:-1],
    "a secret that is one character long": lambda world: str(_of(world, "agent")) + "A",
    "a secret with its last character changed": lambda world: f"default.agent.{_other(_of(world, 'agent').secret)}",
    "a secret in upper case": lambda world: f"default.agent.{_of(world, 'agent').secret.upper()}",
    "the hash in the place of the secret": lambda world: f"default.agent.{_of(world, 'agent').secret_sha256}",
    "two secrets after each other": lambda world: f"default.agent.{_of(world, 'agent').secret}.x",
    "no secret": lambda world: "default.agent.",
    "no agent": lambda world: "default",
    "an agent that never was": lambda world: "default.nobody.secret",
    "a tenant that never was": lambda world: "nowhere.agent.secret",
    "the kernel's own tenant": lambda world: "kernel.access.secret",
    "a service's role as the agent": lambda world: "default.access.secret",
    "a wildcard for the agent": lambda world: f"default.*.{_of(world, 'agent').secret}",
    "a wildcard for the tenant": lambda world: f"*.agent.{_of(world, 'agent').secret}",
    "everything": lambda world: ">",
    "a name in other letters": lambda world: f"default.Agent.{_of(world, 'agent').secret}",
    "a name with a look-alike letter": lambda world: f"default.аgent.{_of(world, 'agent').secret}",  # Cyrillic а
    "a name with a line feed": lambda world: f"default.agent\n.{_of(world, 'agent').secret}",
    "a name with a zero byte": lambda world: f"default.agent\x00.{_of(world, 'agent').secret}",
    "a path in the place of the name": lambda world: f"default.../agent.{_of(world, 'agent').secret}",
    "a name that is too long": lambda world: f"default.{'a' * 65}.secret",
    "a very long token": lambda world: f"default.agent.{'x' * 3000}",
    "a JWT of our own making": lambda world: "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.eyJuYW1lIjoib3BlcmF0b3IifQ.",
    "Cedar in the name": lambda world: '" || true.agent.secret',
}


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_that_is_not_ones_own_opens_nothing(world: AttackWorld, name: str) -> None:
    token = TOKENS[name](world)
    refused_before = await _refusals(world)
    async with world.untouched():
        await world.refused_connection(token=token)
    await world.audit.find("kernel", lambda record: record["kind"] == "connect" and record["seq"] > refused_before)
    secret = token.rpartition(".")[2]
    if len(secret) > 20:
        for record in await world.audit.records("kernel"):
            assert secret not in str(record)


async def _refusals(world: AttackWorld) -> int:
    return max((record["seq"] for record in await world.audit.records("kernel")), default=0)


def _stranger_nkey() -> dict[str, Any]:
    seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()
    return {"nkeys_seed_str": seed}


async def _revoked(world: AttackWorld) -> str:
    agent = await world.add("soon-gone", "agent")
    await world.operator.result("access", "agent.revoke", {"agent": "soon-gone"})
    await agent.close()
    return world.tokens["soon-gone"]


async def test_a_revoked_token_opens_nothing(world: AttackWorld) -> None:
    await world.refused_connection(token=await _revoked(world))


async def test_a_rotated_token_opens_nothing(world: AttackWorld) -> None:
    agent = await world.add("rotated", "agent")
    await world.operator.result("access", "agent.rotate", {"agent": "rotated"})
    await world.refused_connection(token=world.tokens["rotated"])
    await agent.close()


async def test_no_credential_opens_nothing(world: AttackWorld) -> None:
    await world.refused_connection()


async def test_a_strangers_nkey_opens_nothing(world: AttackWorld) -> None:
    await world.refused_connection(**_stranger_nkey())


@pytest.mark.parametrize("user", ["access", "aios", "admin", "sys", "AIOS", "SYS", "operator"])
async def test_a_password_opens_nothing(world: AttackWorld, user: str) -> None:
    await world.refused_connection(user=user, password="secret")
