"""A provisioned bus with a real access process; one for each module."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer, running_nats
from support.otlp_sink import OtlpSink
from support.running_service import access_env, running_process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("bus")) as running:
        yield running


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
