"""The worker on the project's own engine and a real small model: the stand-in must not be kinder than that."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from support.engine import running_engine
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto.kernel import CallEnded, WorkerHello

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # the first run on a machine prepares the model


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with running_engine() as url:
        yield url


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
async def worker(server: NatsServer, engine_url: str) -> AsyncIterator[InProcess]:
    settings = WorkerSettings(nats_url=server.url, instance="w1", engine_url=engine_url, llm_engine_check_s=0.2)
    async with running_in_process(WorkerService(settings).service) as running:
        yield running


async def test_a_chat_streams_and_its_pieces_are_the_answer(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    hello = await scheduler.heard(WorkerHello)
    assert hello.max_total_tokens > 0
    body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 12}
    *deltas, done = await scheduler.frames(await scheduler.run(body, scheduler.headers("chat")))
    text = done["result"]["message"]["content"]
    assert "".join(delta["text"] for delta in deltas) == text != ""
    assert done["usage"]["completion_tokens"] == sum(delta["tokens"] for delta in deltas) <= 12
    assert done["usage"]["prompt_tokens"] > 0


async def test_a_sampled_call_gives_the_same_text_when_it_is_run_again(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.0, "seed": 5, "stream": False}
    texts = {(await scheduler.frames(await scheduler.run(body)))[-1]["result"]["text"] for _ in range(2)}
    assert len(texts) == 1


async def test_an_answer_keeps_to_its_schema(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }
    done = (await scheduler.frames(await scheduler.run(body, scheduler.headers("chat"))))[-1]
    assert isinstance(orjson.loads(done["result"]["message"]["content"])["ok"], bool)


async def test_a_stop_sequence_is_not_part_of_the_answer(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    body = {"prompt": "1, 2, 3, 4,", "max_tokens": 24, "stop": [", 7"]}
    *deltas, done = await scheduler.frames(await scheduler.run(body))
    assert ", 7" not in done["result"]["text"]
    assert "".join(delta["text"] for delta in deltas) == done["result"]["text"]


@pytest.mark.parametrize("chat", [True, False])
async def test_an_answer_ends_where_its_budget_does(
    scheduler: ScriptedScheduler, worker: InProcess, chat: bool
) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 4
    body = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    headers = partial(scheduler.headers, "chat" if chat else "complete")
    free = (await scheduler.frames(await scheduler.run({**body, "max_tokens": 8}, headers())))[-1]
    prompt_tokens = free["usage"]["prompt_tokens"]
    assert free["usage"]["completion_tokens"] == 8
    limited = replace(headers(), budget_tokens=prompt_tokens + 3)
    done = (await scheduler.frames(await scheduler.run({**body, "max_tokens": 8}, limited)))[-1]
    assert done["result"]["finish_reason"] == "length"
    assert done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"] == prompt_tokens + 3
    spent = replace(headers(), budget_tokens=prompt_tokens)
    error = (await scheduler.frames(await scheduler.run(body, spent)))[-1]["error"]
    assert (error["code"], error["retryable"]) == ("quota.exhausted", True)
    assert str(prompt_tokens) in error["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "word " * 5000}, "prompt"),
        ({"prompt": "x", "response_format": {"type": "regex", "regex": "(("}}, "response_format"),
    ],
)
async def test_what_the_engine_refuses_is_told_by_the_name_of_the_field(
    scheduler: ScriptedScheduler, worker: InProcess, body: dict[str, object], field: str
) -> None:
    error = (await scheduler.frames(await scheduler.run(body)))[-1]["error"]
    assert (error["code"], error["field"]) == ("engine.refused", field)


async def test_cancelling_frees_the_engine(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    call = await scheduler.run({"prompt": "Count to a thousand: 1, 2, 3,", "max_tokens": 800})
    await scheduler.inbox.next(call.reply)
    await scheduler.cancel(call)
    assert (await scheduler.frames(call))[-1]["error"]["code"] == "syscall.cancelled"
    assert (await scheduler.heard(CallEnded)).outcome == "cancelled"
    assert (await scheduler.frames(await scheduler.run({"prompt": "Hi", "max_tokens": 2})))[-1]["type"] == "done"
