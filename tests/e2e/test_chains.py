"""Calls that are submitted at once and use each other's results, with a real model at the end."""

import pytest

from aios import Agent
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = 4
ON = ", and when the night came"


async def test_a_chain_submitted_at_once_says_what_the_agent_gets_step_by_step(agent: Agent) -> None:
    ids = [new_syscall_id() for _ in range(STEPS)]
    calls = [
        agent.llm.complete(
            f"{{{{result:{ids[step - 1]}}}}}{ON}" if step else "The river",
            max_tokens=8,
            id=ids[step],
            after=[ids[step - 1]] if step else [],
        )
        for step in range(STEPS)
    ]
    at_once = [(await call).text for call in calls]
    driven: list[str] = []
    prompt = "The river"
    for _ in range(STEPS):
        driven.append((await agent.llm.complete(prompt, max_tokens=8)).text)
        prompt = driven[-1] + ON
    assert at_once == driven
    assert len(set(driven)) > 1


async def test_a_chain_goes_through_a_result_that_is_too_long_to_be_told(agent: Agent) -> None:
    """More than 16 KiB of log probabilities: the next call reads it from the store."""
    first = agent.llm.complete("The river", max_tokens=64, logprobs=True, top_logprobs=5)
    second = agent.llm.complete(f"{{{{result:{first.id}}}}}{ON}", max_tokens=8, after=[first.id])
    reply = await first
    assert sum(len(token.model_dump_json()) for token in reply.logprobs or ()) > 16_384
    assert (await second).text == (await agent.llm.complete(reply.text + ON, max_tokens=8)).text
