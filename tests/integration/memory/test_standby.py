"""Two memory managers on a locked bus: one works, the other stands by and takes over."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.nats_server import NatsServer, running_nats
from support.running_service import ServiceProcess, access_env, running_process

from aios import Agent

PATIENT_S = 30.0
"""A lease that nobody waits for in these tests."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "bus") as running:
        yield running


@pytest.fixture
async def agent(bus: NatsServer) -> AsyncIterator[Agent]:
    async with (
        running_process("aios_access", bus, "access", access_env(bus)),
        Agent(token=bus.operator_token, url=bus.url, connect_timeout_s=15) as agent,
    ):
        yield agent


def manager(
    bus: NatsServer, folder: Path, instance: str, *, wait_ready: bool = True, lease_s: float = 2.0
) -> AbstractAsyncContextManager[ServiceProcess]:
    env = {
        "AIOS_KEY_RING_DIR": str(folder / "keys"),
        "AIOS_VECTORS_FOLDER": str(folder / instance),
        "AIOS_MEMORY_LEASE_S": str(lease_s),
    }
    return running_process("aios_memory", bus, "memory", env, instance=instance, wait_ready=wait_ready)


async def notes(agent: Agent) -> set[str]:
    return {note.content for note in (await agent.memory.list(deadline_s=60)).memories}


async def test_a_standby_takes_over_from_one_that_is_killed_and_knows_all_notes(
    bus: NatsServer, agent: Agent, tmp_path: Path
) -> None:
    async with (
        manager(bus, tmp_path, "first") as first,
        manager(bus, tmp_path, "second", wait_ready=False) as second,
    ):
        assert (await second.logged("standing by"))["active"] == "first"
        assert await second.readiness() == (200, None)
        for number in range(10):  # all by the one: the other would not see them in its memory
            await agent.memory.add(f"note {number}")
            assert len(await notes(agent)) == number + 1
        await first.kill()
        await agent.memory.add("after the death", deadline_s=60)
        assert await notes(agent) == {*(f"note {number}" for number in range(10)), "after the death"}
        await second.logged("ready")


async def test_one_that_is_stopped_gives_the_work_back_at_once(bus: NatsServer, agent: Agent, tmp_path: Path) -> None:
    async with (
        manager(bus, tmp_path, "first", lease_s=PATIENT_S) as first,
        manager(bus, tmp_path, "second", wait_ready=False, lease_s=PATIENT_S) as second,
    ):
        await second.logged("standing by")
        await agent.memory.add("before")
        assert await first.stop() == 0
        await second.logged("ready", timeout_s=20)  # less than the lease would last
        await agent.memory.add("after", deadline_s=60)
        assert await notes(agent) == {"before", "after"}


async def test_one_that_was_paused_changes_nothing_any_more_and_leaves(
    bus: NatsServer, agent: Agent, tmp_path: Path
) -> None:
    async with (
        manager(bus, tmp_path, "first") as first,
        manager(bus, tmp_path, "second", wait_ready=False) as second,
    ):
        await second.logged("standing by")
        await agent.memory.add("before")
        first.signal(signal.SIGSTOP)
        # These come to the paused one as long as the bus takes it for alive, and wait there.
        waiting = [agent.memory.add(f"meanwhile {number}", deadline_s=60) for number in range(10)]
        await second.logged("ready")
        await notes(agent)  # the second has them in its memory now
        first.signal(signal.SIGCONT)
        assert await first.wait() == 0
        await asyncio.gather(*waiting)
        assert await notes(agent) == {"before", *(f"meanwhile {number}" for number in range(10))}


async def test_a_second_of_the_same_name_waits_and_a_restarted_one_does_not(
    bus: NatsServer, agent: Agent, tmp_path: Path
) -> None:
    async with manager(bus, tmp_path, "only", lease_s=PATIENT_S) as first:
        async with manager(bus, tmp_path, "only", wait_ready=False, lease_s=PATIENT_S) as twin:
            assert (await twin.logged("standing by"))["active"] == "only"
            await agent.memory.add("by the first")
        assert first.returncode is None
        await first.kill()
        async with manager(bus, tmp_path, "only", lease_s=PATIENT_S) as again:
            assert await notes(agent) == {"by the first"}
            assert "standing by" not in again.events()
