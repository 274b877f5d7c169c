"""The embedded engine: its files outlive a crash, belong to one process, and are indexed out of the way."""

import asyncio
import random
import sys
import tarfile
import uuid
from pathlib import Path

import pytest

from aios_kit.vectors.port import Collection, Point, VectorStore, Where
from aios_kit.vectors.qdrant_edge import QdrantEdge
from aios_proto.errors import ResourceConflict

WORDS = Collection("words", 8, "tenant", ("agent",))

WRITER = """
import asyncio, sys, uuid
from pathlib import Path
from aios_kit.vectors.port import Collection, Point
from aios_kit.vectors.qdrant_edge import QdrantEdge

async def main() -> None:
    store = QdrantEdge(Path(sys.argv[1]))
    await store.ensure(Collection("words", 8, "tenant", ("agent",)))
    for number in range(1_000_000):
        await store.upsert("words", [Point(str(uuid.UUID(int=number)), [1.0] * 8, {"tenant": "acme"})])
        print(number, flush=True)

asyncio.run(main())
"""


def points(first: int, last: int) -> list[Point]:
    chosen = random.Random(first)
    return [
        Point(str(uuid.UUID(int=value)), [chosen.gauss(0, 1) for _ in range(8)], {"tenant": "acme", "agent": "a"})
        for value in range(first, last)
    ]


async def reopened(folder: Path) -> QdrantEdge:
    store = QdrantEdge(folder)
    await store.ensure(WORDS)
    return store


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await reopened(tmp_path)
    await store.upsert("words", points(0, 100))
    await store.close()
    store = await reopened(tmp_path)
    assert await store.count("words", Where(equals={"agent": "a"})) == 100
    await store.close()


async def test_what_was_acknowledged_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    last = -1
    async for line in writer.stdout:
        last = int(line)
        if last == 50:
            writer.kill()
    await writer.wait()
    assert last >= 50
    store = await reopened(tmp_path)
    assert await store.count("words", Where()) >= last + 1
    await store.close()


async def test_two_processes_cannot_open_the_same_folder(tmp_path: Path) -> None:
    first, second = await reopened(tmp_path), QdrantEdge(tmp_path)
    with pytest.raises(ResourceConflict):
        await second.ensure(WORDS)
    await second.close()
    await first.close()


async def test_an_index_is_built_in_the_background_and_nothing_written_meanwhile_is_lost(tmp_path: Path) -> None:
    store = QdrantEdge(tmp_path, index_after=1000)
    await store.ensure(WORDS)
    await store.upsert("words", points(0, 3000))
    # Meanwhile: more is written, something is deleted, something replaced.
    await store.upsert("words", points(3000, 3010))
    await store.delete("words", [str(uuid.UUID(int=0))])
    await store.upsert("words", [Point(str(uuid.UUID(int=1)), [9.0] * 8, {"tenant": "acme", "agent": "new"})])
    assert await store.count("words", Where()) == 3009
    await store.indexed("words")
    assert await store.count("words", Where()) == 3009
    assert await store.count("words", Where(equals={"agent": "new"})) == 1
    nearest = await store.search("words", [1.0] * 8, Where(), 1)
    assert nearest[0].id == str(uuid.UUID(int=1))
    generations = [path.name for path in (tmp_path / "words").iterdir() if path.is_dir()]
    assert generations == ["generation-1"]
    await store.close()
    again = await reopened(tmp_path)
    assert await again.count("words", Where()) == 3009
    await again.close()


async def test_what_came_while_an_index_was_built_gets_into_the_next_without_a_further_write(tmp_path: Path) -> None:
    store = QdrantEdge(tmp_path, index_after=1000)
    await store.ensure(WORDS)
    await store.upsert("words", points(0, 3000))
    await store.upsert("words", points(3000, 6000))
    await store.indexed("words")
    assert await store.count("words", Where()) == 6000
    (generation,) = [path.name for path in (tmp_path / "words").iterdir() if path.is_dir()]
    assert int(generation.removeprefix("generation-")) >= 2
    await store.close()


async def test_closing_ends_an_index_in_the_making(tmp_path: Path) -> None:
    store = QdrantEdge(tmp_path, index_after=1000)
    await store.ensure(WORDS)
    await store.upsert("words", points(0, 3000))
    await store.close()
    again = QdrantEdge(tmp_path, index_after=1_000_000)
    await again.ensure(WORDS)
    assert await again.count("words", Where()) == 3000
    assert len([path for path in (tmp_path / "words").iterdir() if path.is_dir()]) == 1
    await again.close()


async def test_a_snapshot_unpacked_is_a_collection_again(tmp_path: Path) -> None:
    store: VectorStore = await reopened(tmp_path / "one")
    await store.upsert("words", points(0, 50))
    await store.snapshot("words", tmp_path / "words.tar")
    await store.close()
    target = tmp_path / "two" / "words"
    target.mkdir(parents=True)
    with tarfile.open(tmp_path / "words.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tmp_path / "unpacked" / "words").rename(target / "generation-0")
    (target / "current").write_text("0")
    other = await reopened(tmp_path / "two")
    assert await other.count("words", Where()) == 50
    await other.close()
