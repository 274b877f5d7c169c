"""Conversations kept by the kernel, with the real small model."""

import pytest

from aios import Agent, InvalidRequest, ResourceNotFound
from aios_proto.messages.context import WindowPolicy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FACT = "Remember this: the code of the vault is 7431."


async def test_the_next_turn_finds_the_conversation_in_the_prefix_cache(agent: Agent) -> None:
    talk = await agent.contexts.open(messages=[{"role": "system", "content": "You answer in one short sentence. " * 8}])
    first = await talk.chat("Name a colour.", max_tokens=12)
    second = await talk.chat("Name another one.", max_tokens=12)
    assert first.usage is not None
    assert second.usage is not None
    # All of the first prompt but its last few tokens, which the engine computes in steps of its own.
    assert second.usage.cached_tokens >= 0.7 * first.usage.prompt_tokens
    shown = (await talk.get()).messages
    assert [message.role for message in shown] == ["system", "user", "assistant", "user", "assistant"]
    assert [shown[2].content, shown[4].content] == [first.text, second.text]


@pytest.mark.parametrize("policy", ["truncate", "sliding", "summarise"])
async def test_a_conversation_four_times_its_window_is_answered(agent: Agent, policy: WindowPolicy) -> None:
    talk = await agent.contexts.open(policy=policy, window_tokens=500)
    await talk.append(FACT, pinned=True)
    await talk.append([{"role": "user", "content": f"Note {n}: the weather was fine again today."} for n in range(120)])
    question = "What is the code of the vault?"
    window = await talk.window(question)
    assert FACT in [message.content for message in window.messages]
    assert window.left_out_tokens > 1500
    reply = await talk.chat(question, max_tokens=16)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens <= 500
    assert reply.text


async def test_the_tokens_planned_are_the_tokens_the_engine_counts(agent: Agent) -> None:
    talk = await agent.contexts.open(messages=[{"role": "system", "content": "Be brief."}])
    await talk.append("Ünïcödé, 数学 and emoji 🙂 are counted too.")
    planned = (await talk.window("How many are there?")).tokens
    reply = await talk.chat("How many are there?", max_tokens=1)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens <= planned <= reply.usage.prompt_tokens + 40


async def test_what_cannot_be_answered_says_why(agent: Agent) -> None:
    with pytest.raises(ResourceNotFound) as missing:
        await agent.llm.chat("Hello", context="never-opened", max_tokens=1)
    assert missing.value.field == "context"
    talk = await agent.contexts.open(window_tokens=64)
    with pytest.raises(InvalidRequest) as too_long:
        await talk.chat("word " * 200, max_tokens=1)
    assert too_long.value.field == "messages"
    assert (await talk.get()).turns == 0
