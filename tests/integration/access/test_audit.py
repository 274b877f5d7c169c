"""What stands in the audit log, that it is written by several replicas into one chain, and what survives."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.errors import Error as NatsError
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import kernel_peer
from support.nats_server import NatsServer, running_nats, settle
from support.running_service import access_env, running_process

from aios_access.audit_chain import ChainVerifier, Head
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

Record = dict[str, Any]


async def export(operator: RawAgent, tenant: str | None = None) -> list[str]:
    """All lines of a tenant's log."""
    lines: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        page = await operator.result(
            "access", "audit.export", {"cursor": cursor, **({"tenant": tenant} if tenant else {})}
        )
        lines += page["lines"].splitlines()
        cursor = page.get("cursor")
    return lines


async def records(operator: RawAgent, tenant: str | None = None) -> list[Record]:
    return [parsed["record"] for line in await export(operator, tenant) if "record" in (parsed := json.loads(line))]


async def about(operator: RawAgent, call_id: str, kind: str, tenant: str | None = None) -> Record:
    """The record of that kind on a call; the end of a call comes a moment after its answer."""
    async with asyncio.timeout(10):
        while True:
            for record in await records(operator, tenant):
                if record.get("id") == call_id and record["kind"] == kind:
                    return record


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(installation: Installation) -> AsyncIterator[RawAgent]:
    yield await installation.agent()


async def test_a_call_that_passes_leaves_who_what_and_how_it_ended(installation: Installation, agent: RawAgent) -> None:
    call_id = new_syscall_id()
    headers = {wire.PROGRAM: "run-7"}
    await agent.result("access", "whoami", {}, call_id=call_id, headers=headers)
    decision = await about(installation.operator, call_id, "decision")
    assert decision["effect"] == "allow"
    assert decision["agent"] == agent.agent
    assert decision["operation"] == "access.whoami"
    assert (decision["group"], decision["program"], decision["bytes"]) == ("agent", "run-7", 2)
    assert decision["policies"] == ["default:agent"]
    end = await about(installation.operator, call_id, "end")
    assert (end["agent"], end["operation"], end["code"]) == (agent.agent, "access.whoami", "ok")


async def test_a_refused_call_leaves_its_code(installation: Installation, agent: RawAgent) -> None:
    call_id = new_syscall_id()
    await agent.error("scheduler", "state", {}, call_id=call_id)
    decision = await about(installation.operator, call_id, "decision")
    assert (decision["effect"], decision["code"], decision["operation"]) == (
        "deny",
        "access.denied",
        "scheduler.state",
    )
    await agent.error("memory", "add", {"content": "x"}, call_id=(failed := new_syscall_id()))
    decision = await about(installation.operator, failed, "decision")
    assert (decision["effect"], decision["code"]) == ("refuse", "manager.unavailable")


async def test_a_call_that_fails_in_its_manager_leaves_that_end(installation: Installation) -> None:
    call_id = new_syscall_id()
    await installation.operator.error("access", "agent.revoke", {"agent": "nobody-here"}, call_id=call_id)
    assert (await about(installation.operator, call_id, "end"))["code"] == "resource.not_found"
    assert (await about(installation.operator, call_id, "decision"))["about"] == {"agent": "nobody-here"}


async def test_no_prompt_stands_in_the_log(installation: Installation, agent: RawAgent) -> None:
    async with kernel_peer(installation.server, "memory", "memory"):
        call_id = new_syscall_id()
        await agent.result("memory", "add", {"content": "my planted secret"}, call_id=call_id)
        decision = await about(installation.operator, call_id, "decision")
        assert decision["bytes"] == len(json.dumps({"content": "my planted secret"}, separators=(",", ":")))
        assert "planted" not in "".join(await export(installation.operator))


async def test_a_client_that_is_refused_stands_in_the_kernels_log(installation: Installation) -> None:
    with pytest.raises(NatsError):
        await RawAgent.connect(installation.server.url, "default.stranger-x.secret-abc")
    found = [each for each in await records(installation.operator, "kernel") if "stranger-x" in each.get("reason", "")]
    assert found
    assert found[0]["code"] == "access.unauthenticated"
    assert "secret-abc" not in json.dumps(found)


async def test_the_log_verifies_here_and_away_from_here(installation: Installation) -> None:
    verdict = await installation.operator.result("access", "audit.verify")
    assert verdict["intact"], verdict
    assert (verdict["tenant"], verdict["sealed"], verdict["first_seq"]) == ("default", True, 1)
    verifier = ChainVerifier("default")
    verifier.feed("".join(f"{line}\n" for line in await export(installation.operator)).encode())
    verifier.end()
    assert verifier.intact
    assert verifier.head.seq > verdict["records"]  # the calls that read it are in it too


async def test_a_log_behind_its_anchor_is_reported_as_cut(installation: Installation) -> None:
    verdict = await installation.operator.result("access", "audit.verify")
    head = Head.parse(verdict["head"])
    assert (await installation.operator.result("access", "audit.verify", {"anchor": str(head)}))["intact"]
    ahead = f"{head.seq + 1000}:{head.sha256}"
    cut = await installation.operator.result("access", "audit.verify", {"anchor": ahead})
    assert not cut["intact"]
    assert "truncated" in cut["fault"]
    other = f"{head.seq}:{'0' * 64}"
    assert "truncated" in (await installation.operator.result("access", "audit.verify", {"anchor": other}))["fault"]


async def test_what_was_forged_into_the_store_is_found(installation: Installation) -> None:
    await installation.agent(tenant="victim")
    boss = await installation.agent(group="operator", tenant="victim")
    await boss.result("access", "whoami")
    verdict = await boss.result("access", "audit.verify")
    assert verdict["intact"]
    nc: Client = await installation.server.connect("access")
    try:
        await nc.jetstream().publish(subjects.audit("victim"), b'{"sha256":"forged"}\n')
    finally:
        await nc.close()
    found = await boss.result("access", "audit.verify")
    assert not found["intact"]
    assert found["first_fault"] > verdict["records"]


async def test_not_even_access_can_shorten_the_log_over_the_bus(installation: Installation) -> None:
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error))

    nc: Client = await installation.server.connect("access", error_cb=note)
    try:
        for request in ("MSG.DELETE", "PURGE", "DELETE", "UPDATE", "RESTORE", "SNAPSHOT"):
            await nc.publish(f"$JS.API.STREAM.{request}.{subjects.AUDIT_STREAM}", b"{}")
        await settle(nc)
        assert len([error for error in errors if "permissions violation" in error]) == 6
        config = (await nc.jetstream().stream_info(subjects.AUDIT_STREAM)).config
        assert config.deny_delete
        assert config.deny_purge
    finally:
        await nc.close()


async def test_only_operators_read_the_log_and_only_their_own_tenants(
    installation: Installation, agent: RawAgent
) -> None:
    for operation in ("audit.verify", "audit.export"):
        assert (await agent.error("access", operation))["code"] == "access.denied"
        theirs = await installation.agent(group="operator", tenant="elsewhere")
        for tenant in ("default", "kernel"):
            assert (await theirs.error("access", operation, {"tenant": tenant}))["code"] == "access.denied"
        assert (await theirs.call("access", operation))["type"] == "done"
        assert (await installation.operator.call("access", operation, {"tenant": "elsewhere"}))["type"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_two_replicas_write_one_chain_that_survives_their_death(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_nats(tmp_path_factory.mktemp("bus")) as bus:
        server: NatsServer = bus
        env = access_env(server)
        async with (
            running_process("aios_access", server, "access", env, instance="access-1") as first,
            running_process("aios_access", server, "access", env, instance="access-2") as second,
        ):
            operator = await RawAgent.connect(server.url, server.operator_token)
            await asyncio.gather(*(operator.result("access", "whoami") for _ in range(300)))
            written = await _written_by(operator, {"access-1", "access-2"})
            await first.kill()
            await operator.close()
            server.kill()
            await second.wait_readiness(503)
            server.restart()
            await second.wait_ready()
            operator = await _patiently(server)
            verdict = await operator.result("access", "audit.verify")
            assert verdict["intact"], verdict
            assert verdict["records"] >= len(written)
            await operator.close()


async def _written_by(operator: RawAgent, replicas: set[str]) -> list[Record]:
    """The log once all of these replicas have written into it: each stores its own records, a moment after the call."""
    async with asyncio.timeout(20):
        while True:
            written = await records(operator)
            if {record["by"] for record in written} >= replicas:
                return written


async def _patiently(server: NatsServer) -> RawAgent:
    async with asyncio.timeout(20):
        while True:
            try:
                return await RawAgent.connect(server.url, server.operator_token)
            except (NatsError, OSError):
                await asyncio.sleep(0.1)
