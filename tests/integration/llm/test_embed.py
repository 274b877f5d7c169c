"""`llm.embed` on the bus: a worker of the queue group, in front of a real or a scripted embedding server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.embedding import running_embedder
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer
from support.running_service import InProcess, running_in_process

from aios_llm.adapters.tei import TeiEmbedder
from aios_llm.embedding.ports import Embedder, EmbedderInfo
from aios_llm.embedding.service import EmbedWorkerService
from aios_llm.embedding.settings import EmbedWorkerSettings
from aios_proto.errors import EngineFailed, EngineUnavailable


@pytest.fixture(scope="module")
def tei_url() -> Iterator[str]:
    with running_embedder() as url:
        yield url


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[KernelCaller]:
    nc = await server.connect()
    kernel = KernelCaller(nc)
    await kernel.inbox.open()
    yield kernel
    await nc.close()


class ScriptedEmbedder(Embedder):
    """Answers `[length, 1]` for each text, once it is let go; keeps what it got."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Condition()
        self.error: Exception | None = None

    async def info(self) -> EmbedderInfo:
        return EmbedderInfo("scripted", 4, 100)

    async def embed(self, texts: list[str], traceparent: str | None) -> list[list[float]]:
        async with self.asked:
            self.batches.append(texts)
            self.asked.notify_all()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [[float(len(text)), 1.0] for text in texts]

    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def running(server: NatsServer, embedder: Embedder, **settings: Any) -> AsyncIterator[InProcess]:
    chosen = EmbedWorkerSettings(nats_url=server.url, instance="embed", embed_check_s=0.05, **settings)
    async with running_in_process(EmbedWorkerService(chosen, embedder).service) as service:
        yield service


async def test_texts_become_vectors_of_the_real_model(server: NatsServer, caller: KernelCaller, tei_url: str) -> None:
    async with running(server, TeiEmbedder(tei_url, None, 20)):
        frame = await caller.call("llm", "embed", {"texts": ["a cat", "a kitten", "tax law"] + ["many"] * 60})
        result = frame["result"]
        assert (result["dimensions"], result["model"]) == (384, "all-minilm-l6-v2-int8")
        assert len(result["vectors"]) == 63
        cat, kitten, law = result["vectors"][:3]
        near = sum(a * b for a, b in zip(cat, kitten, strict=True))
        assert near > sum(a * b for a, b in zip(cat, law, strict=True))
        long = await caller.call("llm", "embed", {"texts": ["word " * 5000]})
        assert long["type"] == "done"


async def test_calls_of_several_callers_share_a_batch(server: NatsServer, caller: KernelCaller) -> None:
    embedder = ScriptedEmbedder()
    async with running(server, embedder, embed_in_flight=1):
        embedder.go.clear()
        first = asyncio.create_task(caller.call("llm", "embed", {"texts": ["1"]}))
        async with embedder.asked:
            await embedder.asked.wait_for(lambda: len(embedder.batches) == 1)
        others = [asyncio.create_task(caller.call("llm", "embed", {"texts": ["x" * n]})) for n in (2, 3, 4)]
        sixth = await caller.send("llm", "embed", {"texts": ["x" * 5, "x" * 6]})
        # The health check of the service answers after the calls were taken: they wait for the busy server now.
        await caller.call("llm", "embed", {"texts": []})
        embedder.go.set()
        frames = await asyncio.gather(first, *others)
        last = (await caller.inbox.until_end(sixth))[-1]
    assert [frame["result"]["vectors"][0][0] for frame in frames] == [1, 2, 3, 4]
    assert [vector[0] for vector in last["result"]["vectors"]] == [5, 6]
    assert len(embedder.batches) < 6
    assert max(len(batch) for batch in embedder.batches) <= 4  # the server's own limit


async def test_another_model_is_refused_by_name(server: NatsServer, caller: KernelCaller) -> None:
    async with running(server, ScriptedEmbedder()):
        frame = await caller.call("llm", "embed", {"texts": ["a"], "model": "other"})
    assert (frame["error"]["code"], frame["error"]["field"]) == ("engine.model_unknown", "model")


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": [""]}, {"texts": ["a"] * 1025}, {"text": ["a"]}])
async def test_bad_bodies_name_the_field(server: NatsServer, caller: KernelCaller, body: object) -> None:
    async with running(server, ScriptedEmbedder()):
        frame = await caller.call("llm", "embed", body)
    assert frame["error"]["code"] == "request.invalid"
    assert frame["error"]["field"].startswith("text")


async def test_a_failing_server_fails_the_call_and_the_worker_lives_on(
    server: NatsServer, caller: KernelCaller
) -> None:
    embedder = ScriptedEmbedder()
    async with running(server, embedder):
        embedder.error = EngineFailed("broken")
        frame = await caller.call("llm", "embed", {"texts": ["a", "b"]})
        assert frame["error"]["code"] == "engine.failed"
        embedder.error = None
        assert (await caller.call("llm", "embed", {"texts": ["a"]}))["type"] == "done"


async def test_without_its_server_the_worker_says_so_and_recovers(server: NatsServer, caller: KernelCaller) -> None:
    class Absent(ScriptedEmbedder):
        there = False

        async def info(self) -> EmbedderInfo:
            if not self.there:
                raise EngineUnavailable("not yet")
            return await super().info()

    embedder = Absent()
    settings = EmbedWorkerSettings(nats_url=server.url, instance="embed", embed_check_s=0.05)
    async with running_in_process(EmbedWorkerService(settings, embedder).service, wait_ready=False) as service:
        assert await service.wait_readiness(503)
        frame = await caller.call("llm", "embed", {"texts": ["a"]})
        assert (frame["error"]["code"], frame["error"]["retryable"]) == ("engine.unavailable", True)
        embedder.there = True
        await service.wait_ready()
        assert (await caller.call("llm", "embed", {"texts": ["a"]}))["type"] == "done"


async def test_an_unreachable_server_is_a_typed_error() -> None:
    tei = TeiEmbedder("http://127.0.0.1:9", None, 5)
    with pytest.raises(EngineUnavailable):
        await tei.embed(["a"], None)
    await tei.close()
