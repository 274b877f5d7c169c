"""A bus and a scripted kernel for the tests of the SDK."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.nats_server import NatsServer, running_open_nats
from support.scripted_kernel import ScriptedKernel, scripted_kernel

from aios import Agent

TOKEN = "acme.alice.secret"


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """A real server that lets everyone in; `Agent()` finds it by the environment."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.setenv("AIOS_TOKEN", TOKEN)
    for server in _started(tmp_path):
        monkeypatch.setenv("AIOS_URL", server.url)
        yield server


def _started(folder: Path) -> Iterator[NatsServer]:
    with running_open_nats(folder / "bus") as server:
        yield server


@pytest.fixture
async def kernel(bus: NatsServer) -> AsyncIterator[ScriptedKernel]:
    async with scripted_kernel(bus.url) as scripted:
        yield scripted


@pytest.fixture
async def agent(kernel: ScriptedKernel) -> AsyncIterator[Agent]:
    async with Agent() as opened:
        yield opened
