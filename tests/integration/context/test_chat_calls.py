"""A model call that names a context: what the engine is sent, and what is recorded; worker and manager are real."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from support.context_caller import ContextCaller, StartContexts
from support.nats_server import NatsServer
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import GenerateStream, TgiStandIn, tgi_stand_in

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto.headers import CallHeaders
from aios_proto.kernel import CallEnded, WorkerHello
from aios_proto.messages.context import CompressResult, ContextInfo, ContextResult

Frames = list[dict[str, Any]]


@pytest.fixture
async def tgi() -> AsyncIterator[TgiStandIn]:
    async with tgi_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
async def scheduler(server: NatsServer) -> AsyncIterator[ScriptedScheduler]:
    nc = await server.connect()
    scripted = ScriptedScheduler(nc)
    await scripted.open()
    yield scripted
    await nc.close()


@pytest.fixture
async def worker(server: NatsServer, tgi: TgiStandIn, scheduler: ScriptedScheduler) -> AsyncIterator[InProcess]:
    settings = WorkerSettings(
        nats_url=server.url, instance="w1", engine_url=tgi.url, llm_engine_check_s=0.1, llm_default_max_tokens=100
    )
    async with running_in_process(WorkerService(settings).service) as running:
        await scheduler.heard(WorkerHello, lambda hello: hello.ready)
        yield running


def about(scheduler: ScriptedScheduler, context: str, **options: Any) -> CallHeaders:
    return replace(scheduler.headers("chat", **options), context=context)


def says(text: str, **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **options}


async def ask(scheduler: ScriptedScheduler, context: str, text: str, **options: Any) -> Frames:
    return await scheduler.frames(await scheduler.run(says(text), about(scheduler, context, **options)))


@pytest.mark.usefixtures("contexts", "worker")
async def test_the_engine_is_sent_the_conversation_and_the_answer_joins_it(
    alice: ContextCaller, scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    await alice.open("s:be kind", context="talk")
    frames = await ask(scheduler, "talk", "hi")
    assert frames[-1]["result"]["message"]["content"] == "Hello world"
    assert (await tgi.stream(0)).body["inputs"] == "<system>s:be kind<user>hi<assistant>"
    await ask(scheduler, "talk", "and now?")
    first, second = (await tgi.stream(0)).body["inputs"], (await tgi.stream(1)).body["inputs"]
    assert second == f"{first}Hello world<user>and now?<assistant>"  # what the engine's prefix cache needs
    assert await alice.texts("talk") == ["s:be kind", "hi", "Hello world", "and now?", "Hello world"]


@pytest.mark.usefixtures("contexts", "worker")
async def test_a_call_that_is_run_again_sends_the_same_prompt_and_records_once(
    alice: ContextCaller, scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    await alice.open("s:be kind", context="talk")
    headers = about(scheduler, "talk", call_id="call-1")
    await scheduler.frames(await scheduler.run(says("hi"), headers))
    # As another worker would run it, that knows nothing of the first run.
    again = replace(headers, reply=scheduler.inbox.new_subject(), attempt=1)
    await scheduler.heard(CallEnded, lambda ended: ended.key == headers.key)
    worker = WorkerService(
        WorkerSettings(nats_url=scheduler.nc.connected_url.geturl(), instance="w2", engine_url=tgi.url)  # type: ignore[union-attr]
    )
    async with running_in_process(worker.service):
        other = ScriptedScheduler(scheduler.nc, "w2")
        other.inbox = scheduler.inbox
        await other.run(says("hi"), again)
        assert (await scheduler.frames(again))[-1]["type"] == "done"
    assert (await tgi.stream(0)).body["inputs"] == (await tgi.stream(1)).body["inputs"]
    assert await alice.texts("talk") == ["s:be kind", "hi", "Hello world"]


@pytest.mark.usefixtures("contexts", "worker")
async def test_a_failed_call_leaves_the_conversation_as_it_was(
    alice: ContextCaller, scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def refuse(stream: GenerateStream) -> None:
        stream.refuse(422, "the grammar does not compile", "validation")

    tgi.script = refuse
    await alice.open("s:be kind", context="talk")
    assert (await ask(scheduler, "talk", "hi"))[-1]["error"]["code"] == "engine.refused"
    assert await alice.texts("talk") == ["s:be kind"]


@pytest.mark.usefixtures("contexts", "worker")
async def test_a_call_on_a_context_that_is_not_there_names_it(
    alice: ContextCaller, scheduler: ScriptedScheduler
) -> None:
    await alice.as_agent("bob").open("secret", context="talk")
    error = (await ask(scheduler, "talk", "hi"))[-1]["error"]
    assert (error["code"], error["field"]) == ("resource.not_found", "context")


@pytest.mark.usefixtures("contexts", "worker")
@pytest.mark.parametrize("policy", ["truncate", "sliding", "summarise"])
async def test_a_conversation_longer_than_the_models_window_is_answered_with_its_pinned_fact_in_the_prompt(
    alice: ContextCaller, scheduler: ScriptedScheduler, tgi: TgiStandIn, policy: str
) -> None:
    await alice.open(context="talk", policy=policy)
    await alice.append("talk", "the code is 7431", pinned=True)
    await alice.append("talk", *(f"{n} " + "x" * 100 for n in range(40)))
    frames = await ask(scheduler, "talk", "what is the code?")
    assert frames[-1]["type"] == "done"
    prompt = (await tgi.stream(0)).body["inputs"]
    assert len(prompt) <= tgi.info["max_input_tokens"]  # a character is a token there
    assert prompt.startswith("<user>the code is 7431<user>")
    reminder = "<system>Facts to remember:\n- the code is 7431"
    assert prompt.endswith(f"<user>39 {'x' * 100}{reminder}<user>what is the code?<assistant>")
    assert (await alice.texts("talk"))[-3:] == [f"39 {'x' * 100}", "what is the code?", "Hello world"]


@pytest.mark.usefixtures("contexts", "worker")
async def test_a_new_turn_that_cannot_fit_is_refused_before_the_engine_sees_it(
    alice: ContextCaller, scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    await alice.open(context="talk")
    error = (await ask(scheduler, "talk", "x" * 2000))[-1]["error"]
    assert (error["code"], error["field"]) == ("request.invalid", "messages")
    assert tgi.streams == []


@pytest.mark.usefixtures("contexts", "worker")
async def test_counted_turns_show_their_tokens_where_the_context_names_its_model(
    alice: ContextCaller, scheduler: ScriptedScheduler
) -> None:
    await alice.open("four", context="talk", model="stand-in")
    await ask(scheduler, "talk", "hi")
    await ask(scheduler, "talk", "ho")
    shown = await alice.call("get", ContextResult, context="talk")
    tokens = [detail.tokens or 0 for detail in shown.details]
    overhead = tokens[0] - len("four")
    texts = ["four", "hi", "Hello world", "ho", "Hello world"]
    assert overhead > 0
    assert tokens == [len(text) + overhead for text in texts]
    assert shown.tokens is not None
    assert shown.tokens > sum(tokens)


@pytest.mark.usefixtures("worker")
async def test_a_call_waits_for_a_manager_that_is_being_restarted(
    alice: ContextCaller, scheduler: ScriptedScheduler, start_contexts: StartContexts
) -> None:
    async with start_contexts():
        await alice.open("s:be kind", context="talk")
    call = await scheduler.run(says("hi"), about(scheduler, "talk"))
    async with start_contexts():
        assert (await scheduler.frames(call))[-1]["type"] == "done"
        assert await alice.texts("talk") == ["s:be kind", "hi", "Hello world"]


@pytest.mark.usefixtures("contexts", "worker")
async def test_a_summary_is_made_through_the_worker_itself(
    alice: ContextCaller, scheduler: ScriptedScheduler, server: NatsServer, tgi: TgiStandIn
) -> None:
    async def dispatch(message: Any) -> None:
        """What the scheduler does with a call of the kernel's."""
        headers = {**message.headers, "Aios-Operation": "chat", "Aios-Attempt": "1", "Aios-Times": "1,1,1"}
        await nc.publish("aios.k.llm.default.w1.run", message.data, headers=headers)

    nc = await server.connect()
    await nc.subscribe("aios.k.llm.chat", cb=dispatch)
    await nc.flush()
    await alice.open(context="talk", model="stand-in")
    await alice.append("talk", *(f"{n} " + "x" * 100 for n in range(20)))
    done = await alice.call("compress", CompressResult, context="talk", target_tokens=900)
    assert done.after_tokens < 900 < done.before_tokens
    assert (await alice.texts("talk"))[0] == "Summary of the conversation so far:\nHello world"
    assert "Summary of what came before:\nHello world" in (await tgi.stream(1)).body["inputs"]
    await nc.close()


@pytest.mark.usefixtures("contexts", "worker")
async def test_calls_side_by_side_on_one_context_are_all_recorded(
    alice: ContextCaller, scheduler: ScriptedScheduler
) -> None:
    await alice.open(context="talk")
    await asyncio.gather(*(ask(scheduler, "talk", f"q{n}") for n in range(8)))
    info = await alice.call("append", ContextInfo, context="talk", messages=says("end")["messages"])
    assert info.turns == 17
