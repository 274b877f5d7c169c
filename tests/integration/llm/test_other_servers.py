"""Scheduler and worker on servers that are not ours: llama.cpp's, and the one that `AIOS_TEST_OPENAI_URL` names.

What is asked of the adapter alone is in `test_adapters.py`, which also says how that other server is to be started.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.llama_server import running_llama_server
from support.model_caller import ModelCaller
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_scheduler.service import SchedulerService
from aios_scheduler.settings import SchedulerSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKENS = 160
LONG: dict[str, Any] = {
    "prompt": "Once upon a time, in a small village by the sea, there lived",
    "max_tokens": TOKENS,
}
TALK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a long story about the sea."}],
    "max_tokens": TOKENS,
}
SHORT = {"prompt": "2, 4, 6,", "max_tokens": 4}


@pytest.fixture(scope="module", params=["llama.cpp", "another server"])
def engine_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "llama.cpp":
        with running_llama_server() as url:
            yield url
        return
    if (other := os.environ.get("AIOS_TEST_OPENAI_URL")) is None:
        pytest.skip("AIOS_TEST_OPENAI_URL names no other server")
    yield other


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[ModelCaller]:
    nc = await server.connect()
    caller = ModelCaller(nc)
    await caller.inbox.open()
    yield caller
    await nc.close()


@pytest.fixture
async def road(server: NatsServer, engine_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcess]:
    """A scheduler and a worker that runs one call at a time."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    template = os.environ.get("AIOS_TEST_OPENAI_TEMPLATE")
    working = WorkerSettings(
        nats_url=server.url,
        instance="w1",
        engine_kind="openai",
        engine_url=engine_url,
        engine_chat_template=Path(template) if template else None,
        llm_in_flight=1,
        llm_engine_check_s=0.2,
    )
    scheduling = SchedulerSettings(nats_url=server.url, instance="s1", scheduler_listen_s=0.0)
    async with (
        running_in_process(WorkerService(working).service),
        running_in_process(SchedulerService(scheduling).service) as scheduler,
    ):
        yield scheduler


@pytest.mark.parametrize(("operation", "body"), [("complete", LONG), ("chat", TALK)])
async def test_a_call_makes_way_for_a_burst_and_goes_on_without_a_gap(
    caller: ModelCaller, road: InProcess, operation: str, body: dict[str, Any]
) -> None:
    slow = await caller.model_call(body, operation=operation, priority=2, deadline_s=250)
    frames = [await caller.inbox.next(slow.reply)]
    burst = [await caller.model_call(SHORT, priority=8, deadline_s=200) for _ in range(3)]
    for call in burst:
        done = await caller.end(call, 60)
        assert (done["type"], done["usage"]["completion_tokens"]) == ("done", 4)
    while caller.inbox.waiting(slow.reply):
        frames.append(await caller.inbox.next(slow.reply))
    assert all(frame["type"] == "delta" for frame in frames), "the burst was faster than what was left of the long call"
    frames += await caller.inbox.until_end(slow.reply, 120)
    *deltas, done = frames
    text = ""
    for frame in deltas:
        assert frame["text_offset"] == len(text), "no gap, no repeat"
        text += frame["text"]
    result = done["result"]
    assert text == (result["message"]["content"] if "message" in result else result["text"])
    assert done["usage"]["completion_tokens"] <= TOKENS
    assert sum(frame["tokens"] for frame in deltas) == done["usage"]["completion_tokens"]
