"""A call that was stopped or lost goes on, on the real engine: text, stream and counts as if nothing had happened."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.engine import EngineProcess, engine_process
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.kernel import CallEnded, CallReturned, WorkerHello

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 12, "maxLength": 20},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
BODIES = {
    "greedy": {"prompt": "Once upon a time there was a 🦊 who", "max_tokens": 40},
    "seeded": {
        "prompt": "Once upon a time, in a small village by the sea, there lived an old fisherman who",
        "max_tokens": 40,
        "temperature": 0.9,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "seed": 11,
    },
    "stop": {"prompt": "1, 2, 3, 4,", "max_tokens": 60, "stop": [", 17"]},
    "likely": {"prompt": "In the beginning there was a 🦊 who", "max_tokens": 40, "logprobs": True, "top_logprobs": 3},
    "likely, seeded": {
        "prompt": "Once upon a time, in a small village by the sea, there lived",
        "max_tokens": 40,
        "temperature": 0.9,
        "seed": 5,
        "logprobs": True,
    },
    "likely, stop": {"prompt": "1, 2, 3, 4,", "max_tokens": 60, "stop": [", 17"], "logprobs": True, "top_logprobs": 1},
    "schema": {
        "prompt": "A person as JSON:",
        "max_tokens": 48,
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    },
}


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with engine_process() as process:
        process.wait_until_ready()
        yield process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


def settings(server: NatsServer, engine: EngineProcess, name: str) -> WorkerSettings:
    return WorkerSettings(
        nats_url=server.url,
        instance=name,
        engine_url=engine.url,
        llm_engine_check_s=0.2,
        llm_checkpoint_tokens=8,
    )


@pytest.fixture
async def worker(server: NatsServer, engine: EngineProcess) -> AsyncIterator[InProcess]:
    async with running_in_process(WorkerService(settings(server, engine, "w1")).service) as running:
        yield running


def read(frames: list[dict[str, Any]]) -> str:
    """What a reader has who drops repeats by their offsets; a gap is an error."""
    text = ""
    for frame in frames:
        if frame["type"] == "delta":
            at = frame["text_offset"]
            assert at <= len(text), f"a gap at {len(text)}"
            assert text[at : at + len(frame["text"])] == frame["text"][: len(text) - at], "a repeat that differs"
            text += frame["text"][len(text) - at :]
    return text


def likelihoods(frames: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The same of log probabilities."""
    entries: list[dict[str, Any]] = []
    for frame in frames:
        if "logprobs" in frame:
            at, told = frame["logprobs_offset"], frame["logprobs"]
            assert at <= len(entries), f"a gap at {len(entries)}"
            known = entries[at : at + len(told)]
            assert told[: len(known)] == known, "a repeat that differs"
            entries += told[len(known) :]
    return entries or None


async def tokens_of(scheduler: ScriptedScheduler, call: wire.CallHeaders, count: int) -> list[dict[str, Any]]:
    """The first frames of a call, up to so many tokens."""
    frames: list[dict[str, Any]] = []
    while sum(frame.get("tokens", 0) for frame in frames) < count:
        frames.append(await scheduler.inbox.next(call.reply))
        assert frames[-1]["type"] == "delta"
    return frames


async def undisturbed(scheduler: ScriptedScheduler, body: dict[str, Any]) -> dict[str, Any]:
    return (await scheduler.frames(await scheduler.run(body)))[-1]


@pytest.mark.parametrize("kind", list(BODIES))
async def test_a_call_stopped_twice_has_the_same_answer_stream_and_usage(
    scheduler: ScriptedScheduler, worker: InProcess, kind: str
) -> None:
    assert (await scheduler.heard(WorkerHello)).can_preempt
    body = BODIES[kind]
    whole = await undisturbed(scheduler, body)
    call = scheduler.headers()
    frames, tokens = [], 0
    for attempt, more in ((1, 3), (2, 6)):
        heard = len(scheduler.reports)
        call = scheduler.headers(call_id=call.id, reply=call.reply, attempt=attempt)
        await scheduler.run(body, call)
        frames += await tokens_of(scheduler, call, more)
        await scheduler.preempt(call)
        returned = await scheduler.heard(CallReturned, since=heard)
        assert (returned.reason, returned.attempt) == ("preempted", attempt)
        assert returned.tokens > tokens, "it went on where it was"
        tokens = returned.tokens
    call = scheduler.headers(call_id=call.id, reply=call.reply, attempt=3)
    await scheduler.run(body, call)
    frames += await scheduler.frames(call)
    done = frames[-1]
    assert done["result"] == whole["result"]
    assert read(frames) == whole["result"]["text"]
    assert likelihoods(frames) == whole["result"].get("logprobs")
    counts = ("prompt_tokens", "completion_tokens")
    assert [done["usage"][count] for count in counts] == [whole["usage"][count] for count in counts]
    given = [frame for frame in frames if frame["type"] == "delta"]
    assert [frame["offset"] for frame in given] == sorted(frame["offset"] for frame in given)
    assert sum(frame["tokens"] for frame in given) == done["usage"]["completion_tokens"], "no token came twice"
    if kind == "schema":
        orjson.loads(done["result"]["text"])


@pytest.mark.parametrize("kind", list(BODIES))
async def test_another_worker_goes_on_from_the_last_checkpoint_without_gap_or_repeat(
    scheduler: ScriptedScheduler, worker: InProcess, server: NatsServer, engine: EngineProcess, kind: str
) -> None:
    body = BODIES[kind]
    whole = await undisturbed(scheduler, body)
    async with running_in_process(WorkerService(settings(server, engine, "w2")).service):
        nc = await server.connect()
        other = ScriptedScheduler(nc, worker="w2")
        await other.open()
        bucket = await nc.jetstream().key_value(subjects.CHECKPOINTS_BUCKET)
        watcher = await bucket.watch("acme.>", ignore_deletes=True)
        call = await scheduler.run(body)
        async with asyncio.timeout(10):
            while (entry := await watcher.updates(timeout=10)) is None or entry.key != call.key:  # type: ignore[no-untyped-call]
                pass
        await watcher.stop()  # type: ignore[no-untyped-call]
        # The first worker is taken for dead, though it is not, as when the network between failed: both answer.
        again = other.headers(call_id=call.id, reply=call.reply, attempt=2)
        await other.run(body, again)
        ended = await other.heard(CallEnded)
        assert ended.outcome == "done"
        assert ended.usage is not None
        assert ended.usage.completion_tokens == whole["usage"]["completion_tokens"]
        await nc.close()
    frames = await scheduler.frames(call)
    assert read(frames) == whole["result"]["text"]
    assert likelihoods(frames) == whole["result"].get("logprobs")
    assert frames[-1]["result"] == whole["result"]


async def test_a_checkpoint_is_gone_when_its_call_has_ended(
    scheduler: ScriptedScheduler, worker: InProcess, server: NatsServer
) -> None:
    nc = await server.connect()
    bucket = await nc.jetstream().key_value(subjects.CHECKPOINTS_BUCKET)
    watcher = await bucket.watch("acme.>")
    call = await scheduler.run(BODIES["greedy"])
    await scheduler.frames(call)
    operations = []
    async with asyncio.timeout(10):
        while "PURGE" not in operations:
            entry = await watcher.updates(timeout=10)  # type: ignore[no-untyped-call]
            operations += [entry.operation or "PUT"] if entry is not None and entry.key == call.key else []
    assert operations[0] == "PUT"
    await watcher.stop()  # type: ignore[no-untyped-call]
    await nc.close()


async def test_stopping_takes_no_longer_than_a_few_tokens(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    call = await scheduler.run({"prompt": "Count: 1, 2, 3,", "max_tokens": 600})
    frames = await tokens_of(scheduler, call, 3)
    await scheduler.preempt(call)
    returned = await scheduler.heard(CallReturned)
    assert returned.reason == "preempted"
    assert returned.tokens < 100
    while sum(frame["tokens"] for frame in frames) < returned.tokens:
        frames.append(await scheduler.inbox.next(call.reply))
    assert read(frames)


async def test_a_call_that_is_cancelled_while_it_is_stopped_ends_once(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    call = await scheduler.run({"prompt": "Count: 1, 2, 3,", "max_tokens": 600})
    await tokens_of(scheduler, call, 2)
    await scheduler.preempt(call)
    await scheduler.cancel(call)
    assert (await scheduler.heard(CallReturned)).reason == "preempted"
    again = await undisturbed(scheduler, {"prompt": "Hi", "max_tokens": 2})
    assert again["type"] == "done"
    assert not [report for report in scheduler.reports if isinstance(report, CallEnded) and report.key == call.key]
