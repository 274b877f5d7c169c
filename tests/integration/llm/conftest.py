"""A real bus, an engine that does as it is told, a worker between them, and a scheduler played by the test."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import TgiStandIn, tgi_stand_in

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings

StartWorker = Callable[..., AbstractAsyncContextManager[InProcess]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
async def tgi() -> AsyncIterator[TgiStandIn]:
    async with tgi_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
async def scheduler(server: NatsServer) -> AsyncIterator[ScriptedScheduler]:
    nc = await server.connect()
    scripted = ScriptedScheduler(nc)
    await scripted.open()
    yield scripted
    await nc.close()


@pytest.fixture
def start_worker(server: NatsServer, tgi: TgiStandIn, monkeypatch: pytest.MonkeyPatch) -> StartWorker:
    """Starts a worker inside the test; keywords are settings."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    def start(*, wait_ready: bool = True, **settings: Any) -> AbstractAsyncContextManager[InProcess]:
        chosen = {
            "nats_url": server.url,
            "instance": "w1",
            "engine_url": tgi.url,
            "llm_engine_check_s": 0.1,
            **settings,
        }
        return running_in_process(WorkerService(WorkerSettings(**chosen)).service, wait_ready=wait_ready)

    return start


@pytest.fixture
async def worker(start_worker: StartWorker) -> AsyncIterator[InProcess]:
    async with start_worker() as running:
        yield running
