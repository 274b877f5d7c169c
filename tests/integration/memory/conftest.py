"""A real bus, the memory manager with embedded vectors, and an embedding worker whose model is a function."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.word_embedder import WordEmbedder

from aios_kit.vectors.settings import VectorSettings
from aios_llm.embedding.service import EmbedWorkerService
from aios_llm.embedding.settings import EmbedWorkerSettings
from aios_memory.service import MemoryService
from aios_memory.settings import MemorySettings

StartMemory = Callable[..., AbstractAsyncContextManager[InProcess]]
MakeCaller = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path / "bus") as server:
        yield server


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
async def embedding(server: NatsServer, embedder: WordEmbedder) -> AsyncIterator[InProcess]:
    settings = EmbedWorkerSettings(nats_url=server.url, instance="embed", embed_check_s=0.05, embed_window_s=0.0)
    async with running_in_process(EmbedWorkerService(settings, embedder).service) as running:
        yield running


@pytest.fixture
def start_memory(server: NatsServer, tmp_path: Path) -> StartMemory:
    """Starts the manager inside the test; keywords are settings."""

    def start(**settings: Any) -> AbstractAsyncContextManager[InProcess]:
        chosen = MemorySettings(
            nats_url=server.url,
            instance="memory",
            key_ring_dir=tmp_path / "keys",
            **{"memory_embed_retry_s": 0.05, **settings},
        )
        vectors = VectorSettings(folder=tmp_path / "vectors")
        return running_in_process(MemoryService(chosen, vectors).service)

    return start


@pytest.fixture
async def memory(start_memory: StartMemory, embedding: InProcess) -> AsyncIterator[InProcess]:
    async with start_memory() as running:
        yield running


@pytest.fixture
async def callers(server: NatsServer) -> AsyncIterator[Callable[..., Any]]:
    """Makes callers of any identity."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(agent: str = "alice", tenant: str = "acme") -> KernelCaller:
            nc = await server.connect()
            stack.push_async_callback(nc.close)
            caller = KernelCaller(nc, tenant, agent)
            await caller.inbox.open()
            return caller

        yield make


@pytest.fixture
async def alice(callers: Callable[..., Any]) -> KernelCaller:
    caller: KernelCaller = await callers("alice")
    return caller


@pytest.fixture
async def bob(callers: Callable[..., Any]) -> KernelCaller:
    caller: KernelCaller = await callers("bob")
    return caller
