"""A real bus, the context manager on it, an agent that calls it, and workers that do as a test says."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.context_caller import ContextCaller, ScriptedLlm, StartContexts, context_caller, scripted_llm
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process

from aios_context.service import ContextService
from aios_context.settings import ContextSettings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
def start_contexts(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> StartContexts:
    """Starts a context manager inside the test; keywords are settings."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    def start(**settings: Any) -> AbstractAsyncContextManager[InProcess]:
        chosen = {"nats_url": server.url, "instance": "context", **settings}
        return running_in_process(ContextService(ContextSettings(**chosen)).service)

    return start


@pytest.fixture
async def contexts(start_contexts: StartContexts) -> AsyncIterator[InProcess]:
    async with start_contexts() as running:
        yield running


@pytest.fixture
async def alice(server: NatsServer) -> AsyncIterator[ContextCaller]:
    async with context_caller(server) as caller:
        yield caller


@pytest.fixture
async def llm(server: NatsServer) -> AsyncIterator[ScriptedLlm]:
    async with scripted_llm(server) as running:
        yield running
