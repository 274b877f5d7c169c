"""Ten small tasks, solved by an agent with a scripted model; the transcripts stand beside this file.

`AIOS_WRITE_TRANSCRIPTS=1` writes them anew. With real models: `benchmarks/tool_tasks.py`.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from nats.aio.msg import Msg
from support.kernel_peer import KernelPeer, kernel_peer
from support.tool_tasks import TASKS, Task, World, declare
from support.tool_world import ToolWorld

from aios import Agent, ResourceNotFound, ToolTalk
from aios_proto import headers as wire

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

TRANSCRIPTS = Path(__file__).parent / "transcripts"


class ScriptedModel:
    """Says what it was told to say, turn by turn."""

    def __init__(self, peer: KernelPeer) -> None:
        self.peer = peer
        self.turns: list[str] = []
        self.asked: list[dict[str, Any]] = []

    def says(self, turns: Sequence[str]) -> None:
        self.turns, self.asked = list(turns), []

    async def answer(self, message: Msg) -> None:
        headers = message.headers or {}
        self.asked.append(orjson.loads(message.data))
        text = self.turns.pop(0) if self.turns else "I have nothing more to say."
        turn = orjson.loads(text) if text.startswith('{"role"') else {"role": "assistant", "content": text}
        result = {"message": turn, "finish_reason": "stop", "model": "scripted"}
        frame = {"type": "done", "id": headers[wire.ID], "result": result}
        await self.peer.nc.publish(headers[wire.REPLY], orjson.dumps(frame))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(world: ToolWorld) -> AsyncIterator[ScriptedModel]:
    async with kernel_peer(world.installation.server, "scheduler", "llm", pattern="aios.k.llm.*") as peer:
        peer.answers = False
        scripted = ScriptedModel(peer)
        await peer.nc.subscribe("aios.k.llm.chat", cb=scripted.answer)
        await peer.beat()
        yield scripted


@contextlib.asynccontextmanager
async def agent_in(world: ToolWorld) -> AsyncIterator[tuple[Agent, World]]:
    """An agent that serves the tools of the tasks to itself."""
    agent, state = await world.agent(), World()
    declare(agent, state)
    async with agent:
        yield agent, state
        for tool in agent.tools.served:
            await agent.syscall("tool", "unregister", {"name": tool})


def transcript(task: Task, talk: ToolTalk) -> list[dict[str, Any]]:
    """The conversation without its system prompt."""
    turns = [message.model_dump(exclude_none=True) for message in talk.messages if message.role != "system"]
    return [{"task": task.name, "answer": str(talk.answer), "taint": list(talk.taint)}, *turns]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
async def test_the_task_is_solved(world: ToolWorld, model: ScriptedModel, task: Task) -> None:
    model.says(task.script)
    async with agent_in(world) as (agent, state):
        talk = await agent.chat_with_tools(task.prompt, tools=task.tools, output=task.output, durability="volatile")
    assert task.solved(talk.answer, state)
    path = TRANSCRIPTS / f"{task.name}.json"
    if os.environ.get("AIOS_WRITE_TRANSCRIPTS"):
        TRANSCRIPTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(transcript(task, talk), indent=2) + "\n")
    assert transcript(task, talk) == json.loads(path.read_text())


async def test_the_calls_of_one_turn_run_together(world: ToolWorld, model: ScriptedModel) -> None:
    task = next(task for task in TASKS if task.name == "parallel-lookups")
    model.says(task.script)
    async with agent_in(world) as (agent, _):
        talk = await agent.chat_with_tools(task.prompt, tools=task.tools, durability="volatile")
    assert [use.content for use in talk.steps[0].uses] == [3, 21, 17]
    assert talk.taint == ("tool:weather",)


async def test_the_last_step_can_only_answer(world: ToolWorld, model: ScriptedModel) -> None:
    asks = '{"calls":[{"tool":"calculator","arguments":{"expression":"1"}}]}'
    model.says([asks, asks, asks])
    async with await world.agent() as agent:
        talk = await agent.chat_with_tools("Go on", tools=["calculator"], max_steps=3, durability="volatile")
    assert not talk.answered
    assert len(model.asked) == 3
    schemas = [asked["response_format"]["json_schema"] for asked in model.asked]
    assert "anyOf" in schemas[0]
    assert list(schemas[2]["properties"]) == ["answer"]


async def test_an_unknown_tool_and_an_unreadable_turn_are_told_to_the_model(
    world: ToolWorld, model: ScriptedModel
) -> None:
    model.says(['{"tool": "fly", "arguments": {}}', '{"calls": [{"tool": "calc', '{"answer": "sorry"}'])
    async with await world.agent() as agent:
        talk = await agent.chat_with_tools("Fly", tools=["calculator"], mode="text", durability="volatile")
        with pytest.raises(ResourceNotFound):
            await agent.chat_with_tools("Fly", tools=["fly"], durability="volatile")
    assert talk.steps[0].uses[0].error == "there is no tool 'fly'; there are calculator"
    assert "not the JSON" in talk.steps[1].fault
    assert talk.answer == "sorry"


async def test_tool_calls_of_the_chat_operation_work_as_well(world: ToolWorld, model: ScriptedModel) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "calculator", "arguments": '{"expression":"2+3"}'}}
    model.says([json.dumps({"role": "assistant", "tool_calls": [call]}), "It is 5."])
    async with await world.agent() as agent:
        talk = await agent.chat_with_tools("2+3?", tools=["calculator"], mode="native", durability="volatile")
    assert talk.answer == "It is 5."
    assert talk.messages[2].role == "tool"
    assert talk.messages[2].tool_call_id == "c1"
    assert model.asked[0]["tools"][0]["function"]["name"] == "calculator"


async def test_a_required_tool_must_be_used_with_success_before_an_answer(
    world: ToolWorld, model: ScriptedModel
) -> None:
    fails = '{"calls":[{"tool":"calculator","arguments":{"expression":"1/0"}}]}'
    works = '{"calls":[{"tool":"calculator","arguments":{"expression":"1+1"}}]}'
    model.says([fails, works, '{"answer":"2"}'])
    async with await world.agent() as agent:
        talk = await agent.chat_with_tools("1+1?", tools=["calculator"], tool_choice="required", durability="volatile")
    assert talk.answer == "2"
    schemas = [asked["response_format"]["json_schema"] for asked in model.asked]
    assert [list(schema.get("properties", {})) for schema in schemas] == [["calls"], ["calls"], []]
    assert "anyOf" in schemas[2]


async def test_a_model_that_goes_round_in_circles_is_made_to_answer(world: ToolWorld, model: ScriptedModel) -> None:
    sends = '{"calls":[{"tool":"send","arguments":{"to":"555-0101","text":"hello"}}]}'
    model.says([sends, sends, '{"answer":"sent"}'])
    async with agent_in(world) as (agent, state):
        talk = await agent.chat_with_tools("Send it", tools=["send"], durability="volatile")
    assert talk.answer == "sent"
    assert state.sent == [("555-0101", "hello")], "the same call is not made twice"
    assert [len(step.uses) for step in talk.steps] == [1, 1, 0]
    assert list(model.asked[2]["response_format"]["json_schema"]["properties"]) == ["answer"]
