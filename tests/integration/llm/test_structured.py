"""A hundred answers that must be documents of a schema are a hundred valid documents, with the real model."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from support.engine import running_engine
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CALLS = 100
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 12},
        "warm": {"type": "boolean"},
        "month": {"enum": ["may", "june"]},
    },
    "required": ["city", "warm", "month"],
    "additionalProperties": False,
}


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


async def test_a_hundred_answers_are_a_hundred_valid_documents(scheduler: ScriptedScheduler, worker: InProcess) -> None:
    slots = asyncio.Semaphore(6)

    async def one(number: int) -> str:
        body = {
            "prompt": f"Weather report number {number}: ",
            "max_tokens": 60,
            "temperature": 1.2,
            "seed": number,
            "stream": False,
            "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        }
        async with slots:
            call = await scheduler.run(body, scheduler.headers(deadline_s=500))
            done = (await scheduler.inbox.until_end(call.reply, 500))[-1]
        assert done["type"] == "done", done
        text: str = done["result"]["text"]
        return text

    texts = await asyncio.gather(*(one(number) for number in range(CALLS)))
    validator = Draft202012Validator(SCHEMA)
    invalid = [text for text in texts if not validator.is_valid(json.loads(text))]
    assert invalid == []
    assert len(set(texts)) > CALLS / 4, "they are answers, not one document again and again"


async def test_a_schema_the_engine_refuses_is_told_by_its_field(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    body = {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"type": "no such type"}}}
    error = (await scheduler.frames(await scheduler.run(body)))[-1]["error"]
    assert (error["code"], error["field"]) == ("engine.refused", "response_format")
