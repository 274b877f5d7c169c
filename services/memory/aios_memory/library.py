"""What each operation does with the notes: access first, then the store, then what this process keeps of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from aios_kit.logs import Log
from aios_memory.core.fusion import fused
from aios_memory.core.note import Note, Owner, note_id
from aios_memory.core.space import Filter, Space
from aios_memory.embedding_queue import EmbeddingQueue
from aios_memory.ports import RecordStore
from aios_memory.spaces import Spaces
from aios_memory.vectors import NoteVectors
from aios_proto.errors import AiosError, BusUnavailable, ResourceConflict, ResourceNotFound
from aios_proto.headers import CallHeaders
from aios_proto.messages.memory import SearchMode

_ATTEMPTS: Final = 5
_DEPTH: Final = 50
_FETCHES: Final = 32
Mode = Literal["semantic", "keyword"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first, and what it used."""

    notes: Sequence[tuple[Note, float]]
    modes: Sequence[Mode]


class Library:
    """All notes.

    Args:
        store: the source of truth.
        spaces: what is in memory.
        vectors: finds by meaning.
        queue: makes vectors of what was written.
        search_wait_s: longest wait of a semantic search for notes just written.
        now_ms: Unix milliseconds.
        log: told when a search has to do without embeddings.
    """

    def __init__(
        self,
        store: RecordStore,
        spaces: Spaces,
        vectors: NoteVectors,
        queue: EmbeddingQueue,
        *,
        search_wait_s: float,
        now_ms: Callable[[], int],
        log: Log,
    ) -> None:
        self._store = store
        self._spaces = spaces
        self._vectors = vectors
        self._queue = queue
        self._search_wait_s = search_wait_s
        self._now_ms = now_ms
        self._log = log
        self._fetches = asyncio.Semaphore(_FETCHES)

    # Writing

    async def add(
        self, owner: Owner, headers: CallHeaders, draft: Callable[[str, int], Note], ttl_s: float | None
    ) -> Note:
        """Stores a new note; the same call again finds it stored.

        Args:
            owner: who gets it.
            headers: of the call.
            draft: makes the note from its id and the time.
            ttl_s: seconds after which it is gone.

        Raises:
            QuotaExhausted: the owner has as much as it may.
            BusUnavailable: the store cannot be reached; the note may be stored or not.
        """
        name = note_id(headers.tenant, headers.agent, headers.id)
        space = await self._open(owner)
        if name in space:
            return await self._content(space, name)
        note = draft(name, self._now_ms())
        content = note.encoded()
        size = len(content)
        space.reserve(1, size)
        try:
            revision = await self._writing(
                owner, self._store.create(owner.tenant, owner.note_key(name), content, ttl_s)
            )
            if revision is None:  # the same call, on its way twice
                stored = await self._store.get(owner.tenant, owner.note_key(name))
                if stored is None:
                    raise ResourceConflict("the note was removed at the same time", field="memory_id")
                note, revision, content = Note.decoded(stored.content), stored.revision, stored.content
            space.put(note, revision, len(content))
            self._spaces.written(space)
        finally:
            space.release(1, size)
        self._queue.add(space)
        return note

    async def change(self, owner: Owner, name: str, call: str, change: Callable[[Note, int], Note]) -> Note:
        """Changes a note; the same call again finds it changed.

        Raises:
            ResourceNotFound: there is none of that id.
            QuotaExhausted: it grew beyond what the owner may have.
            ResourceConflict: others change it all the time.
        """
        for _ in range(_ATTEMPTS):
            space = await self._open(owner)
            entry = space.entry(name, self._now_ms())
            note = await self._content(space, name)
            if call in note.calls:
                return note
            now = self._now_ms()
            changed = change(note, now)
            content = changed.encoded()
            more = len(content) - entry.size_bytes
            space.reserve(0, more)
            try:
                ttl_s = None if note.expires_ms is None else max(1.0, (note.expires_ms - now) / 1000)
                revision = await self._writing(
                    owner,
                    self._store.replace(owner.tenant, owner.note_key(name), content, entry.revision, ttl_s),
                )
                if revision is not None:
                    space.put(changed, revision, len(content))
                    self._spaces.written(space)
                    self._queue.add(space)
                    return changed
            finally:
                space.release(0, more)
            await self._refresh(space, name)
        raise ResourceConflict("the note is changed by others at the same time", field="memory_id")

    async def remove(self, owner: Owner, name: str, call: str) -> None:
        """Removes a note for good; the same call again finds it removed.

        Raises:
            ResourceNotFound: there is none of that id.
        """
        space = await self._open(owner)
        try:
            space.entry(name, self._now_ms())
        except ResourceNotFound:
            if await self._store.removed_by(owner.note_key(name)) == call:
                return
            raise
        await self._forget_notes(space, [name], call)

    async def forget(self, owner: Owner, wanted: Filter, call: str) -> int:
        """Removes all notes that are meant; returns how many those were."""
        space = await self._open(owner)
        names = space.meant(wanted, self._now_ms())
        await self._forget_notes(space, names, call)
        return len(names)

    # Reading

    async def get(self, owner: Owner, name: str) -> Note:
        """One note.

        Raises:
            ResourceNotFound: there is none of that id.
        """
        space = await self._open(owner)
        space.entry(name, self._now_ms())
        return await self._content(space, name)

    async def page(
        self, owner: Owner, wanted: Filter, limit: int, cursor: str | None
    ) -> tuple[Sequence[Note], str | None]:
        """The newest notes after a cursor."""
        space = await self._open(owner)
        names, following = space.page(wanted, limit, cursor, self._now_ms())
        return [note for note in await self._contents(space, names) if note is not None], following

    async def usage(self, owner: Owner) -> Space:
        """How much an owner has."""
        return await self._open(owner)

    async def search(
        self, owner: Owner, headers: CallHeaders, query: str, mode: SearchMode, wanted: Filter, limit: int
    ) -> Found:
        """The notes that fit a query best.

        Raises:
            AiosError: a semantic search without embeddings; a hybrid one goes on with keywords alone.
        """
        space = await self._open(owner)
        depth = limit if mode != "hybrid" else max(_DEPTH, 2 * limit)
        modes: list[Mode] = []
        meaning: list[tuple[str, float]] = []
        if mode != "keyword":
            try:
                meaning = await self._by_meaning(space, headers, query, wanted, depth)
                modes.append("semantic")
            except AiosError as error:
                if mode == "semantic":
                    raise
                self._log.warning("a hybrid search goes on with keywords alone", error=error.message)
        ranked = meaning
        if mode != "semantic":
            modes.append("keyword")
            words = space.by_words(query, wanted, depth, self._now_ms())
            ranked = words
            if mode == "hybrid":
                ranked = fused([[name for name, _ in meaning], [name for name, _ in words]], limit)
        contents = await self._contents(space, [name for name, _ in ranked[:limit]])
        scored = zip(contents, (score for _, score in ranked), strict=False)
        return Found([(note, score) for note, score in scored if note is not None], modes)

    async def _by_meaning(
        self, space: Space, headers: CallHeaders, query: str, wanted: Filter, limit: int
    ) -> list[tuple[str, float]]:
        if not len(space):
            return []
        # The question first: where there are no embeddings to be had, nothing is waited for.
        embedded = await self._queue.query(query, headers)
        await self._queue.settled(space, self._search_wait_s)
        takes = space.taking(wanted, self._now_ms())
        found = await self._vectors.search(space.owner, embedded.vectors[0], wanted, limit)
        return [(name, score) for name, score in found if takes(name)]

    # The store

    async def _open(self, owner: Owner) -> Space:
        """The space of an owner, without the notes whose time is over; the bus has removed their records itself."""
        space = await self._spaces.open(owner)
        if gone := space.expired(self._now_ms()):
            for name in gone:
                space.drop(name)
            await self._drop_vectors(space, gone)
        return space

    async def _content(self, space: Space, name: str) -> Note:
        note = space.hot(name)
        if note is not None:
            return note
        stored = await self._store.get(space.owner.tenant, space.owner.note_key(name))
        if stored is None:
            space.drop(name)  # its time was over
            raise ResourceNotFound(f"there is no note {name}", field="memory_id")
        note = Note.decoded(stored.content)
        entry = space.find(name)
        if entry is not None and entry.revision != stored.revision:
            space.put(note, stored.revision, len(stored.content))
        else:
            space.warm(note, stored.revision)
        return note

    async def _contents(self, space: Space, names: Sequence[str]) -> list[Note | None]:
        async def fetch(name: str) -> Note | None:
            async with self._fetches:
                try:
                    return await self._content(space, name)
                except ResourceNotFound:
                    return None

        found: list[Note | None] = [space.hot(name) for name in names]
        missing = [place for place, note in enumerate(found) if note is None]
        if missing:
            fetched = await asyncio.gather(*(fetch(names[place]) for place in missing))
            for place, note in zip(missing, fetched, strict=True):
                found[place] = note
        return found

    async def _refresh(self, space: Space, name: str) -> None:
        stored = await self._store.get(space.owner.tenant, space.owner.note_key(name))
        if stored is None:
            space.drop(name)
        else:
            space.put(Note.decoded(stored.content), stored.revision, len(stored.content))

    async def _forget_notes(self, space: Space, names: Sequence[str], call: str) -> None:
        async def forget(name: str) -> None:
            async with self._fetches:
                await self._writing(space.owner, self._store.remove(space.owner.note_key(name), call))
            space.drop(name)
            self._spaces.written(space)

        await asyncio.gather(*(forget(name) for name in names))
        await self._drop_vectors(space, names)

    async def _drop_vectors(self, space: Space, names: Sequence[str]) -> None:
        try:
            await self._vectors.remove(space.owner, names)
        except AiosError as error:
            # The next load of this space finds vectors without a note and removes them.
            self._log.warning("vectors of removed notes remain for now", error=error.message)

    async def _writing(self, owner: Owner, write: Awaitable[T]) -> T:
        try:
            return await write
        except (BusUnavailable, asyncio.CancelledError):
            # It may have happened or not: what is stored is looked at again before it is used.
            self._spaces.forget(owner)
            raise
