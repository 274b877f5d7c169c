"""A quota and the answers it pays for, from access to the engine."""

import asyncio

import pytest
from pydantic import JsonValue
from support.stack import Stack

from aios import Agent, QuotaExhausted, ResourceNotFound
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DENSE = " ".join(str(number % 10) for number in range(120))
"""A prompt of about as many tokens as bytes, where access counts a quarter of them."""


async def test_a_prompt_longer_than_it_looked_does_not_overdraw_the_quota(
    stack: Stack, operator: Agent, agent_token: str
) -> None:
    program = new_syscall_id()
    async with Agent(token=agent_token, url=stack.state.url, program=program) as agent:
        first = await agent.llm.complete(DENSE, max_tokens=20)
        assert first.usage is not None
        prompt_tokens = first.usage.prompt_tokens
        looks_like = len(DENSE) // 4 + 20
        # Access sees room for one more call; there is room for less than its prompt.
        tokens = prompt_tokens + 20 + looks_like + 10
        assert looks_like + 10 < prompt_tokens + 20
        body: dict[str, JsonValue] = {
            "scope": "program",
            "name": program,
            "limits": {"tokens": tokens, "tokens_window_s": 86_400},
        }
        await operator.syscall("access", "quota.set", body)
        used, refused = 0, False
        async with asyncio.timeout(120):
            while not refused:
                try:
                    reply = await agent.llm.complete(DENSE, max_tokens=20)
                except QuotaExhausted:
                    refused = True
                else:
                    assert reply.usage is not None
                    used += reply.usage.prompt_tokens + reply.usage.completion_tokens
                    assert used <= tokens
        assert used >= prompt_tokens


async def test_calls_of_a_pool_that_is_not_there_say_so(agent: Agent) -> None:
    with pytest.raises(ResourceNotFound) as raised:
        await agent.llm.chat("Hi", pool="moon", max_tokens=4)
    assert raised.value.field == "pool"
    assert (await agent.llm.chat("Hi", pool="default", max_tokens=4)).text
