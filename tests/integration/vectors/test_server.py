"""The client of a Qdrant server: what it does when the server fails, and what it tells the server."""

import pytest
from support.qdrant_rest import QdrantRest

from aios_kit.vectors.port import Collection, Point, Where
from aios_kit.vectors.qdrant_server import QdrantServer
from aios_proto.errors import ManagerUnavailable

NOTES = Collection("notes", 2, "tenant", ("agent",), ("at_ms",))


async def test_a_request_the_server_fails_is_sent_again(server: QdrantServer, rest: QdrantRest) -> None:
    await server.ensure(NOTES)
    rest.fail_next = [500, 503]
    await server.upsert("notes", [Point("00000000-0000-0000-0000-000000000001", [1, 0], {"tenant": "a"})])
    assert await server.count("notes", Where()) == 1


async def test_a_server_that_goes_on_failing_is_a_typed_error(server: QdrantServer, rest: QdrantRest) -> None:
    await server.ensure(NOTES)
    rest.fail_next = [503] * 3
    with pytest.raises(ManagerUnavailable):
        await server.count("notes", Where())


async def test_a_server_that_is_not_there_is_a_typed_error() -> None:
    store = QdrantServer("http://127.0.0.1:9", None, 2)
    with pytest.raises(ManagerUnavailable):
        await store.ensure(NOTES)
    await store.close()


async def test_payload_fields_are_indexed_and_the_tenant_as_a_tenant(server: QdrantServer, rest: QdrantRest) -> None:
    await server.ensure(NOTES)
    assert rest.indexes["notes"]["tenant"]["is_tenant"] is True
    assert set(rest.indexes["notes"]) == {"tenant", "agent", "at_ms"}


async def test_many_points_go_in_batches(server: QdrantServer, rest: QdrantRest) -> None:
    await server.ensure(NOTES)
    points = [Point(f"00000000-0000-0000-0000-{value:012}", [1, 0], {"tenant": "a"}) for value in range(600)]
    await server.upsert("notes", points)
    assert rest.requests.count("PUT /collections/notes/points") == 3
    assert await server.count("notes", Where()) == 600
