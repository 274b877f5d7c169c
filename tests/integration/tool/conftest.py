"""A provisioned bus with real access and tool processes; one for each module, and agents on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer, running_nats
from support.otlp_sink import OtlpSink
from support.running_service import access_env, running_process
from support.tool_world import ToolWorld


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("bus")) as running:
        yield running


@pytest.fixture(scope="module")
def tool_env() -> dict[str, str]:
    """Settings of the tool manager; a module may have its own."""
    return {"AIOS_TOOL_PING_S": "0.1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    with OtlpSink() as sink:
        env = access_env(server) | {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
        async with running_process("aios_access", server, "access", env) as access:
            operator = await RawAgent.connect(server.url, server.operator_token, allow_reconnect=True)
            made = Installation(server, access, operator, sink)
            yield made
            await made.close()
            await operator.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(installation: Installation, tool_env: dict[str, str]) -> AsyncIterator[ToolWorld]:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": installation.sink.endpoint, **tool_env}
    async with running_process("aios_tool", installation.server, "tool", env) as manager:
        made = ToolWorld(installation, manager, env)
        yield made
        if manager.returncode is None:
            await manager.stop()


@pytest.fixture
def quiet_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
