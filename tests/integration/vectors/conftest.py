"""Every adapter of the vector port: the embedded engine, and the server's client in front of a stand-in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.qdrant_rest import QdrantRest, qdrant_rest

from aios_kit.vectors.port import VectorStore
from aios_kit.vectors.qdrant_edge import QdrantEdge
from aios_kit.vectors.qdrant_server import QdrantServer


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[QdrantRest]:
    async with qdrant_rest(tmp_path / "rest") as stand_in:
        yield stand_in


@pytest.fixture
async def server(rest: QdrantRest) -> AsyncIterator[QdrantServer]:
    store = QdrantServer(rest.url, None, 5)
    yield store
    await store.close()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[QdrantEdge]:
    store = QdrantEdge(tmp_path / "vectors")
    yield store
    await store.close()


@pytest.fixture(params=["edge", "server"])
def store(request: pytest.FixtureRequest) -> VectorStore:
    store: VectorStore = request.getfixturevalue(request.param)
    return store
