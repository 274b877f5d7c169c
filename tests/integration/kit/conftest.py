"""An open bus for the chassis, shared where no test disturbs it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer, running_open_nats

from aios_kit.settings import ServiceSettings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "AIOS_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that every test finds empty of subscriptions, but not of streams."""
    with running_open_nats(tmp_path_factory.mktemp("bus")) as server:
        yield server


@pytest.fixture
def own_bus(tmp_path: Path) -> Iterator[NatsServer]:
    """A server the test may kill."""
    with running_open_nats(tmp_path / "bus") as server:
        yield server


@pytest.fixture
async def caller(shared_bus: NatsServer) -> AsyncIterator[KernelCaller]:
    """Calls services on the shared bus."""
    nc = await shared_bus.connect()
    kernel = KernelCaller(nc)
    await kernel.inbox.open()
    yield kernel
    await nc.close()


MakeSettings = Callable[..., ServiceSettings]


@pytest.fixture
def settings_for() -> MakeSettings:
    """Settings of a service on a given server."""

    def make(server: NatsServer, **values: object) -> ServiceSettings:
        return ServiceSettings.model_validate({"nats_url": server.url, "instance": "test-1", **values})

    return make
