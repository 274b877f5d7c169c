"""Conversations as an agent has them: through the SDK, access, the scheduler and a worker, on a bus that is locked."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from support.nats_server import NatsServer, running_nats
from support.running_service import access_env, running_process

from aios import Agent, ResourceNotFound, SyncAgent

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "contexts.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("bus")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(road: NatsServer) -> AsyncIterator[Agent]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_process("aios_access", road, "access", access_env(road)))
        await stack.enter_async_context(running_process("aios_context", road, "context"))
        await stack.enter_async_context(
            running_process(
                "aios_llm", road, "llm", {"AIOS_ENGINE_KIND": "instant", "AIOS_LLM_DEFAULT_MAX_TOKENS": "20"}
            )
        )
        await stack.enter_async_context(running_process("aios_scheduler", road, "scheduler"))
        agent = Agent(token=road.operator_token, url=road.url)
        yield await stack.enter_async_context(agent)


async def test_a_conversation_is_held_by_the_kernel_and_its_turns_join_it(operator: Agent) -> None:
    talk = await operator.contexts.open("talk", messages=[{"role": "system", "content": "Be kind."}])
    reply = await talk.chat("Hello", max_tokens=3)
    assert reply.text == "word word word "
    await operator.llm.chat("Again", max_tokens=2, context=talk.name)
    shown = await talk.get()
    assert [message.role for message in shown.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert shown.messages[-1].content == "word word "
    window = await talk.window("What next?")
    assert [message.content for message in window.messages][-1] == "What next?"


async def test_a_conversation_is_forked_kept_restored_and_closed(operator: Agent) -> None:
    talk = await operator.contexts.open(messages="First")
    kept = await talk.snapshot()
    await talk.append("Second", pinned=True)
    fork = await talk.fork()
    await talk.restore(kept)
    assert [message.content for message in (await talk.get()).messages] == ["First"]
    assert [message.content for message in (await fork.get()).messages] == ["First", "Second"]
    copy = await operator.contexts.restore(kept, "copy")
    assert copy.name == "copy"
    listed = await operator.contexts.list()
    assert {"copy", talk.name, fork.name} <= {info.context for info in listed.contexts}
    assert kept.snapshot in {info.snapshot for info in listed.snapshots}
    await operator.contexts.discard(kept)
    await talk.close()
    with pytest.raises(ResourceNotFound) as caught:
        await operator.contexts.use(talk.name).get()
    assert caught.value.field == "context"


async def test_a_model_summarises_what_is_too_long(operator: Agent) -> None:
    talk = await operator.contexts.open(
        messages=[{"role": "user", "content": f"{n} " + "word " * 60} for n in range(50)]
    )
    done = await talk.compress(1000)
    assert done.after_tokens <= 1000 < done.before_tokens
    assert done.model_calls >= 1
    shown = await talk.get()
    assert str(shown.messages[0].content).startswith("Summary of the conversation so far:")


async def test_another_agent_reads_what_was_granted(operator: Agent, road: NatsServer) -> None:
    made = await operator.syscall("access", "agent.create", {"agent": "bob"})
    talk = await operator.contexts.open(messages="For your eyes")
    async with Agent(token=str(made.result["token"]), url=road.url) as bob:
        with pytest.raises(ResourceNotFound):
            await bob.contexts.read(operator.name, talk.name)
        await talk.grant("bob")
        assert (await bob.contexts.read(operator.name, talk.name)).messages[0].content == "For your eyes"
        own = await bob.contexts.fork(operator.name, talk.name, "mine")
        await own.append("Seen")
        assert len((await own.get()).messages) == 2


async def test_a_program_without_a_loop_has_conversations_too(operator: Agent, road: NatsServer) -> None:
    def program() -> list[str | None]:
        with SyncAgent(token=road.operator_token, url=road.url) as agent:
            talk = agent.contexts.open(messages="Hello")
            talk.chat("You", max_tokens=1).result()
            fork = talk.fork()
            fork.append("Only here").result()
            assert agent.contexts.use(talk.name).name == talk.name
            return [message.content for message in fork.get().result().messages]

    assert await asyncio.to_thread(program) == ["Hello", "You", "word ", "Only here"]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_a_block_of_the_guide_runs(
    operator: Agent,
    road: NatsServer,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AIOS_URL", road.url)
    monkeypatch.setenv("AIOS_TOKEN", road.operator_token)
    code = compile(BLOCKS[number], f"{GUIDE}, block {number + 1}", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "__main__"})
    assert capsys.readouterr().out
