"""What an agent's author sees of calls that go well or are refused."""

import asyncio
import time
from typing import Any

import orjson
import pytest
from support.scripted_kernel import ScriptedCall, ScriptedKernel

import aios
from aios import Agent, ChatMessage
from aios_proto import errors


async def test_awaiting_a_chat_call_gives_the_answer_with_usage_and_timings(
    agent: Agent, kernel: ScriptedKernel
) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("Hello", " world")
    call = agent.llm.chat("Hi", model="m1", max_tokens=5, priority=7)
    reply = await call
    assert reply.text == "Hello world"
    assert reply.message == ChatMessage(role="assistant", content="Hello world")
    assert reply.finish_reason == "stop"
    assert reply.id == call.id
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 7
    assert reply.timings is not None
    assert reply.timings.first_token_ms == 3.0
    assert reply.worker == "w1"
    (sent,) = kernel.received
    assert sent.body == {"model": "m1", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    assert sent.headers.priority == 7
    assert sent.headers.program == agent.program
    assert sent.headers.deadline_ms is not None
    assert 100 < sent.headers.deadline_ms / 1000 - time.time() <= 120


async def test_iterating_gives_the_pieces_as_they_come(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    await sent.accepted()
    pieces = aiter(call)
    await sent.delta(0, "Grüß")
    assert await anext(pieces) == "Grüß"
    await sent.delta(4, " dich 🌍")
    assert await anext(pieces) == " dich 🌍"
    await sent.chat_done("Grüß dich 🌍")
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)
    assert [piece async for piece in call] == ["Grüß", " dich 🌍"]  # a second reader gets all of it


async def test_repeated_and_overlapping_pieces_are_dropped(agent: Agent, kernel: ScriptedKernel) -> None:
    async def fails_over(call: ScriptedCall) -> None:
        await call.accepted()
        await call.delta(0, "one two")
        await call.delta(0, "one ")
        await call.delta(4, "two three")
        await call.delta(4, "two")
        await call.delta(13, " four")
        await call.chat_done("one two three four")

    kernel.handlers["llm.chat"] = fails_over
    call = agent.llm.chat("count")
    assert [piece async for piece in call] == ["one two", " three", " four"]


async def test_text_whose_pieces_never_came_is_there_at_the_end(agent: Agent, kernel: ScriptedKernel) -> None:
    async def loses(call: ScriptedCall) -> None:
        await call.delta(0, "one")
        await call.chat_done("one two three")

    kernel.handlers["llm.chat"] = loses
    call = agent.llm.chat("count")
    assert "".join([piece async for piece in call]) == "one two three"


async def test_a_missing_piece_is_asked_for_again(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("count")
    sent = await kernel.next("llm.chat")
    await sent.delta(0, "one")
    await sent.delta(7, " three")
    attach = await kernel.next("syscall.attach")
    assert attach.body == {"id": call.id, "text_offset": 3}
    assert attach.reply == sent.reply
    await attach.delta(3, " two three", call_id=call.id)
    await attach.chat_done("one two three", call_id=call.id)
    assert [piece async for piece in call] == ["one", " two three"]


async def test_several_calls_run_at_once_and_each_gets_its_own_answer(agent: Agent, kernel: ScriptedKernel) -> None:
    async def echo(call: ScriptedCall) -> None:
        await call.stream(*call.body["messages"][0]["content"])

    kernel.handlers["llm.chat"] = echo
    calls = [agent.llm.chat(f"text {number}") for number in range(200)]
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [f"text {number}" for number in range(200)]


async def test_a_prompt_is_completed(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.complete"] = lambda call: call.done(
        {"text": "Paris", "finish_reason": "length", "model": "m1"}
    )
    call = agent.llm.complete("The capital of France is", stop=["."])
    assert (await call).text == "Paris"
    assert (await call).finish_reason == "length"
    assert [piece async for piece in call] == ["Paris"]


async def test_models_whoami_list_and_raw_calls(agent: Agent, kernel: ScriptedKernel) -> None:
    model = {"model": "m1", "pool": "default", "workers": 2, "max_input_tokens": 10, "max_total_tokens": 20}
    kernel.handlers["llm.models"] = lambda call: call.done({"models": [model]})
    kernel.handlers["access.whoami"] = lambda call: call.done(
        {"tenant": call.subject.tenant, "agent": call.subject.agent, "group": "agent", "new_field": 1}
    )
    entry = {
        "id": "x",
        "operation": "llm.chat",
        "state": "queued",
        "program": "p",
        "priority": 5,
        "deadline_ms": 1,
        "age_s": 0.5,
    }
    kernel.handlers["syscall.list"] = lambda call: call.done({"calls": [entry]})
    kernel.handlers["memory.pool.create"] = lambda call: call.done({"echo": call.body})
    assert [found.model for found in await agent.llm.models()] == ["m1"]
    me = await agent.whoami()
    assert (me.tenant, me.agent, me.group) == ("acme", "alice", "agent") == (agent.tenant, agent.name, "agent")
    assert [found.state for found in await agent.calls.list()] == ["queued"]
    assert (await agent.syscall("memory", "pool.create", {"pool": "p1"})).result == {"echo": {"pool": "p1"}}


@pytest.mark.parametrize("cls", errors.wire_codes().values(), ids=errors.wire_codes().keys())
async def test_an_error_of_the_kernel_is_the_same_class_here(
    agent: Agent, kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch, cls: type[errors.AiosError]
) -> None:
    monkeypatch.setattr("aios._course.MOST_UNKNOWN", 0)  # the two errors that are answered by sending again
    monkeypatch.setattr("aios._course.DESERTED_PATIENCE_S", 0)
    raised = cls("no", field="messages.0", retry_after_s=1.5, trace_id="a" * 32)
    kernel.handlers["llm.chat"] = lambda call: call.error(raised)
    call = agent.llm.chat("Hi")
    with pytest.raises(cls) as caught:
        await call
    assert type(caught.value) is cls
    assert getattr(aios, cls.__name__) is cls
    assert (caught.value.code, caught.value.field, caught.value.retry_after_s) == (cls.code, "messages.0", 1.5)
    assert (caught.value.syscall_id, caught.value.trace_id) == (call.id, "a" * 32)
    with pytest.raises(cls):
        _ = [piece async for piece in call]
    with pytest.raises(cls):
        await call.accepted()


async def test_an_error_of_a_newer_kernel_is_raised_as_its_family(agent: Agent, kernel: ScriptedKernel) -> None:
    body = {"code": "queue.moon_phase", "message": "wait", "retryable": True}
    kernel.handlers["llm.chat"] = lambda call: call.frame("error", error=body)
    with pytest.raises(aios.QueueError) as caught:
        await agent.llm.chat("Hi")
    assert caught.value.code == "queue.moon_phase"


async def test_pieces_come_before_the_error_that_ends_the_call(agent: Agent, kernel: ScriptedKernel) -> None:
    async def breaks(call: ScriptedCall) -> None:
        await call.delta(0, "half")
        await call.error(errors.WorkerLost("again and again"))

    kernel.handlers["llm.chat"] = breaks
    pieces = aiter(agent.llm.chat("Hi"))
    assert await anext(pieces) == "half"
    with pytest.raises(aios.WorkerLost):
        await anext(pieces)


async def test_accepted_returns_before_the_answer(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    await sent.accepted(trace_id="b" * 32)
    await call.accepted()
    assert not call.done
    assert call.trace_id == "b" * 32
    await sent.chat_done("x")
    assert (await call).trace_id == "b" * 32


async def test_cancel_ends_the_call(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")

    async def cancel(asked: ScriptedCall) -> None:
        await asked.done({"id": asked.body["id"], "state": "running"})
        await sent.error(errors.SyscallCancelled("cancelled by its owner"))

    kernel.handlers["syscall.cancel"] = cancel
    assert (await call.cancel()).state == "running"
    with pytest.raises(aios.SyscallCancelled):
        await call
    assert (await call.cancel()).state == "ended"
    assert (await agent.calls.cancel("other")).id == "other"


async def test_attaching_takes_up_a_call_made_elsewhere(agent: Agent, kernel: ScriptedKernel) -> None:
    async def attach(call: ScriptedCall) -> None:
        if call.body["id"] != "known":
            await call.error(errors.SyscallUnknown("no such call"))
            return
        await call.delta(call.body["text_offset"], "lo wo", call_id="known")
        await call.chat_done("Hello world", call_id="known")

    kernel.handlers["syscall.attach"] = attach
    call = agent.calls.attach("known", text_offset=3)
    assert [piece async for piece in call] == ["lo wo", "rld"]
    reply = await call
    assert isinstance(reply, aios.ChatReply)
    assert reply.text == "Hello world"
    with pytest.raises(aios.SyscallUnknown):
        await agent.calls.attach("unknown")


async def test_calls_of_a_run_are_one_program(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("ok")
    with agent.run("researcher") as program:
        await asyncio.gather(agent.llm.chat("a"), agent.llm.chat("b"))
    await agent.llm.chat("c")
    await agent.llm.chat("d", program="mine")
    assert [call.headers.program for call in kernel.received] == [program, program, agent.program, "mine"]


async def test_a_call_can_wait_for_others(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("ok")
    first = agent.llm.chat("a")
    second = agent.llm.chat("b", after=[first, "other"], context="c1", durability="volatile", id="my-id")
    await asyncio.gather(first, second)
    sent = kernel.received[1].headers
    assert (sent.id, sent.after, sent.context, sent.durability) == ("my-id", (first.id, "other"), "c1", "volatile")


async def test_rubbish_on_the_reply_subject_is_survived(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    for rubbish in (b"", b"{", b"[]", b"7", b'{"type":"delta"}', b'{"id":"other","type":"done"}'):
        await sent.client.publish(sent.reply, rubbish)
    await sent.frame("delta", text_offset="0", text=1)
    await sent.frame("something_new", x=1)
    await sent.stream("fine")
    assert (await call).text == "fine"


@pytest.mark.parametrize(
    ("kind", "fields"), [("done", {"result": {}}), ("done", {}), ("error", {"error": {"code": 1}}), ("error", {})]
)
async def test_an_end_that_cannot_be_read_is_an_internal_error(
    agent: Agent, kernel: ScriptedKernel, kind: str, fields: dict[str, Any]
) -> None:
    async def ends(call: ScriptedCall) -> None:
        await call.client.publish(call.reply, orjson.dumps({"type": kind, "id": call.headers.id, **fields}))

    kernel.handlers["llm.chat"] = ends
    with pytest.raises(aios.InternalError):
        await agent.llm.chat("Hi")
