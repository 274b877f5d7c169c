"""One road to the storage manager for each module."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.nats_server import NatsServer, running_nats
from support.storage_road import StorageRoad, storage_road


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[NatsServer]:
    with running_nats(data / "bus") as running:
        yield running


@pytest.fixture(scope="module")
def host(data: Path) -> Path:
    """A host folder with one part that may be written and one that may be read."""
    for name in ("open", "closed", "secret"):
        (data / "host" / name).mkdir(parents=True)
    return data / "host"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def road(server: NatsServer, data: Path, host: Path) -> AsyncIterator[StorageRoad]:
    roots = [
        {"path": str(host / "open"), "writable": True, "tenants": ["default"]},
        {"path": str(host / "closed"), "tenants": ["*"]},
    ]
    async with storage_road(server, data, AIOS_STORAGE_MOUNT_ROOTS=json.dumps(roots)) as running:
        yield running
