"""How files are found by what they mean: their passages as vectors, made by `llm.embed`, some moments after a write.

A vector's payload names tenant, owner, the file's key and version, and nothing the file says. The vectors themselves
lie in clear: who has them can guess at what was said. They are derived, and removed when a tenant is shredded.
"""

import asyncio
import re
import uuid
from collections.abc import Callable, Sequence

from aios_kit.kernel_calls import KernelCalls
from aios_kit.key_ring import TenantShredded
from aios_kit.logs import Log
from aios_kit.vectors.port import Collection, Point, VectorStore, Where
from aios_proto.errors import AiosError, EngineError, ManagerUnavailable, ResourceNotFound
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.messages.llm import EmbedRequest, EmbedResult
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.core.passages import passages_of
from aios_storage.indexing import Indexing

LAG_S = 5.0
"""Seconds after which a write is found by its meaning, with an idle embedding worker; longer while many wait."""

_EMBED_DEADLINE_S = 20.0
_QUERY_DEADLINE_S = 5.0
_RETRY_S = 3.0
_ATTEMPTS = 5
_NAMESPACE = uuid.UUID("6f1a1f0e-6a0b-5c7e-9b7e-0d2f3c4b5a69")
_LOW_PRIORITY = 2
_MOST_HITS = 500


class FileMeaning:
    """The vectors of all files.

    Args:
        vectors: where they are kept.
        calls: reaches `llm.embed`.
        catalogue: knows which files there are.
        indexing: reads their texts.
        log: for files that cannot be embedded.
    """

    def __init__(
        self, vectors: VectorStore, calls: Callable[[], KernelCalls], catalogue: Catalogue, indexing: Indexing, log: Log
    ) -> None:
        self._vectors = vectors
        self._calls = calls
        self._catalogue = catalogue
        self._indexing = indexing
        self._log = log
        self._collection: str | None = None
        self._pending: dict[tuple[str, str], int] = {}
        self._news = asyncio.Event()

    async def changed(self, tenant: str, known: Known, text: str | None) -> None:
        """A file has another text."""
        self._pending[tenant, known.key] = 0
        self._news.set()

    async def run(self) -> None:
        """Embeds what waits, for ever; cancel it to stop."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._pending:
                place = next(iter(self._pending))
                tries = self._pending.pop(place)
                try:
                    await self._embed_file(*place)
                except (TenantShredded, ResourceNotFound):
                    continue
                except AiosError as error:
                    if error.retryable or isinstance(error, EngineError):
                        self._pending[place] = tries  # nobody embeds now: it goes to the end of the line
                        await asyncio.sleep(_RETRY_S)
                    elif tries < _ATTEMPTS:
                        self._pending[place] = tries + 1
                    else:
                        self._log.error("a file is not found by its meaning", key=place[1], error=error.message)

    async def search(
        self, on_behalf: CallHeaders, query: str, owner: str, limit: int, allowed: Callable[[str], bool]
    ) -> list[tuple[str, float]]:
        """See `Meaning.search`."""
        vectors = await self._embed(on_behalf, [query], _QUERY_DEADLINE_S)
        if self._collection is None:
            raise ManagerUnavailable("nothing has been embedded yet")
        where = Where(equals={"tenant": on_behalf.tenant, "owner": owner})
        best: dict[str, float] = {}
        for hit in await self._vectors.search(self._collection, vectors[0], where, min(limit * 8, _MOST_HITS)):
            key = str(hit.payload["file"])
            if allowed(key):
                best[key] = max(best.get(key, -1.0), hit.score)
        return sorted(best.items(), key=lambda found: (-found[1], found[0]))[:limit]

    async def forget(self, tenant: str) -> None:
        """Removes all vectors of a tenant, from disk too."""
        self._pending = {place: tries for place, tries in self._pending.items() if place[0] != tenant}
        if self._collection is not None:
            await self._vectors.delete_where(self._collection, Where(equals={"tenant": tenant}))
            await self._vectors.flush(self._collection)

    async def close(self) -> None:
        """Lets go of the vector store."""
        await self._vectors.close()

    async def _embed_file(self, tenant: str, key: str) -> None:
        known = self._catalogue.by_key(tenant, key)
        here = Where(equals={"tenant": tenant, "file": key})
        text = None if known is None else await self._indexing.text_of(tenant, known)
        passages = [] if text is None else passages_of(text)
        there: Sequence[Point] = ()
        if self._collection is not None:
            there = (await self._vectors.scroll(self._collection, here, 1)).points
        if known is None or not passages:
            if there and self._collection is not None:
                await self._vectors.delete_where(self._collection, here)
            return
        stamp = f"{known.head.file}.{known.head.newest.number}"
        if there and there[0].payload.get("version") == stamp:
            return
        headers = CallHeaders(
            id=new_syscall_id(), tenant=tenant, agent=known.head.newest.author, group="agent", priority=_LOW_PRIORITY
        )
        vectors = await self._embed(headers, passages, _EMBED_DEADLINE_S)
        assert self._collection is not None
        payload = {"tenant": tenant, "owner": known.owner, "file": key, "version": stamp}
        points = [
            Point(str(uuid.uuid5(_NAMESPACE, f"{tenant}/{key}/{number}")), vector, payload)
            for number, vector in enumerate(vectors)
        ]
        await self._vectors.delete_where(self._collection, here)
        await self._vectors.upsert(self._collection, points)

    async def _embed(self, on_behalf: CallHeaders, texts: list[str], deadline_s: float) -> list[list[float]]:
        made = await self._calls().call(
            "llm", "embed", EmbedRequest(texts=texts), EmbedResult, on_behalf=on_behalf, deadline_s=deadline_s
        )
        # Vectors of different models cannot be compared: each has a collection of its own.
        name = f"files-{re.sub(r'[^A-Za-z0-9_-]', '-', made.model)[:40]}-{made.dimensions}"
        if name != self._collection:
            await self._use(name, made.dimensions)
        return made.vectors

    async def _use(self, name: str, dimensions: int) -> None:
        """Keeps vectors in the collection of that name from now on, those of all files."""
        await self._vectors.ensure(Collection(name, dimensions, keyword_fields=("tenant", "owner", "file", "version")))
        before, self._collection = self._collection, name
        if before == name:
            return  # another call was faster
        if before is not None:
            self._log.info("another model embeds now; all files are embedded again", collection=name)
            await self._vectors.drop(before)
        for tenant in self._catalogue.tenants():
            for known in self._catalogue.of_tenant(tenant):
                self._pending.setdefault((tenant, known.key), 0)
        self._news.set()
