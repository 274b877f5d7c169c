"""What holds for every vector store."""

import uuid
from pathlib import Path

import pytest

from aios_kit.vectors.port import Collection, Point, Range, VectorStore, Where
from aios_proto.errors import InvalidRequest, ResourceConflict, ResourceNotFound

NOTES = Collection("notes", 4, "tenant", ("agent", "tags"), ("at_ms",))


def number(value: int) -> str:
    return str(uuid.UUID(int=value))


def note(value: int, vector: list[float], tenant: str = "acme", **payload: object) -> Point:
    return Point(number(value), vector, {"tenant": tenant, "number": value, **payload})  # type: ignore[dict-item]


NORTH, EAST, BETWEEN = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.8, 0.6, 0, 0]


async def filled(store: VectorStore) -> None:
    await store.ensure(NOTES)
    await store.upsert(
        "notes",
        [
            note(1, NORTH, agent="a", tags=["x", "y"], at_ms=100),
            note(2, BETWEEN, agent="a", tags=["y"], at_ms=200),
            note(3, EAST, agent="b", tags=[], at_ms=300),
            note(4, NORTH, tenant="other", agent="a", tags=["x"], at_ms=100),
        ],
    )


async def found(store: VectorStore, where: Where, vector: list[float] = NORTH, limit: int = 10) -> list[int]:
    hits = await store.search("notes", vector, where, limit)
    return [int(uuid.UUID(hit.id)) for hit in hits]


async def test_the_nearest_come_first_with_their_cosine_and_payload(store: VectorStore) -> None:
    await filled(store)
    hits = await store.search("notes", [2.0, 0, 0, 0], Where(equals={"tenant": "acme"}), 2)
    assert [hit.id for hit in hits] == [number(1), number(2)]
    assert [hit.score for hit in hits] == [pytest.approx(1), pytest.approx(0.8)]
    assert hits[0].payload["tags"] == ["x", "y"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(), {1, 2, 3, 4}),
        (Where(equals={"tenant": "acme"}), {1, 2, 3}),
        (Where(equals={"tenant": "nobody"}), set()),
        (Where(equals={"tenant": "acme", "agent": "a"}), {1, 2}),
        (Where(equals={"tags": "y"}), {1, 2}),
        (Where(one_of={"agent": ["a", "b"]}, equals={"tenant": "acme"}), {1, 2, 3}),
        (Where(one_of={"agent": []}), set()),
        (Where(all_of={"tags": ["x", "y"]}), {1}),
        (Where(all_of={"tags": []}), {1, 2, 3, 4}),
        (Where(none_of={"agent": ["a"]}), {3}),
        (Where(none_of={"tags": ["x"]}, equals={"tenant": "acme"}), {2, 3}),
        (Where(within={"at_ms": Range(200, None)}), {2, 3}),
        (Where(within={"at_ms": Range(None, 200)}), {1, 4}),
        (Where(within={"at_ms": Range(100, 300)}, equals={"tenant": "acme"}), {1, 2}),
    ],
)
async def test_filters(store: VectorStore, where: Where, expected: set[int]) -> None:
    await filled(store)
    assert set(await found(store, where)) == expected
    assert await store.count("notes", where) == len(expected)
    page = await store.scroll("notes", where, 10)
    assert {int(uuid.UUID(point.id)) for point in page.points} == expected


async def test_the_same_id_again_replaces_the_point(store: VectorStore) -> None:
    await filled(store)
    await store.upsert("notes", [note(1, EAST, agent="z")])
    assert await store.count("notes", Where()) == 4
    assert await found(store, Where(equals={"agent": "z"}), EAST) == [1]


async def test_deleted_points_are_not_found(store: VectorStore) -> None:
    await filled(store)
    await store.delete("notes", [number(1), number(99)])
    await store.delete("notes", [])
    assert set(await found(store, Where())) == {2, 3, 4}
    await store.delete_where("notes", Where(equals={"tenant": "acme"}))
    assert await found(store, Where()) == [4]
    await store.delete_where("notes", Where(one_of={"agent": []}))
    assert await found(store, Where()) == [4]


async def test_weak_matches_can_be_left_out(store: VectorStore) -> None:
    await filled(store)
    hits = await store.search("notes", NORTH, Where(equals={"tenant": "acme"}), 10, min_score=0.5)
    assert [hit.id for hit in hits] == [number(1), number(2)]


async def test_scrolling_gives_each_point_once(store: VectorStore) -> None:
    await store.ensure(NOTES)
    await store.upsert("notes", [note(value, NORTH) for value in range(25)])
    seen, cursor = [], None
    while True:
        page = await store.scroll("notes", Where(), 10, cursor, with_vectors=True)
        seen += [point.id for point in page.points]
        assert all(list(point.vector) == NORTH for point in page.points)
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(number(value) for value in range(25))


async def test_ensuring_again_keeps_what_is_there(store: VectorStore) -> None:
    await filled(store)
    await store.ensure(NOTES)
    assert await store.count("notes", Where()) == 4
    with pytest.raises(ResourceConflict):
        await store.ensure(Collection("notes", 5))


async def test_wrong_vectors_and_unknown_collections_are_typed_errors(store: VectorStore) -> None:
    await filled(store)
    with pytest.raises(InvalidRequest):
        await store.upsert("notes", [note(9, [1.0])])
    with pytest.raises(InvalidRequest):
        await store.search("notes", [1.0], Where(), 1)
    with pytest.raises(ResourceNotFound):
        await store.search("none", NORTH, Where(), 1)
    with pytest.raises(ResourceNotFound):
        await store.count("none", Where())
    with pytest.raises(ResourceNotFound):
        await store.flush("none")


async def test_a_dropped_collection_is_gone_and_can_be_made_anew(store: VectorStore) -> None:
    await filled(store)
    await store.drop("notes")
    await store.drop("notes")
    with pytest.raises(ResourceNotFound):
        await store.count("notes", Where())
    await store.ensure(Collection("notes", 2))
    assert await store.count("notes", Where()) == 0


async def test_a_snapshot_is_one_file(store: VectorStore, tmp_path: Path) -> None:
    await filled(store)
    await store.flush("notes")
    file = tmp_path / "notes.snapshot"
    await store.snapshot("notes", file)
    assert file.stat().st_size > 0
