"""An accepted call ends in its answer, whichever process is killed while it runs."""

import asyncio

import pytest
from support.stack import Stack

from aios import Agent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROMPT = "Tell a short story about a fox and a hen."
TOKENS = 48


@pytest.mark.parametrize("victim", ["scheduler", "access", "llm-1", "engine", "nats"])
async def test_a_killed_process_loses_no_accepted_call(victim: str, agent: Agent, stack: Stack) -> None:
    undisturbed = await agent.llm.chat(PROMPT, max_tokens=TOKENS)
    calls = [agent.llm.chat(PROMPT, max_tokens=TOKENS, deadline_s=300) for _ in range(6)]
    for call in calls:
        await call.accepted()
    async for _ in calls[0]:
        break  # it streams now
    stack.process(victim).kill()
    for call in calls:
        pieces = [piece async for piece in call]
        reply = await call
        assert reply.text == undisturbed.text
        assert "".join(pieces) == undisturbed.text, "no gap and no repeat in the stream"
    await asyncio.to_thread(stack.wait_until_ready, 300)
    assert (await agent.llm.chat(PROMPT, max_tokens=4)).text
