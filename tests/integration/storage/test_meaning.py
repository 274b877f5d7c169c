"""With the real embedding model, files are found by what they mean, moments after they were written."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.embedding import running_embedder
from support.nats_server import NatsServer
from support.running_service import running_in_process
from support.storage_road import StorageRoad, files_with

from aios import Agent
from aios_llm.embedding.service import EmbedWorkerService
from aios_llm.embedding.settings import EmbedWorkerSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def embedding(server: NatsServer) -> AsyncIterator[None]:
    with running_embedder() as url:
        seed = server.seed_file("llm")
        settings = EmbedWorkerSettings(nats_url=server.url, nats_nkey_file=seed, instance="embed", embed_url=url)
        async with running_in_process(EmbedWorkerService(settings).service):
            yield


async def meant(agent: Agent, query: str, prefix: str = "") -> list[str]:
    found = await agent.storage.search(query, mode="semantic", limit=3, prefix=prefix, deadline_s=30)
    return [one.path for one in found]


async def until(agent: Agent, query: str, expected: list[str]) -> None:
    found: list[str] = []
    try:
        async with asyncio.timeout(60):
            while (found := await meant(agent, query))[: len(expected)] != expected:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{query!r} finds {found}") from None


async def test_files_are_found_by_their_meaning_and_follow_what_happens_to_them(road: StorageRoad) -> None:
    agent, other = await road.agent(), await road.agent()
    await agent.storage.write("pets.txt", "The cat sleeps on the warm sofa all day long.")
    await agent.storage.write("money.txt", "Our quarterly revenue grew, but costs grew faster.")
    await agent.storage.write("space.txt", "The rocket reached orbit and released a satellite.")
    await until(agent, "a feline taking a nap", ["pets.txt"])
    await until(agent, "profits of the company", ["money.txt"])
    await agent.storage.write("pets.txt", "Astronauts docked their capsule at the station.")
    await agent.storage.delete("space.txt")
    await until(agent, "human spaceflight", ["pets.txt"])
    assert "space.txt" not in await meant(agent, "human spaceflight")
    assert await meant(other, "human spaceflight") == []
    assert await meant(other, "human spaceflight", f"~{agent.name}") == []
    hybrid = await agent.storage.search("revenue of astronauts", limit=2, deadline_s=30)
    assert {one.path for one in hybrid} == {"pets.txt", "money.txt"}


async def test_vectors_say_nothing_in_clear_and_go_with_their_tenant(road: StorageRoad, data: Path) -> None:
    operator, agent = await road.agent(group="operator"), await road.agent(tenant="meant")
    await agent.storage.write("PLANTED-NAME.txt", "PLANTED-TEXT about gardening and roses")
    await until(agent, "flowers in the garden", ["PLANTED-NAME.txt"])
    await operator.syscall("storage", "shred", {"tenant": "meant", "confirm": "meant"})
    assert files_with(data, "PLANTED-") == []
