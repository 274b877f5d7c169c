"""The embedded vector store: Qdrant's engine in this process, its files in one folder that no other process may open.

All calls of the engine are made in one thread. Writes are in the engine's log at once, which survives the death of the
process, and on disk within `flush_s`, which survives the death of the machine.
"""

import asyncio
import fcntl
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, TypeVar

import qdrant_edge as qdrant
import structlog

from aios_kit.vectors.edge_query import edge_filter
from aios_kit.vectors.edge_shard import VECTOR, ShardFiles, points_of
from aios_kit.vectors.port import Collection, Hit, Page, Payload, Point, Where
from aios_proto.errors import InternalError, InvalidRequest, ResourceConflict, ResourceNotFound

_POINTS_A_CHANGE: Final = 500
_SEARCH_WIDTH: Final = 128
"""Candidates an index search keeps (`ef`): recall of 0.95 and more at ten results."""
_INDEX_SHARE: Final = 0.1
_LOCK: Final = "lock"

T = TypeVar("T")

_log = structlog.stdlib.get_logger("vectors")


class QdrantEdge:
    """The `VectorStore` port on the embedded engine.

    Args:
        folder: where the files are; made at the first use.
        flush_s: seconds after which what was written is on disk.
        index_after: vectors without an index, beside a tenth of all, after which an index is built.
    """

    def __init__(self, folder: Path, *, flush_s: float = 1.0, index_after: int = 20_000) -> None:
        self._folder = folder
        self._flush_s = flush_s
        self._index_after = index_after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vectors")
        self._open: dict[str, ShardFiles] = {}
        self._lock: IO[str] | None = None
        self._dirty: dict[str, asyncio.TimerHandle] = {}
        self._indexing: dict[str, asyncio.Task[None]] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ensure(self, collection: Collection) -> None:
        """See `VectorStore.ensure`.

        Raises:
            ResourceConflict: also where another process has the folder open.
        """

        def open_files() -> None:
            known = self._open.get(collection.name)
            if known is None:
                self._hold_folder()
                self._open[collection.name] = ShardFiles(self._folder / collection.name, collection)
            elif known.collection.dimensions != collection.dimensions:
                raise ResourceConflict(
                    f"the collection {collection.name} has {known.collection.dimensions} dimensions", field="dimensions"
                )

        await self._run(open_files)
        await self._index_if_due(collection.name)

    async def drop(self, collection: str) -> None:
        """See `VectorStore.drop`."""
        await self._end_indexing(collection)
        if (timer := self._dirty.pop(collection, None)) is not None:
            timer.cancel()

        def remove() -> None:
            if (files := self._open.pop(collection, None)) is not None:
                files.close()
            self._hold_folder()
            shutil.rmtree(self._folder / collection, ignore_errors=True)

        await self._run(remove)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """See `VectorStore.upsert`. Payloads must not be changed afterwards."""
        dimensions = self._files(collection).collection.dimensions
        for point in points:
            if len(point.vector) != dimensions:
                raise InvalidRequest(f"a vector has {len(point.vector)} dimensions, not {dimensions}", field="vector")
        for start in range(0, len(points), _POINTS_A_CHANGE):
            await self._change(collection, _upserting(points[start : start + _POINTS_A_CHANGE]))
        await self._index_if_due(collection)

    async def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""
        if ids:
            gone: list[qdrant.PointId] = list(ids)
            await self._change(collection, lambda shard: shard.update(qdrant.UpdateOperation.delete_points(gone)))

    async def delete_where(self, collection: str, where: Where) -> None:
        """See `VectorStore.delete_where`."""
        if where.matches_nothing:
            return
        matching = edge_filter(where) or qdrant.Filter(must=[])
        await self._change(
            collection, lambda shard: shard.update(qdrant.UpdateOperation.delete_points_by_filter(matching))
        )

    async def search(
        self, collection: str, vector: Sequence[float], where: Where, limit: int, *, min_score: float | None = None
    ) -> Sequence[Hit]:
        """See `VectorStore.search`."""
        files = self._files(collection)
        if len(vector) != files.collection.dimensions:
            raise InvalidRequest(
                f"the vector has {len(vector)} dimensions, not {files.collection.dimensions}", field="vector"
            )
        if where.matches_nothing:
            return []
        request = qdrant.QueryRequest(
            limit=limit,
            query=qdrant.Query.Nearest(list(vector), using=VECTOR),
            filter=edge_filter(where),
            with_payload=True,
            score_threshold=min_score,
            params=qdrant.SearchParams(hnsw_ef=max(_SEARCH_WIDTH, 2 * limit)),
        )
        found = await self._run(lambda: self._files(collection).shard.query(request))
        return [Hit(str(point.id), point.score, point.payload or {}) for point in found]

    async def scroll(
        self, collection: str, where: Where, limit: int, cursor: str | None = None, *, with_vectors: bool = False
    ) -> Page:
        """See `VectorStore.scroll`."""
        if where.matches_nothing:
            return Page((), None)
        request = qdrant.ScrollRequest(
            offset=cursor, limit=limit, filter=edge_filter(where), with_payload=True, with_vector=with_vectors
        )
        records, following = await self._run(lambda: self._files(collection).shard.scroll(request))
        return Page(
            tuple(Point(id_, _vector(vector), _payload(payload)) for id_, vector, payload in points_of(records)),
            None if following is None else str(following),
        )

    async def count(self, collection: str, where: Where) -> int:
        """See `VectorStore.count`."""
        if where.matches_nothing:
            return 0
        request = qdrant.CountRequest(exact=True, filter=edge_filter(where))
        return await self._run(lambda: self._files(collection).shard.count(request))

    async def flush(self, collection: str) -> None:
        """See `VectorStore.flush`."""
        if (timer := self._dirty.pop(collection, None)) is not None:
            timer.cancel()
        await self._run(self._files(collection).flush)

    async def snapshot(self, collection: str, file: Path) -> None:
        """See `VectorStore.snapshot`: a tar archive of the files; unpacked, they are a collection again."""
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            copy = Path(scratch) / collection
            await self._run(lambda: self._files(collection).copy_to(copy))
            await asyncio.to_thread(_pack, copy, file)

    async def close(self) -> None:
        """See `VectorStore.close`."""
        if self._closed:
            return
        for name in list(self._indexing):
            await self._end_indexing(name)
        for timer in self._dirty.values():
            timer.cancel()
        self._dirty.clear()
        if self._flushing:
            await asyncio.wait(self._flushing)

        def shut() -> None:
            for files in self._open.values():
                files.close()
            self._open.clear()
            if self._lock is not None:
                self._lock.close()

        await self._run(shut)
        self._closed = True
        self._thread.shutdown()

    async def indexed(self, collection: str) -> None:
        """Returns when no index of the collection is being built."""
        if (task := self._indexing.get(collection)) is not None:
            await asyncio.shield(task)

    async def _change(self, collection: str, change: Callable[[qdrant.EdgeShard], None]) -> None:
        await self._run(lambda: self._files(collection).change(change))
        if collection not in self._dirty:
            loop = asyncio.get_running_loop()
            self._dirty[collection] = loop.call_later(self._flush_s, self._flush_later, collection)

    def _flush_later(self, collection: str) -> None:
        self._dirty.pop(collection, None)
        task = asyncio.ensure_future(self._flush_quietly(collection))
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush_quietly(self, collection: str) -> None:
        try:
            await self.flush(collection)
        except ResourceNotFound:
            pass  # it was dropped meanwhile
        except InternalError as error:
            _log.error("vectors could not be brought to disk", collection=collection, error=error.message)

    async def _index_if_due(self, collection: str) -> None:
        if collection in self._indexing:
            return
        if await self._index_due(collection) and collection not in self._indexing:
            self._indexing[collection] = asyncio.create_task(self._index(collection), name=f"index {collection}")

    async def _index_due(self, collection: str) -> bool:
        def due() -> bool:
            files = self._files(collection)
            return files.unindexed > max(self._index_after, _INDEX_SHARE * files.points)

        return await self._run(due)

    async def _index(self, collection: str) -> None:
        """Builds an index, and once more where as much was written meanwhile; a failure leaves all as it was."""
        files = self._files(collection)
        try:
            while await self._index_copy(files) and await self._index_due(collection):
                pass
        except (InternalError, OSError) as error:
            _log.error("an index could not be built; searches go on without", collection=collection, error=str(error))
        finally:
            self._indexing.pop(collection, None)

    async def _index_copy(self, files: ShardFiles) -> bool:
        """Builds an index on a copy in another process, and takes the copy; whether many came meanwhile."""
        before = await self._run(lambda: files.points)
        copy = await self._run(files.begin_copy)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "aios_kit.vectors.indexing", str(copy)
            )
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            if status:
                raise InternalError(f"the indexing process ended with {status}")
            await self._run(files.take_copy)
        except BaseException:
            await self._run(files.abandon_copy)
            raise
        return await self._run(lambda: files.points) - before > self._index_after

    async def _end_indexing(self, collection: str) -> None:
        if (task := self._indexing.get(collection)) is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _hold_folder(self) -> None:
        if self._lock is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / _LOCK).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ResourceConflict(f"another process has the vectors in {self._folder} open") from error
        self._lock = lock

    def _files(self, collection: str) -> ShardFiles:
        try:
            return self._open[collection]
        except KeyError:
            raise ResourceNotFound(f"there is no collection {collection}", field="collection") from None

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except (ResourceConflict, ResourceNotFound, OSError):
                raise
            except Exception as error:  # the engine has one class of errors, which it does not export
                raise InternalError(f"the vector engine failed: {error}") from error

        if self._closed:
            raise ResourceNotFound("the vector store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)


def _upserting(points: Sequence[Point]) -> Callable[[qdrant.EdgeShard], None]:
    def change(shard: qdrant.EdgeShard) -> None:
        made = [qdrant.Point(point.id, {VECTOR: list(point.vector)}, dict(point.payload)) for point in points]
        shard.update(qdrant.UpdateOperation.upsert_points(made))

    return change


def _vector(value: object) -> Sequence[float]:
    if isinstance(value, dict):
        value = value.get(VECTOR)
    return value if isinstance(value, list) else ()


def _payload(value: dict[str, object]) -> Payload:
    return value  # type: ignore[return-value]  # it was JSON when it went in


def _pack(folder: Path, file: Path) -> None:
    scratch = file.with_name(f"{file.name}.part")
    with tarfile.open(scratch, "w") as archive:
        archive.add(folder, arcname=folder.name)
    scratch.replace(file)
