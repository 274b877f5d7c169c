"""Another engine goes on with a call from KV that was stored while it ran; the engine that computed it is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.engine import EngineProcess, engine_process
from support.nats_server import NatsServer, running_open_nats
from support.otlp_sink import OtlpSink
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler

from aios_llm.adapters.jetstream_kv import JetStreamKv
from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto import subjects
from aios_proto.kernel import CallEnded, CallReturned
from aios_stack.spans.record import SpanRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE_S = 90.0
PROMPT = "Once upon a time, in a small village by the sea, there lived an old fisherman who had a 🦊 and"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 300, "maxLength": 400}},
    "required": ["name"],
    "additionalProperties": False,
}
BODIES: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": PROMPT, "max_tokens": 120},
    "seeded": {"prompt": PROMPT, "max_tokens": 120, "temperature": 0.9, "top_p": 0.9, "seed": 11, "logprobs": True},
    "schema": {
        "prompt": PROMPT,
        "max_tokens": 120,
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    },
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint)
        yield sink


@pytest.fixture
def dying() -> Iterator[EngineProcess]:
    with engine_process() as process:
        process.wait_until_ready()
        yield process


@pytest.fixture(scope="module")
def surviving() -> Iterator[EngineProcess]:
    """An engine of another size."""
    with engine_process({"AIOS_ENGINE_MAX_SEQUENCES": "3", "AIOS_ENGINE_N_CTX": "512"}) as process:
        process.wait_until_ready()
        yield process


@pytest.fixture
async def workers(
    server: NatsServer, dying: EngineProcess, surviving: EngineProcess, sink: OtlpSink
) -> AsyncIterator[tuple[ScriptedScheduler, ScriptedScheduler]]:
    """A worker on each engine, and who commands them."""

    def worker(name: str, engine: EngineProcess) -> AbstractAsyncContextManager[InProcess]:
        settings = WorkerSettings(
            nats_url=server.url,
            instance=name,
            engine_url=engine.url,
            llm_engine_check_s=0.2,
            llm_checkpoint_tokens=8,
        )
        return running_in_process(WorkerService(settings).service)

    nc = await server.connect()
    first, second = (ScriptedScheduler(nc, name, patience_s=PATIENCE_S) for name in ("w1", "w2"))
    await first.open()
    await second.open()
    async with worker("w1", dying), worker("w2", surviving):
        yield first, second
    await nc.close()


class Pieces:
    """The KV of calls, as it is stored."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._ends: dict[str, int] = {}
        self._news = asyncio.Condition()

    async def open(self) -> None:
        await self._nc.subscribe(subjects.ALL_KV_PIECES, cb=self._on_piece)

    async def reach(self, key: str, tokens: int) -> None:
        """Waits until so many tokens are stored, of prompt and answer."""
        subject = subjects.kv_pieces(key)
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: self._ends.get(subject, 0) >= tokens)

    async def _on_piece(self, message: Msg) -> None:
        async with self._news:
            self._ends[message.subject] = int((message.headers or {})["Aios-Kv-End"])
            self._news.notify_all()


@pytest.mark.parametrize("kind", list(BODIES))
async def test_a_dead_engines_call_goes_on_from_its_kv_on_another(
    workers: tuple[ScriptedScheduler, ScriptedScheduler], dying: EngineProcess, sink: OtlpSink, kind: str
) -> None:
    first, second = workers
    body = BODIES[kind]
    whole = (await first.frames(await first.run(body)))[-1]
    pieces = Pieces(first.nc)
    await pieces.open()
    heard = len(first.reports)
    call = await first.run(body)
    await pieces.reach(call.key, whole["usage"]["prompt_tokens"] + 8)
    dying.process.send_signal(signal.SIGKILL)
    returned = await first.heard(CallReturned, since=heard)
    assert returned.reason == "failed"
    await second.run(body, second.headers(call_id=call.id, reply=call.reply, attempt=2))
    done = (await first.frames(call))[-1]
    assert done["type"] == "done", done
    assert done["result"] == whole["result"]
    assert done["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert done["usage"]["cached_tokens"] == whole["usage"]["prompt_tokens"], "no token of the prompt is read again"
    assert (await second.heard(CallEnded)).outcome == "done"

    def resumed(spans: Sequence[SpanRecord]) -> bool:
        return any(span.name == "resumed" for span in spans)

    spans = await sink.wait(resumed, timeout_s=30)
    span = next(span for span in spans if span.name == "resumed")
    assert span.attributes["aios.resume.level"] == "warm"
    store = JetStreamKv(first.nc, first.nc.jetstream(), 10, structlog.get_logger())
    async with asyncio.timeout(PATIENCE_S):
        while await store.read(call.key):  # it is removed in the background when the call has ended
            await asyncio.sleep(0.05)
