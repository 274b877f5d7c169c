"""A paused generation is gone on with by calls of their own, on the real engine: they share what it has made."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engine import EngineProcess, engine_process
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto import headers as wire
from aios_proto.kernel import CallReturned, WorkerHello

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
PATIENCE_S = 90.0  # a machine that does other work computes a few tokens a second
LARGER_MODEL = Path.home() / ".cache/aios/models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SAMPLED = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.9, "top_p": 0.95}


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with engine_process() as process:
        process.wait_until_ready()
        yield process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


def settings(server: NatsServer, engine: EngineProcess, name: str, model: str | None = None) -> WorkerSettings:
    renamed: dict[str, Any] = {} if model is None else {"AIOS_MODEL_NAME": model}
    made = WorkerSettings(nats_url=server.url, instance=name, engine_url=engine.url, llm_engine_check_s=0.2, **renamed)
    assert made.model == model
    return made


@pytest.fixture
async def scheduler(server: NatsServer) -> AsyncIterator[ScriptedScheduler]:
    nc = await server.connect()
    scripted = ScriptedScheduler(nc, patience_s=PATIENCE_S)
    await scripted.open()
    yield scripted
    await nc.close()


@pytest.fixture
async def worker(server: NatsServer, engine: EngineProcess) -> AsyncIterator[InProcess]:
    async with running_in_process(WorkerService(settings(server, engine, "w1")).service) as running:
        yield running


async def paused(
    scheduler: ScriptedScheduler, body: dict[str, Any], tokens: int = 8, operation: str = "complete"
) -> tuple[wire.CallHeaders, str, int]:
    """A call that was paused after so many tokens at least, with the text and the number of tokens it has made."""
    await scheduler.heard(WorkerHello)
    call = await scheduler.run(body | {"max_tokens": 600}, scheduler.headers(operation))
    frames = [await scheduler.inbox.next(call.reply, PATIENCE_S)]
    while sum(frame["tokens"] for frame in frames) < tokens:
        frames.append(await scheduler.inbox.next(call.reply, PATIENCE_S))
    await scheduler.cancel(call, "paused")
    frames += await scheduler.frames(call)
    assert frames[-1]["error"]["code"] == "syscall.cancelled"
    text = "".join(frame["text"] for frame in frames[:-1])
    return call, text, sum(frame["tokens"] for frame in frames[:-1])


async def end_of(scheduler: ScriptedScheduler, body: dict[str, Any], operation: str = "complete") -> dict[str, Any]:
    return (await scheduler.frames(await scheduler.run(body, scheduler.headers(operation))))[-1]


async def test_five_continuations_share_the_prefix_and_part_after_it(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    origin, text, tokens = await paused(scheduler, SAMPLED)
    body = SAMPLED | {"max_tokens": tokens + 24, "continue_from": origin.id}
    calls = [await scheduler.run(body | {"seed": seed}) for seed in range(5)]
    ends = []
    for frames in await asyncio.gather(*(scheduler.frames(call) for call in calls)):
        *deltas, done = frames
        assert "".join(frame["text"] for frame in deltas) == done["result"]["text"]
        ends.append(done)
    answers = [end["result"]["text"] for end in ends]
    assert all(answer.startswith(text) for answer in answers)
    assert len(set(answers)) == 5
    for end in ends:
        usage = end["usage"]
        assert usage["completion_tokens"] <= 24, "only what it made itself"
        # All but the last token, which the engine computes to have the next one.
        assert usage["cached_tokens"] >= usage["prompt_tokens"] - 2
        assert usage["prompt_tokens"] > tokens + 10, "prompt and beginning"


async def test_a_greedy_continuation_is_what_the_call_would_have_said(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    body = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": 48}
    whole = await end_of(scheduler, body, "chat")
    origin, text, _ = await paused(scheduler, body, operation="chat")
    assert text
    assert (await end_of(scheduler, body | {"continue_from": origin.id}, "chat"))["result"] == whole["result"]


async def test_a_continuation_tells_how_likely_the_beginning_was_too(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 40, "logprobs": True, "top_logprobs": 1}
    whole = await end_of(scheduler, body)
    origin, _, tokens = await paused(scheduler, body)
    body["max_tokens"] = max(40, tokens + 4)
    *deltas, done = await scheduler.frames(await scheduler.run(body | {"continue_from": origin.id}))
    told = done["result"]["logprobs"]
    assert told[:40] == whole["result"]["logprobs"]
    assert len(told) == tokens + done["usage"]["completion_tokens"]
    assert [entry for frame in deltas for entry in frame["logprobs"]] == told
    silent = await end_of(scheduler, {"prompt": PROMPT, "max_tokens": 400, "continue_from": origin.id})
    assert "logprobs" not in silent["result"]


async def test_a_continuation_that_is_stopped_itself_goes_on_and_counts_only_its_own(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    origin, _, tokens = await paused(scheduler, SAMPLED)
    body = SAMPLED | {"max_tokens": tokens + 120, "continue_from": origin.id, "seed": 3}
    whole = await end_of(scheduler, body)
    call = await scheduler.run(body)
    await scheduler.inbox.next(call.reply, PATIENCE_S)  # the beginning
    await scheduler.inbox.next(call.reply, PATIENCE_S)
    await scheduler.preempt(call)
    assert (await scheduler.heard(CallReturned)).tokens > tokens
    await scheduler.run(body, scheduler.headers(call_id=call.id, reply=call.reply, attempt=2))
    done = (await scheduler.frames(call))[-1]
    assert done["result"] == whole["result"]
    for count in ("prompt_tokens", "completion_tokens"):
        assert done["usage"][count] == whole["usage"][count]


async def test_another_model_goes_on_from_the_text(
    scheduler: ScriptedScheduler, worker: InProcess, server: NatsServer, engine: EngineProcess
) -> None:
    origin, text, tokens = await paused(scheduler, SAMPLED, tokens=16)
    async with running_in_process(WorkerService(settings(server, engine, "w2", model="other")).service):
        nc = await server.connect()
        other = ScriptedScheduler(nc, worker="w2", patience_s=PATIENCE_S)
        await other.open()
        body = SAMPLED | {"max_tokens": tokens + 24, "continue_from": origin.id, "model": "other"}
        done = await end_of(other, body)
        await nc.close()
    answer, usage = done["result"]["text"], done["usage"]
    assert done["result"]["model"] == "other"
    shared = text[: text.rstrip().rfind(" ")]
    assert answer.startswith(shared), "all but the last word, which the other model may split otherwise"
    assert len(answer) > len(shared)
    assert 0 < usage["completion_tokens"] <= 32
    assert usage["prompt_tokens"] > tokens


@pytest.mark.skipif(not LARGER_MODEL.exists(), reason="`python benchmarks/larger_model.py` has not fetched it")
async def test_a_model_of_another_family_goes_on_with_a_chat(
    scheduler: ScriptedScheduler, worker: InProcess, server: NatsServer
) -> None:
    body = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": 48}
    origin, text, tokens = await paused(scheduler, body, tokens=16, operation="chat")
    with engine_process({"AIOS_ENGINE_MODEL": str(LARGER_MODEL)}) as larger:
        larger.wait_until_ready()
        async with running_in_process(WorkerService(settings(server, larger, "w2", model="larger")).service):
            nc = await server.connect()
            other = ScriptedScheduler(nc, worker="w2", patience_s=PATIENCE_S)
            await other.open()
            continued = body | {"max_tokens": tokens + 16, "continue_from": origin.id, "model": "larger"}
            *deltas, done = await other.frames(await other.run(continued, other.headers("chat")))
            await nc.close()
    answer = done["result"]["message"]["content"]
    shared = text[: text.rstrip().rfind(" ")]
    assert answer.startswith(shared)
    assert len(answer) > len(text)
    assert "".join(frame["text"] for frame in deltas) == answer
    assert done["result"]["model"] == "larger"


async def test_only_what_was_kept_of_an_own_call_can_be_gone_on_from(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    origin, _, _ = await paused(scheduler, SAMPLED)
    ended = await scheduler.run({"prompt": PROMPT, "max_tokens": 4})
    await scheduler.frames(ended)
    cancelled = await scheduler.run(SAMPLED | {"max_tokens": 600})
    await scheduler.inbox.next(cancelled.reply, PATIENCE_S)
    await scheduler.cancel(cancelled)
    await scheduler.frames(cancelled)
    stranger = replace(scheduler.headers(), agent="mallory")
    for headers, source in ((scheduler.headers(), ended), (scheduler.headers(), cancelled), (stranger, origin)):
        call = await scheduler.run(SAMPLED | {"continue_from": source.id}, headers)
        error = (await scheduler.frames(call))[-1]["error"]
        assert (error["code"], error["field"]) == ("resource.not_found", "continue_from")


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"prompt": "Another prompt"}, "request.invalid", "continue_from"),
        ({"max_tokens": 2}, "request.invalid", "max_tokens"),
        ({"stop": [" "]}, "request.invalid", "stop"),
        ({"logprobs": True}, "request.invalid", "logprobs"),
        ({"response_format": {"type": "regex", "regex": "[0-9]+"}}, "engine.refused", "response_format"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_told_by_its_field(
    scheduler: ScriptedScheduler, worker: InProcess, change: dict[str, Any], code: str, field: str
) -> None:
    origin, _, _ = await paused(scheduler, SAMPLED)
    error = (await end_of(scheduler, SAMPLED | {"continue_from": origin.id, "max_tokens": 600} | change))["error"]
    assert (error["code"], error["field"]) == (code, field)


async def test_a_call_that_was_paused_before_it_said_anything_leaves_nothing(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    await scheduler.heard(WorkerHello)
    call = await scheduler.run({"prompt": "word " * 400, "max_tokens": 600})
    await scheduler.cancel(call, "paused")
    assert (await scheduler.frames(call))[-1]["error"]["code"] == "syscall.cancelled"
    body = {"prompt": "word " * 400, "max_tokens": 600, "continue_from": call.id}
    assert (await end_of(scheduler, body))["error"]["code"] == "resource.not_found"
