"""A generation that is paused, and gone on with five times, through all services with the real model."""

import asyncio
import re
from pathlib import Path

import pytest
from support.stack import Stack

from aios import Agent, Call, ChatReply, InvalidRequest, ResourceNotFound, SyscallCancelled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "resume-and-failover.md"
LONG = "Tell a very long story about a river, its valley and everyone who lives there."


async def paused(agent: Agent, words: int = 12) -> Call[ChatReply]:
    """A call that was paused once it had said so many words."""
    call = agent.llm.chat(LONG, max_tokens=800, seed=1)
    async for _ in call:
        if len(call.text.split()) >= words:
            break
    assert await agent.llm.pause(call)
    with pytest.raises(SyscallCancelled):
        await call
    return call


async def test_five_continuations_of_a_paused_call_share_its_prefix_and_part(agent: Agent) -> None:
    call = await paused(agent)
    forks = agent.llm.fork(call, 5, temperature=1.0, max_tokens=160)
    replies = await asyncio.gather(*forks)
    assert len({reply.text for reply in replies}) == 5
    for fork, reply in zip(forks, replies, strict=True):
        assert reply.text.startswith(call.text)
        assert fork.text == reply.text, "the pieces are the whole answer"
        assert reply.usage is not None
        assert reply.usage.cached_tokens >= reply.usage.prompt_tokens - 2
        assert reply.usage.prompt_tokens > len(call.text.split())


async def test_a_continuation_can_be_asked_for_by_id_and_greedy_ones_are_the_call_as_it_would_have_been(
    agent: Agent,
) -> None:
    whole = await agent.llm.chat(LONG, max_tokens=160)
    call = await paused(agent)
    reply = await agent.llm.chat(LONG, max_tokens=160, continue_from=call.id)
    assert reply.text == whole.text
    assert (await agent.llm.fork(call, max_tokens=160)[0]).text == whole.text


async def test_a_call_on_a_context_goes_on_in_forks_of_the_context(agent: Agent) -> None:
    talk = await agent.contexts.open(messages=[{"role": "system", "content": "You tell stories."}])
    call = talk.chat(LONG, max_tokens=800)
    async for _ in call:
        if len(call.text.split()) >= 8:
            break
    assert await agent.llm.pause(call)
    others = [await talk.fork() for _ in range(2)]
    replies = [await agent.llm.fork(call, context=other.name, max_tokens=160)[0] for other in others]
    assert replies[0].text.startswith(call.text)
    assert len((await talk.get()).messages) == 1, "a paused call leaves the conversation as it was"
    for other, reply in zip(others, replies, strict=True):
        assert [message.content for message in (await other.get()).messages][1:] == [LONG, reply.text]


async def test_what_ended_by_itself_was_not_paused_and_cannot_be_gone_on_from(agent: Agent) -> None:
    call = agent.llm.chat("Say yes.", max_tokens=2)
    await call
    assert not await agent.llm.pause(call)
    with pytest.raises(ResourceNotFound) as caught:
        await agent.llm.fork(call)[0]
    assert caught.value.field == "continue_from"


async def test_a_call_that_generates_nothing_cannot_be_forked(agent: Agent) -> None:
    with pytest.raises(InvalidRequest) as caught:
        agent.llm.fork(agent.llm.models())
    assert caught.value.field == "call"


def test_the_guides_example_runs_as_it_stands(stack: Stack, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    script = tmp_path / "forks.py"
    script.write_text(block)
    ran = stack.aios("run", "--as", "reader", str(script))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("cached_tokens=") == 3
