"""A long call of low priority makes way for a burst of high priority, and is not the worse for it: the real parts."""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from support.engine import running_engine
from support.model_caller import ModelCaller
from support.nats_server import NatsServer, running_open_nats
from support.otlp_sink import OtlpSink
from support.running_service import InProcess, running_in_process

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_scheduler.service import SchedulerService
from aios_scheduler.settings import SchedulerSettings
from aios_stack.spans.record import SpanRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = {
    "prompt": "Once upon a time, in a small village by the sea, there lived",
    "max_tokens": 160,
    "logprobs": True,
    "top_logprobs": 2,
}
SHORT = {"prompt": "2, 4, 6,", "max_tokens": 4}


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with running_engine() as url:
        yield url


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


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
async def road(
    server: NatsServer, engine_url: str, sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InProcess]:
    """A scheduler and a worker that runs one call at a time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint)
    scheduling = SchedulerSettings(nats_url=server.url, instance="s1", scheduler_listen_s=0.0)
    working = WorkerSettings(
        nats_url=server.url, instance="w1", engine_url=engine_url, llm_in_flight=1, llm_engine_check_s=0.2
    )
    async with (
        running_in_process(WorkerService(working).service),
        running_in_process(SchedulerService(scheduling).service) as scheduler,
    ):
        yield scheduler


async def test_a_burst_goes_first_and_the_long_call_completes_as_if_alone(
    caller: ModelCaller, road: InProcess, sink: OtlpSink
) -> None:
    alone = await caller.end(await caller.model_call(LONG), 60)
    slow = await caller.model_call(LONG, priority=2, deadline_s=250)
    first = await caller.inbox.next(slow.reply)
    burst = [await caller.model_call(SHORT, priority=8, deadline_s=200) for _ in range(3)]
    for call in burst:
        assert (await caller.end(call, 60))["type"] == "done"
    frames = [first]
    while caller.inbox.waiting(slow.reply):
        frames.append(await caller.inbox.next(slow.reply))
    assert all(frame["type"] == "delta" for frame in frames), "the burst was faster than what was left of the long call"
    frames += await caller.inbox.until_end(slow.reply, 120)
    assert frames[-1]["result"] == alone["result"]
    assert frames[-1]["usage"]["completion_tokens"] == alone["usage"]["completion_tokens"]
    text, likelihoods = "", list[object]()
    for frame in frames[:-1]:
        assert frame["text_offset"] == len(text), "no gap, no repeat"
        text += frame["text"]
        assert frame.get("logprobs_offset", len(likelihoods)) == len(likelihoods)
        likelihoods += frame.get("logprobs", [])
    assert text == alone["result"]["text"]
    assert likelihoods == alone["result"]["logprobs"]
    assert len(likelihoods) == alone["usage"]["completion_tokens"]

    def shown(spans: Sequence[SpanRecord]) -> bool:
        of_call = {span.trace_id for span in spans if span.attributes.get("aios.syscall.id") == slow.id}
        return {"preempted", "resumed"} <= {span.name for span in spans if span.trace_id in of_call}

    spans = await sink.wait(shown, timeout_s=30)
    resumed = next(span for span in spans if span.name == "resumed")
    assert resumed.attributes["aios.resume.level"] == "hot"
    assert (
        resumed.attributes["aios.resume.tokens"]
        == next(span for span in spans if span.name == "preempted").attributes["aios.preempt.tokens"]
    )
