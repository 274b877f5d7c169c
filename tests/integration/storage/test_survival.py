"""What was acknowledged is there after the storage manager or the bus was killed, once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.nats_server import running_nats
from support.running_service import running_process
from support.storage_road import StorageRoad, storage_road

from aios import Agent, AiosError

CALLS = 60
KILLS = 3


@dataclass
class Progress:
    """What was acknowledged so far, over all agents."""

    count: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def made(self) -> None:
        async with self.news:
            self.count += 1
            self.news.notify_all()

    async def reaches(self, count: int) -> None:
        async with self.news:
            await self.news.wait_for(lambda: self.count >= count)


async def write_through_it_all(agent: Agent, written: dict[str, list[str]], seed: int, progress: Progress) -> None:
    """Versions of a few files, one after another; what was acknowledged is noted."""
    chance = random.Random(seed)
    for number in range(CALLS):
        path, text = f"f{chance.randrange(4)}", f"{agent.name} {number}"
        await patiently(lambda p=path, t=text, i=f"call-{number}": agent.storage.write(p, t, id=i))  # type: ignore[misc]
        written.setdefault(path, []).append(text)
        await progress.made()


async def patiently(work: Callable[[], Awaitable[object]]) -> None:
    """Sends a call again, under its id, while nobody is there to answer it."""
    while True:
        try:
            await work()
        except AiosError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def kill_storage(road: StorageRoad, progress: Progress) -> None:
    await progress.reaches(5)
    await road.storage.kill()
    for number in range(1, KILLS):
        async with running_process("aios_storage", road.server, "storage", road.env) as storage:
            await progress.reaches(5 + 30 * number)
            await storage.kill()


async def kill_bus(road: StorageRoad, progress: Progress) -> None:
    for number in range(KILLS - 1):
        await progress.reaches(5 + 40 * number)
        road.server.kill()
        await asyncio.to_thread(road.server.restart)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["storage", "bus"])
async def test_no_acknowledged_write_is_lost_or_doubled(tmp_path: Path, victim: str) -> None:
    with running_nats(tmp_path / "bus") as server:
        async with storage_road(server, tmp_path) as road:
            agents = [await road.agent() for _ in range(3)]
            notes: list[dict[str, list[str]]] = [{} for _ in agents]
            progress = Progress()
            async with asyncio.TaskGroup() as group:
                for seed, (agent, written) in enumerate(zip(agents, notes, strict=True)):
                    group.create_task(write_through_it_all(agent, written, seed, progress))
                await (kill_storage if victim == "storage" else kill_bus)(road, progress)
                if victim == "storage":
                    await road.start_storage()
            for agent, written in zip(agents, notes, strict=True):
                for path, texts in written.items():
                    versions = await agent.storage.versions(path, deadline_s=60)
                    assert [one.version for one in versions] == list(range(len(texts), 0, -1)), path
                    for number, text in enumerate(texts, 1):
                        assert await agent.storage.read_text(path, number, deadline_s=60) == text


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_call_repeated_after_a_crash_is_answered_from_memory(tmp_path: Path) -> None:
    with running_nats(tmp_path / "bus") as server:
        async with storage_road(server, tmp_path) as road:
            agent = await road.agent()
            body = {"path": "a", "text": "once"}
            first = await agent.syscall("storage", "write", body, id="the-call")
            await road.storage.kill()
            await road.start_storage()
            again = await agent.syscall("storage", "write", body, id="the-call")
            assert again.result == first.result
            assert len(await agent.storage.versions("a")) == 1
            assert [one.path for one in (await agent.storage.list()).files] == ["a"]
            assert [one.path for one in await agent.storage.search("once", mode="keyword")] == ["a"]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_while_storage_is_away_callers_are_told(tmp_path: Path) -> None:
    with running_nats(tmp_path / "bus") as server:
        async with storage_road(server, tmp_path) as road:
            agent = await road.agent()
            await road.storage.stop()
            with pytest.raises(AiosError) as away:
                await agent.storage.read("a", deadline_s=3)
            assert away.value.retryable
