"""Notes as an agent has them: through the SDK, access and the real embedding model, on a bus that is locked."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from support.embedding import running_embedder
from support.nats_server import NatsServer, running_nats
from support.running_service import access_env, running_process

from aios import AccessDenied, Agent, InvalidRequest, Memories, SyncAgent

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "memory.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("bus")) as running:
        yield running


@pytest.fixture(scope="module")
def tei_url() -> Iterator[str]:
    with running_embedder() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(bus: NatsServer, tei_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    folder = tmp_path_factory.mktemp("memory")
    env = {"AIOS_KEY_RING_DIR": str(folder / "keys"), "AIOS_VECTORS_FOLDER": str(folder / "vectors")}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_process("aios_access", bus, "access", access_env(bus)))
        await stack.enter_async_context(running_process("aios_memory", bus, "memory", env))
        await stack.enter_async_context(
            running_process("support.embed_worker", bus, "llm", {"AIOS_EMBED_URL": tei_url}, instance="embed")
        )
        yield await stack.enter_async_context(Agent(token=bus.operator_token, url=bus.url))


async def agent_token(operator: Agent, name: str) -> str:
    made = await operator.syscall("access", "agent.create", {"agent": name, "group": "agent"})
    return str(made.result["token"])


async def test_the_names_of_aios_work(operator: Agent) -> None:
    made = await operator.memory.add_memory("The cat sleeps on the mat", tags=["animals"])
    await operator.memory.create_memory("Taxes are due in May")
    found = await operator.memory.retrieve_memory("where does the kitten rest?", mode="semantic", limit=1)
    assert found.memories[0].memory_id == made.memory_id
    assert (await operator.memory.get_memory(made.memory_id)).tags == ["animals"]
    await operator.memory.update_memory(made.memory_id, "The cat has left")
    assert (await operator.memory.search_memories("left", mode="keyword")).memories[0].content == "The cat has left"
    await operator.memory.delete_memory(made.memory_id)
    assert Memories.remove_memory is Memories.remove


async def test_two_agents_share_a_pool_and_a_third_is_refused(operator: Agent, bus: NatsServer) -> None:
    tokens = [await agent_token(operator, name) for name in ("ann", "ben", "cat")]
    async with (
        Agent(token=tokens[0], url=bus.url) as ann,
        Agent(token=tokens[1], url=bus.url) as ben,
        Agent(token=tokens[2], url=bus.url) as cat,
    ):
        await ann.memory.create_pool("road", writers=["ben"])
        await ben.memory.add("ben was here", pool="road")
        assert [note.author for note in (await ann.memory.list(pool="road")).memories] == ["ben"]
        assert [pool.pool for pool in await ben.memory.pools()] == ["road"]
        with pytest.raises(AccessDenied):
            await cat.memory.search("ben", pool="road")


async def test_wrong_arguments_are_found_before_they_are_sent(operator: Agent) -> None:
    with pytest.raises(InvalidRequest) as caught:
        operator.memory.get("../../etc/passwd")
    assert caught.value.field == "memory_id"
    with pytest.raises(InvalidRequest):
        operator.memory.forget()
    with pytest.raises(InvalidRequest):
        operator.llm.embed([])


async def test_embeddings_come_from_the_real_model(operator: Agent, bus: NatsServer) -> None:
    found = await operator.llm.embed("one text")
    assert (found.dimensions, len(found.vectors)) == (384, 1)

    def blocking() -> int:
        with SyncAgent(token=bus.operator_token, url=bus.url) as agent:
            return len(agent.llm.embed(["a", "b"]).result().vectors)

    assert await asyncio.to_thread(blocking) == 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_a_block_of_the_guide_runs(
    operator: Agent, bus: NatsServer, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_URL", bus.url)
    monkeypatch.setenv("AIOS_TOKEN", await agent_token(operator, f"guide-{number}"))
    code = compile(BLOCKS[number], f"{GUIDE}, block {number + 1}", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "__main__"})


async def test_the_guide_has_blocks() -> None:
    assert len(BLOCKS) >= 5
