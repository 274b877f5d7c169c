"""What agents notice when the bus crashes, access is restarted, or access comes late."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.errors import Error as NatsError
from support.frame_inbox import RawAgent, connect_once
from support.kernel_peer import kernel_peer
from support.nats_server import NatsServer, running_nats, settle
from support.running_service import access_env, running_process

from aios_proto import subjects
from aios_proto.tokens import AgentToken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "bus") as server:
        yield server


async def patiently(server: NatsServer, token: str, timeout_s: float = 15) -> RawAgent:
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await RawAgent.connect(server.url, token)
            except (NatsError, OSError):
                await asyncio.sleep(0.05)


async def test_without_access_nobody_gets_in_and_with_it_everybody_does(bus: NatsServer) -> None:
    async def quiet(_: Exception) -> None: ...

    with pytest.raises(NatsError):
        await connect_once(bus.url, token=bus.operator_token, error_cb=quiet)
    async with running_process("aios_access", bus, "access", access_env(bus)):
        agent = await RawAgent.connect(bus.url, bus.operator_token)
        assert (await agent.result("access", "whoami"))["agent"] == "operator"
        await agent.close()


async def test_after_a_crash_of_the_bus_agents_old_and_new_are_served(bus: NatsServer) -> None:
    env = access_env(bus)
    async with (
        running_process("aios_access", bus, "access", env, instance="access-1") as first,
        running_process("aios_access", bus, "access", env, instance="access-2") as second,
    ):
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        before = (await operator.result("access", "agent.create", {"agent": "before"}))["token"]
        await operator.close()
        bus.kill()
        assert await first.wait_readiness(503) == "the bus connection is lost"
        bus.restart()
        await first.wait_ready()
        await second.wait_ready()
        old = await patiently(bus, before)
        assert (await old.result("access", "whoami"))["agent"] == "before"
        operator = await patiently(bus, bus.operator_token)
        # Whichever replica makes or revokes them, whichever serves them: both know.
        for number in range(6):
            made = await operator.result("access", "agent.create", {"agent": f"after-{number}"})
            new = await RawAgent.connect(bus.url, made["token"])
            for _ in range(3):
                assert (await new.result("access", "whoami"))["agent"] == f"after-{number}"
            await new.close()
        await operator.result("access", "agent.revoke", {"agent": "before"})
        async with asyncio.timeout(10):
            while not old.nc.is_closed:  # whichever replica let it in has cut it off
                await asyncio.sleep(0.05)
        await old.close()
        await operator.close()


async def test_a_call_that_access_had_when_it_was_asked_to_stop_is_still_passed_on(bus: NatsServer) -> None:
    async with running_process("aios_access", bus, "access", access_env(bus)) as access:
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        async with (
            kernel_peer(bus, "memory", "memory") as memory,
            kernel_peer(bus, "scheduler", "llm", pattern="aios.k.llm.*"),
        ):
            volatile = [await operator.send("memory", "add", {"content": "x"}) for _ in range(20)]
            durable = [await operator.send("llm", "chat", {"messages": []}) for _ in range(20)]
            await settle(operator.nc)
            access.signal(signal.SIGTERM)
            for reply in volatile:
                assert (await operator.inbox.until_end(reply))[-1]["type"] == "done"
            for reply in durable:
                assert (await operator.inbox.next(reply))["type"] == "accepted"
            assert await access.wait() == 0
            assert len(memory.received) == 20
            nc = await bus.connect("access")
            assert (await nc.jetstream().stream_info(subjects.SYSCALLS_STREAM)).state.messages == 20
            await nc.close()
        await operator.close()
        assert [line for line in access.log if line.get("level") in ("warning", "error")] == []


async def test_a_changed_bootstrap_file_takes_effect_at_the_next_start(bus: NatsServer, tmp_path: Path) -> None:
    token = bus.operator_token
    empty = tmp_path / "none.json"
    empty.write_text("[]")
    env = access_env(bus)
    async with running_process("aios_access", bus, "access", env | {"AIOS_ACCESS_BOOTSTRAP_FILE": str(empty)}):
        with pytest.raises(NatsError):
            await RawAgent.connect(bus.url, token)
    async with running_process("aios_access", bus, "access", env):
        agent = await RawAgent.connect(bus.url, token)
        assert (await agent.result("access", "whoami"))["group"] == "operator"
        await agent.close()
    assert bus.credentials is not None
    demoted = tmp_path / "demoted.json"
    demoted.write_text(
        bus.credentials.bootstrap_agents.read_text().replace('"operator",\n    "secret', '"guest",\n    "secret')
    )
    async with running_process("aios_access", bus, "access", env | {"AIOS_ACCESS_BOOTSTRAP_FILE": str(demoted)}):
        agent = await RawAgent.connect(bus.url, token)
        assert (await agent.result("access", "whoami"))["group"] == "guest"
        await agent.close()


@pytest.mark.parametrize("broken", ["not json", '[{"tenant": "default"}]'])
async def test_a_broken_bootstrap_file_stops_the_start_with_its_fault(
    bus: NatsServer, tmp_path: Path, broken: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_text(broken)
    env = access_env(bus) | {"AIOS_ACCESS_BOOTSTRAP_FILE": str(path)}
    async with running_process("aios_access", bus, "access", env, wait_ready=False) as access:
        assert await access.wait() != 0
        assert "StoredIdentity" in access.text()


async def test_a_revoked_agent_is_cut_off_even_when_access_was_restarted_since_it_connected(bus: NatsServer) -> None:
    env = access_env(bus)
    async with running_process("aios_access", bus, "access", env, instance="before"):
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        token = (await operator.result("access", "agent.create", {"agent": "survivor"}))["token"]
        survivor = await RawAgent.connect(bus.url, token)
        await operator.close()
    async with running_process("aios_access", bus, "access", env, instance="after"):
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        assert (await survivor.result("access", "whoami"))["agent"] == "survivor"
        await operator.result("access", "agent.revoke", {"agent": "survivor"})
        async with asyncio.timeout(10):
            while not survivor.nc.is_closed:
                await asyncio.sleep(0.01)
        await operator.close()
        await survivor.close()


async def test_an_agent_revoked_while_no_access_was_there_is_cut_off_at_the_next_start(bus: NatsServer) -> None:
    env = access_env(bus)
    async with running_process("aios_access", bus, "access", env):
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        token = (await operator.result("access", "agent.create", {"agent": "orphan"}))["token"]
        orphan = await RawAgent.connect(bus.url, token)
        await operator.close()
    nc = await bus.connect("access")
    await (await nc.jetstream().key_value("AIOS_AGENTS")).delete("default.orphan")
    await nc.close()
    async with running_process("aios_access", bus, "access", env):
        async with asyncio.timeout(10):
            while not orphan.nc.is_closed:
                await asyncio.sleep(0.01)
        await orphan.close()


async def test_what_was_rotated_or_revoked_stays_so_when_access_reads_its_bootstrap_file_again(
    bus: NatsServer, tmp_path: Path
) -> None:
    extra = AgentToken.generate("default", "second")
    entries = json.loads(access_env_file(bus).read_text())
    entries.append({"tenant": "default", "agent": "second", "group": "operator", "secret_sha256": extra.secret_sha256})
    bootstrap = tmp_path / "agents.json"
    bootstrap.write_text(json.dumps(entries))
    env = access_env(bus) | {"AIOS_ACCESS_BOOTSTRAP_FILE": str(bootstrap)}
    async with running_process("aios_access", bus, "access", env):
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        second = await RawAgent.connect(bus.url, str(extra))
        renewed = (await second.result("access", "agent.rotate", {"agent": "second"}))["token"]
        await second.close()
        await operator.close()
    async with running_process("aios_access", bus, "access", env):
        assert not await is_let_in(bus, str(extra))
        assert await is_let_in(bus, renewed)
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        await operator.result("access", "agent.revoke", {"agent": "second"})
        await operator.close()
    async with running_process("aios_access", bus, "access", env):
        assert not await is_let_in(bus, str(extra))
        assert not await is_let_in(bus, renewed)
        operator = await RawAgent.connect(bus.url, bus.operator_token)
        made = (await operator.result("access", "agent.create", {"agent": "second"}))["token"]
        assert await is_let_in(bus, made)
        await operator.close()
    again = AgentToken.generate("default", "second")
    entries[-1]["secret_sha256"] = again.secret_sha256
    bootstrap.write_text(json.dumps(entries))
    async with running_process("aios_access", bus, "access", env):
        assert await is_let_in(bus, str(again))


async def is_let_in(bus: NatsServer, token: str) -> bool:
    try:
        agent = await RawAgent.connect(bus.url, token)
    except NatsError:
        return False
    await agent.close()
    return True


def access_env_file(bus: NatsServer) -> Path:
    assert bus.credentials is not None
    return bus.credentials.bootstrap_agents
