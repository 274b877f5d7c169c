"""A call that waits for its quota, taken up by the agent's next process before it runs."""

import asyncio

import pytest
from pydantic import JsonValue
from support.stack import Stack

from aios import Agent, SyscallUnknown
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_both_processes_of_an_agent_read_the_answer_of_a_call_that_waited_when_the_second_took_it_up(
    stack: Stack, operator: Agent, agent_token: str
) -> None:
    program = new_syscall_id()
    body: dict[str, JsonValue] = {
        "scope": "program",
        "name": program,
        "limits": {"concurrent_calls": 1, "wait_s": 60},
    }
    await operator.syscall("access", "quota.set", body)
    async with (
        Agent(token=agent_token, url=stack.state.url, program=program) as first,
        Agent(token=agent_token, url=stack.state.url) as second,
    ):
        blocking = first.llm.complete("Once upon a time", max_tokens=400, temperature=0, deadline_s=120)
        await blocking.accepted()
        waits = first.llm.chat("Name three colours.", max_tokens=24, deadline_s=120)
        async with asyncio.timeout(30):
            while not any(each.id == waits.id and "quota" in (each.why or "") for each in await second.calls.list()):
                await asyncio.sleep(0.02)
        taken_up = second.calls.attach(waits.id, deadline_s=120)
        with pytest.raises(SyscallUnknown):  # when that is known, the scheduler has given up looking for the other
            await second.calls.attach(new_syscall_id())
        await blocking.cancel()
        pieces = [piece async for piece in taken_up]
        answer = await waits
        assert answer.text
        assert "".join(pieces) == answer.text
        assert (await taken_up).result == answer.result
