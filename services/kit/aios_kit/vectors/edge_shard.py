"""One collection of the embedded engine on disk: which generation of its files is in use, and how it is replaced.

Building an index holds Python's interpreter lock for as long as it takes (9 s for 20 000 vectors, measured), so it
is done by another process on a copy of the files; what is written meanwhile is written again into the copy, which then
takes the place of the old files. Everything here blocks and belongs to one thread.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import qdrant_edge as qdrant

from aios_kit.vectors.port import Collection
from aios_proto.errors import ResourceConflict

VECTOR: Final = "text"
_CURRENT: Final = "current"
_PREFIX: Final = "generation-"
_HNSW_M: Final = 16
_HNSW_EF_CONSTRUCT: Final = 100
_FULL_SCAN_BELOW_KB: Final = 10_000

Change = Callable[[qdrant.EdgeShard], None]


class ShardFiles:
    """An open collection.

    Args:
        folder: of this collection; made if it is not there.
        collection: what it holds.

    Raises:
        ResourceConflict: what lies there has another number of dimensions.
    """

    def __init__(self, folder: Path, collection: Collection) -> None:
        self.collection = collection
        self._folder = folder
        self._changes: list[Change] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._generation = self._current()
        if self._generation is None:
            self._forget_others(None)
            self.shard = self._create(0)
        else:
            self._forget_others(self._generation)
            self.shard = qdrant.EdgeShard.load(str(self._path(self._generation)))
            try:
                self._check_dimensions()
            except ResourceConflict:
                self.shard.close()
                raise

    @property
    def unindexed(self) -> int:
        """How many vectors are compared one by one in a search."""
        info = self.shard.info()
        return max(0, info.points_count - info.indexed_vectors_count)

    @property
    def points(self) -> int:
        """How many vectors there are."""
        return self.shard.info().points_count

    def change(self, change: Change) -> None:
        """Applies a change, to the copy that is being indexed as well."""
        change(self.shard)
        if self._changes is not None:
            self._changes.append(change)

    def flush(self) -> None:
        """Brings everything written so far to disk."""
        self.shard.flush()

    def begin_copy(self) -> Path:
        """Copies the files for indexing; from now on changes are remembered."""
        self.shard.flush()
        target = self._path((self._generation or 0) + 1)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._path(self._generation or 0), target)
        self._changes = []
        return target

    def abandon_copy(self) -> None:
        """Goes on with the old files."""
        self._changes = None
        shutil.rmtree(self._path((self._generation or 0) + 1), ignore_errors=True)

    def take_copy(self) -> None:
        """Brings the indexed copy up to date and uses it from now on."""
        changes, self._changes = self._changes or [], None
        old, new = self._generation or 0, (self._generation or 0) + 1
        fresh = qdrant.EdgeShard.load(str(self._path(new)))
        for change in changes:
            change(fresh)
        fresh.flush()
        self._point_to(new)
        self.shard.close()
        self.shard, self._generation = fresh, new
        shutil.rmtree(self._path(old), ignore_errors=True)

    def copy_to(self, target: Path) -> None:
        """Copies the files as they are now into a folder."""
        self.shard.flush()
        shutil.copytree(self._path(self._generation or 0), target)

    def close(self) -> None:
        """Flushes and closes."""
        self.shard.flush()
        self.shard.close()

    def _create(self, generation: int) -> qdrant.EdgeShard:
        collection = self.collection
        shard = qdrant.EdgeShard.create(
            str(self._path(generation)),
            qdrant.EdgeConfig(
                vectors={VECTOR: qdrant.EdgeVectorParams(size=collection.dimensions, distance=qdrant.Distance.Cosine)},
                hnsw_config=qdrant.HnswIndexConfig(
                    m=_HNSW_M,
                    ef_construct=_HNSW_EF_CONSTRUCT,
                    full_scan_threshold=_FULL_SCAN_BELOW_KB,
                    max_indexing_threads=1,
                ),
            ),
        )
        tenant = qdrant.KeywordIndexParams(is_tenant=True)
        shard.update(qdrant.UpdateOperation.create_field_index(collection.tenant_field, tenant))
        for field in collection.keyword_fields:
            shard.update(qdrant.UpdateOperation.create_field_index(field, qdrant.PayloadSchemaType.Keyword))
        for field in collection.integer_fields:
            shard.update(qdrant.UpdateOperation.create_field_index(field, qdrant.PayloadSchemaType.Integer))
        shard.flush()
        self._generation = generation
        self._point_to(generation)
        return shard

    def _check_dimensions(self) -> None:
        # The engine tells its configuration to nobody; a search with the right number of dimensions works.
        nearest = qdrant.Query.Nearest([0.0] * self.collection.dimensions, using=VECTOR)
        try:
            self.shard.query(qdrant.QueryRequest(limit=1, query=nearest))
        except Exception as error:  # the engine has one class of errors, which it does not export
            raise ResourceConflict(
                f"the collection {self.collection.name} has another number of dimensions", field="dimensions"
            ) from error

    def _current(self) -> int | None:
        try:
            return int((self._folder / _CURRENT).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _point_to(self, generation: int) -> None:
        scratch = self._folder / f"{_CURRENT}.new"
        with scratch.open("w") as file:
            file.write(str(generation))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._folder / _CURRENT)

    def _forget_others(self, kept: int | None) -> None:
        """Removes what a crash has left behind."""
        for path in self._folder.glob(f"{_PREFIX}*"):
            if kept is None or path != self._path(kept):
                with contextlib.suppress(OSError):
                    shutil.rmtree(path)

    def _path(self, generation: int) -> Path:
        return self._folder / f"{_PREFIX}{generation}"


def index_files(path: Path) -> None:
    """Builds the index of files nobody has open; takes about a minute for 100 000 vectors."""
    shard = qdrant.EdgeShard.load(str(path))
    try:
        shard.optimize()
        shard.flush()
    finally:
        shard.close()


def points_of(records: Sequence[qdrant.Record]) -> list[tuple[str, object, dict[str, object]]]:
    """Id, vector and payload of what the engine gives back."""
    return [(str(record.id), record.vector, record.payload or {}) for record in records]
