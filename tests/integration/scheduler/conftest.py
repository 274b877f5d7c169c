"""A real bus, the scheduler, workers played by the test, and calls sent where access would send them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.model_caller import ModelCaller, StartScheduler
from support.nats_server import NatsServer, running_open_nats
from support.running_service import InProcess, running_in_process
from support.scripted_worker import ScriptedWorker, StartWorker

from aios_scheduler.service import SchedulerService
from aios_scheduler.settings import SchedulerSettings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_open_nats(tmp_path) as server:
        yield server


@pytest.fixture
async def nc(server: NatsServer) -> AsyncIterator[Client]:
    client = await server.connect()
    yield client
    await client.close()


@pytest.fixture
async def caller(nc: Client) -> ModelCaller:
    caller = ModelCaller(nc)
    await caller.inbox.open()
    return caller


@pytest.fixture
def start_scheduler(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> StartScheduler:
    """Starts a scheduler inside the test; keywords are settings."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    def start(*, wait_ready: bool = False, **settings: Any) -> AbstractAsyncContextManager[InProcess]:
        chosen = {"nats_url": server.url, "instance": "s1", "scheduler_listen_s": 0.0, **settings}
        service = SchedulerService(SchedulerSettings(**chosen)).service
        return running_in_process(service, wait_ready=wait_ready)

    return start


@pytest.fixture
async def start_worker(nc: Client) -> AsyncIterator[StartWorker]:
    """Starts scripted workers, and stops them at the end."""
    started: list[ScriptedWorker] = []

    async def start(name: str = "w1", **options: Any) -> ScriptedWorker:
        worker = ScriptedWorker(nc, name, **options)
        started.append(worker)
        await worker.start()
        return worker

    yield start
    for worker in started:
        await worker.stop()


@pytest.fixture
async def worker(start_worker: StartWorker) -> ScriptedWorker:
    return await start_worker()


@pytest.fixture
async def scheduler(start_scheduler: StartScheduler, worker: ScriptedWorker) -> AsyncIterator[InProcess]:
    """A scheduler that knows the worker."""
    async with start_scheduler(wait_ready=True) as running:
        yield running
