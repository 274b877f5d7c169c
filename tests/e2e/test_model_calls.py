"""What an agent gets from a model call through all services, with a real model at the end."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue
from support.otlp_sink import assert_one_connected_trace
from support.stack import Stack

from aios import AccessDenied, Agent, Call, ChatReply, DeadlineExceeded, SyscallCancelled, SyscallUnknown
from aios_proto.messages.scheduler import StateResult
from aios_stack.spans.record import SpanRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "log-probabilities.md"
PROMPT = "Write the numbers from one to ten."
LONG = "Tell a very long story about a river, its valley and everyone who lives there."


async def test_a_streamed_answer_is_the_whole_answer(agent: Agent) -> None:
    call = agent.llm.chat(PROMPT, max_tokens=24)
    pieces = [piece async for piece in call]
    reply = await call
    assert "".join(pieces) == reply.text
    assert len(pieces) > 1
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 24
    assert reply.usage.prompt_tokens > 5
    assert reply.timings is not None
    assert 0 <= reply.timings.queued_ms <= reply.timings.scheduled_ms <= (reply.timings.first_token_ms or 0)


async def test_the_same_call_gives_the_same_text_streamed_whole_or_volatile(agent: Agent) -> None:
    streamed = await agent.llm.chat(PROMPT, max_tokens=16)
    whole = await agent.llm.chat(PROMPT, max_tokens=16, stream=False)
    volatile = await agent.llm.chat(PROMPT, max_tokens=16, durability="volatile")
    assert streamed.text == whole.text == volatile.text


async def test_sampling_with_a_seed_can_be_repeated(agent: Agent) -> None:
    first, second = [await agent.llm.chat(PROMPT, max_tokens=16, temperature=1.0, seed=7) for _ in range(2)]
    assert first.text == second.text


async def test_how_likely_each_token_was_is_told_as_it_comes(agent: Agent) -> None:
    call = agent.llm.chat(PROMPT, max_tokens=16, logprobs=True, top_logprobs=2)
    tokens = [token async for token in call.tokens()]
    reply = await call
    assert reply.usage is not None
    assert tokens == reply.logprobs == call.logprobs
    assert len(tokens) == reply.usage.completion_tokens
    assert "".join(token.token for token in tokens).startswith(reply.text)
    assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens), (
        "a greedy answer takes the likeliest"
    )


def test_the_guide_to_log_probabilities_runs(stack: Stack, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    script = tmp_path / "likely.py"
    script.write_text(block)
    ran = stack.aios("run", "--as", "reader", str(script))
    assert ran.returncode == 0, ran.stderr
    *tokens, answer = ran.stdout.splitlines()
    assert 1 <= len(tokens) <= 4
    assert float(answer.rsplit(" ", 1)[1]) < 0


async def test_an_answer_can_be_held_to_a_schema(agent: Agent) -> None:
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "warm": {"type": "boolean"}},
        "required": ["city", "warm"],
        "additionalProperties": False,
    }
    reply = await agent.llm.chat(
        "Name a city.", max_tokens=80, response_format={"type": "json_schema", "json_schema": schema}
    )
    answer = json.loads(reply.text)
    assert set(answer) == {"city", "warm"}
    assert isinstance(answer["warm"], bool)


async def test_all_spans_of_a_call_form_one_connected_tree(agent: Agent, stack: Stack) -> None:
    reply = await agent.llm.chat(PROMPT, max_tokens=4)
    assert reply.trace_id is not None
    wanted = {"access", "scheduler.queue", "worker.run", "engine.request"}

    def complete(spans: Sequence[SpanRecord]) -> bool:
        return wanted <= {span.name for span in spans} and len({span.service for span in spans}) >= 5

    spans = await stack.sink.trace(reply.trace_id, complete, timeout_s=30)
    root = assert_one_connected_trace(spans, reply.trace_id)
    assert root.attributes["aios.syscall.id"] == reply.id
    printed = await asyncio.to_thread(stack.aios, "trace", reply.id)
    assert printed.returncode == 0, printed.stderr
    assert all(name in printed.stdout for name in wanted)


async def test_a_cancelled_call_says_so_and_frees_its_slot(agent: Agent) -> None:
    call = agent.llm.chat(PROMPT, max_tokens=1500)
    async for _ in call:
        await call.cancel()
        break
    with pytest.raises(SyscallCancelled):
        await call
    async with asyncio.timeout(30):
        while await agent.calls.list():  # the caller hears it before the scheduler
            await asyncio.sleep(0.05)


async def test_a_deadline_ends_a_call_in_time_with_what_it_used(agent: Agent) -> None:
    with pytest.raises(DeadlineExceeded):
        await agent.llm.chat(PROMPT, max_tokens=2000, deadline_s=1.5)


async def test_an_agent_may_not_do_what_only_an_operator_may(agent: Agent) -> None:
    with pytest.raises(AccessDenied) as refused:
        await agent.syscall("scheduler", "drain", {"worker": "llm-1"})
    assert refused.value.field == "operation"


async def test_another_agent_cannot_see_or_end_a_call(agent: Agent, operator: Agent) -> None:
    call = agent.llm.chat(PROMPT, max_tokens=400)
    await call.accepted()
    with pytest.raises(SyscallUnknown):
        await operator.calls.cancel(call.id)
    assert call.id not in [known.id for known in await operator.calls.list()]
    await call.cancel()


async def test_the_same_id_sent_twice_runs_once_and_answers_twice(agent: Agent, stack: Stack, agent_token: str) -> None:
    async with Agent(token=agent_token, url=stack.state.url) as second:
        call = agent.llm.chat(PROMPT, max_tokens=12)
        first = await call
        again = await second.llm.chat(PROMPT, max_tokens=12, id=call.id)
    assert again.text == first.text
    assert again.timings == first.timings, "the second answer is the kept one, not another run"


async def test_urgent_calls_overtake_those_that_wait(one_worker: Agent) -> None:
    """Calls wait, then one slot gets free: the one of priority 9, that came last, ends before those of priority 1."""
    slots = sum(worker.in_flight_limit for worker in (await _state(one_worker)).workers if worker.state == "ready")
    blockers = [one_worker.llm.chat(LONG, max_tokens=1000, priority=9) for _ in range(slots)]
    await _until(one_worker, lambda state: state.running == slots)
    waiting = [one_worker.llm.chat(PROMPT, max_tokens=2, priority=1) for _ in range(4)]
    await _until(one_worker, lambda state: state.queued == len(waiting))
    urgent = one_worker.llm.chat(PROMPT, max_tokens=2, priority=9)
    await _until(one_worker, lambda state: state.queued == len(waiting) + 1)

    ended: list[str] = []

    async def _end(call: Call[ChatReply]) -> None:
        ended.append((await call).id)

    async with asyncio.TaskGroup() as ends:
        for call in (*waiting, urgent):
            ends.create_task(_end(call))
        await blockers[0].cancel()
    assert ended[0] == urgent.id, "one slot serves one call after the other"
    for call in blockers[1:]:
        await call.cancel()


@pytest.fixture
async def one_worker(operator: Agent) -> AsyncIterator[Agent]:
    """An operator of a stack in which one of the two workers, which share an engine, gets nothing new."""
    worker = (await _state(operator)).workers[0].worker
    await operator.syscall("scheduler", "drain", {"worker": worker})
    yield operator
    await operator.syscall("scheduler", "drain", {"worker": worker, "drain": False})


async def _state(operator: Agent) -> StateResult:
    return StateResult.model_validate((await operator.syscall("scheduler", "state")).result)


async def _until(operator: Agent, holds: Callable[[StateResult], bool]) -> None:
    """Returns once the scheduler's state is so; fails after a minute."""
    async with asyncio.timeout(60):
        while not holds(await _state(operator)):
            await asyncio.sleep(0.02)
