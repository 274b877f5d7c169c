"""Where notes' vectors are, and how they follow the notes: made afterwards, found by owner, made again for a new model.

Vectors can always be made again from the store, so none of this is on the way of a write. Each model has a collection
of its own; which one is in use is a record in the store. What is kept beside a vector: tenant, owner and note id in
clear, tags as keyed hashes, times. The vector itself says roughly what the note is about.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aios_kit.vectors.port import Collection, Hit, Point, Range, VectorStore, Where
from aios_memory.core.note import Owner, tag_token
from aios_memory.core.space import Entry, Filter, Space
from aios_memory.ports import Embedded

_PAGE: Final = 1000
_DELETE: Final = 500


@dataclass(frozen=True, slots=True)
class Model:
    """What makes the vectors now."""

    name: str
    dimensions: int

    @property
    def collection(self) -> str:
        """Where its vectors are."""
        digest = hashlib.sha256(f"{self.name}\0{self.dimensions}".encode()).hexdigest()[:12]
        return f"memory-{digest}"


class NoteVectors:
    """The vectors of all notes.

    Args:
        store: the vector store.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self.model: Model | None = None

    async def use(self, model: Model) -> None:
        """Opens the collection of a model, and makes it where there is none; from now on it is in use."""
        await self._store.ensure(
            Collection(model.collection, model.dimensions, "tenant", ("owner", "tags"), ("created_ms",))
        )
        self.model = model

    async def drop(self, model: Model) -> None:
        """Removes all vectors of a model that is not in use any more."""
        await self._store.drop(model.collection)

    async def put(self, owner: Owner, notes: Sequence[tuple[str, Entry]], embedded: Embedded) -> None:
        """Stores the vectors of some notes of one owner."""
        points = [
            Point(
                owner.point(note),
                vector,
                {
                    "tenant": owner.tenant,
                    "owner": owner.key,
                    "note": note,
                    "mark": entry.mark,
                    "tags": [tag_token(owner.tenant, tag) for tag in sorted(entry.tags)],
                    "created_ms": entry.created_ms,
                },
            )
            for (note, entry), vector in zip(notes, embedded.vectors, strict=True)
        ]
        await self._store.upsert(self._collection, points)

    async def remove(self, owner: Owner, notes: Iterable[str]) -> None:
        """Removes the vectors of some notes."""
        if self.model is None:
            return
        points = [owner.point(note) for note in notes]
        for start in range(0, len(points), _DELETE):
            await self._store.delete(self._collection, points[start : start + _DELETE])

    async def search(
        self, owner: Owner, vector: Sequence[float], wanted: Filter, limit: int
    ) -> list[tuple[str, float]]:
        """The nearest notes of an owner with their cosines, best first."""
        where = Where(
            equals={"tenant": owner.tenant, "owner": owner.key},
            all_of={"tags": [tag_token(owner.tenant, tag) for tag in wanted.tags]} if wanted.tags else {},
            within={"created_ms": Range(wanted.after_ms, wanted.before_ms)},
        )
        hits: Sequence[Hit] = await self._store.search(self._collection, vector, where, limit)
        return [(str(hit.payload["note"]), hit.score) for hit in hits]

    async def reconcile(self, space: Space) -> None:
        """Finds out which notes of a space have their vector, and removes vectors whose notes are gone."""
        if self.model is None:
            return
        where = Where(equals={"tenant": space.owner.tenant, "owner": space.owner.key})
        cursor, orphans = None, []
        while True:
            page = await self._store.scroll(self._collection, where, _PAGE, cursor)
            for point in page.points:
                note = str(point.payload.get("note"))
                entry = space.find(note)
                if entry is None:
                    orphans.append(note)
                elif point.payload.get("mark") == entry.mark:
                    space.unembedded.discard(note)
            cursor = page.cursor
            if cursor is None:
                break
        await self.remove(space.owner, orphans)

    async def forget_tenant(self, tenant: str) -> None:
        """Removes all vectors of a tenant, from disk too."""
        if self.model is not None:
            await self._store.delete_where(self._collection, Where(equals={"tenant": tenant}))
            await self._store.flush(self._collection)

    async def close(self) -> None:
        """Brings everything to disk and lets go of it."""
        await self._store.close()

    @property
    def _collection(self) -> str:
        if self.model is None:
            msg = "no model is in use yet"
            raise RuntimeError(msg)
        return self.model.collection
