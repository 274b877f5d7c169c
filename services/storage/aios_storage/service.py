"""The storage manager on the bus: wires files, keys, search and interactions to their calls, and owns what runs on."""

import asyncio
from collections.abc import Coroutine

from aios_kit.envelope import Envelope
from aios_kit.key_ring import FileKeyRing
from aios_kit.service import Call, Service
from aios_kit.tasks import end
from aios_kit.vectors.settings import VectorSettings, open_vector_store
from aios_proto.errors import AccessDenied
from aios_proto.messages.storage import FilesResult, InteractionsRequest, InteractionsResult, SearchRequest
from aios_storage.adapters.jetstream_store import JetStreamStore
from aios_storage.bodies import Bodies
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.feed import Feed
from aios_storage.file_calls import FileCalls
from aios_storage.indexing import Indexing
from aios_storage.interactions import Interactions
from aios_storage.key_calls import OPERATORS, KeyCalls
from aios_storage.library import Library
from aios_storage.meaning import FileMeaning
from aios_storage.mounts import Mounts
from aios_storage.rewrapping import Rewrapping
from aios_storage.schema import migrate
from aios_storage.sealed_store import SealedStore
from aios_storage.searching import Searching
from aios_storage.settings import StorageSettings
from aios_storage.sweeping import Sweeping

_LOAD_TIMEOUT_S = 120.0


class StorageService:
    """Wires everything to the bus."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        service = self.service = Service("storage", settings)
        self._bucket = JetStreamStore(lambda: service.nc, lambda: service.js, settings.request_timeout_s)
        self.store = SealedStore(self._bucket, Envelope(FileKeyRing(settings.key_ring_dir)))
        self.catalogue = Catalogue()
        self._feed = Feed(self.store, self.catalogue, self._changed, service.log)
        bodies = Bodies(self.store)
        self._indexing = Indexing(self.catalogue, bodies, settings.storage_indexed_bytes, service.log)
        self._meaning = self._make_meaning()
        self._bodies = bodies
        library = self._library = Library(self.store, bodies, self.catalogue, self._changed)
        self._searching = Searching(library, self.store, self.catalogue, self._indexing, self._meaning, service.log)
        self._rewrapping = Rewrapping(self.store, self._run, service.log)
        self._sweeping = Sweeping(self.store, self.catalogue.tenants, settings.storage_sweep_s, service.log)
        self._interactions = Interactions(
            lambda: service.js, self.store.envelope, settings.request_timeout_s, service.log
        )
        self._stored: dict[str, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        mounts = Mounts(self.store, settings.storage_mount_roots)
        stored = self._stored
        FileCalls(library, bodies, mounts, lambda tenant: stored.get(tenant, 0), settings.storage_quota_bytes).serve_on(
            service
        )
        KeyCalls(service, self.store, self._rewrapping, settings.storage_root_tenant, self._forget).serve_on(service)
        service.serve("storage", "search", self._search)
        service.serve("storage", "interactions", self._find_interactions)
        service.on_start(self._start)
        service.on_reconnect(self._take_up_again)
        service.on_stop(self._stop)

    def _make_meaning(self) -> FileMeaning | None:
        if not self.settings.storage_semantic:
            return None
        vectors = open_vector_store(VectorSettings())
        meaning = FileMeaning(
            vectors, lambda: self.service.kernel_calls, self.catalogue, self._indexing, self.service.log
        )
        self._indexing.also(meaning.changed)
        return meaning

    async def _start(self) -> None:
        replicas = self.settings.jetstream_replicas
        await self._bucket.open(replicas)
        await migrate(self._bucket)
        await self._interactions.open(replicas, self.settings.storage_interactions_days)
        self._run(self._feed.run(), "feed")
        async with asyncio.timeout(_LOAD_TIMEOUT_S):
            await self._feed.loaded.wait()
        self._run(self._indexing.run(), "indexing")
        self._run(self._sweeping.run(), "sweeping")
        self._run(self._interactions.run(), "interactions")
        if self._meaning is not None:
            self._run(self._meaning.run(), "meaning")
        for tenant in self.catalogue.tenants():
            await self._rewrapping.resume(tenant)

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.service.log.error("background work failed", task=task.get_name(), exc_info=error)
            self.service.stop()  # whoever supervises the process starts it anew

    async def _take_up_again(self) -> None:
        await self._end({"feed", "interactions"})
        self._run(self._feed.run(), "feed")
        self._run(self._interactions.run(), "interactions")

    async def _end(self, names: set[str] | None = None) -> None:
        await end(*(task for task in self._running if names is None or task.get_name() in names))

    async def _stop(self) -> None:
        await self._end()
        await self._library.close()
        if self._meaning is not None:
            await self._meaning.close()

    def _changed(self, tenant: str, before: Known | None, after: Known | None) -> None:
        if before is not None and after is not None and before.head == after.head:
            return  # only its key was renewed
        self._stored[tenant] = self._stored.get(tenant, 0) - _size(before) + _size(after)
        known = after or before
        if known is not None:
            self._indexing.changed(tenant, known.key)

    async def _forget(self, tenant: str) -> None:
        self.catalogue.forget(tenant)
        self._indexing.forget(tenant)
        self._bodies.forget(tenant)
        self._stored.pop(tenant, None)
        if self._meaning is not None:
            await self._meaning.forget(tenant)
        await self._bucket.purge(f"{tenant}.>")
        await self._interactions.forget(tenant)

    async def _search(self, call: Call[SearchRequest]) -> FilesResult:
        return await self._searching.search(call.headers, call.body)

    async def _find_interactions(self, call: Call[InteractionsRequest]) -> InteractionsResult:
        request = call.body
        if call.headers.group != OPERATORS:
            if request.agent not in (None, call.headers.agent):
                raise AccessDenied("only operators see what other agents did", field="agent")
            request = request.model_copy(update={"agent": call.headers.agent})
        await self.store.check(call.headers.tenant)
        return await self._interactions.search(call.headers.tenant, request)


def _size(known: Known | None) -> int:
    content = None if known is None else known.head.newest.content
    return 0 if content is None else content.size_bytes
