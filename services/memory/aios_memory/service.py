"""The memory manager on the bus: decodes nothing and decides nothing, only wires the library to its operations."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg

from aios_kit.envelope import Envelope
from aios_kit.key_ring import FileKeyRing
from aios_kit.service import Service
from aios_kit.sole_instance import SoleInstance
from aios_kit.streams import ensure_bucket
from aios_kit.tasks import Tasks, end
from aios_kit.vectors.port import VectorStore
from aios_kit.vectors.settings import VectorSettings, open_vector_store
from aios_memory.access_lists import AccessLists
from aios_memory.adapters.kernel_embedding import KernelEmbedding
from aios_memory.adapters.kv_record_store import KvRecordStore, memory_bucket
from aios_memory.agentic_notes import AgenticNotes
from aios_memory.core.space import Limits, Space
from aios_memory.embedding_queue import EmbeddingQueue
from aios_memory.injection import Injection
from aios_memory.library import Library
from aios_memory.operations import Operations
from aios_memory.settings import MemorySettings
from aios_memory.spaces import Spaces
from aios_memory.tenant_keys import TenantKeys
from aios_memory.vectors import NoteVectors
from aios_proto import subjects
from aios_proto.errors import AiosError

_LOADS_AT_ONCE = 16


class MemoryService:
    """Wires the memory manager to the bus. One process serves an installation: it owns the notes in its memory.

    Another that is started stands by until the first is gone.
    """

    def __init__(self, settings: MemorySettings, vectors: VectorSettings, store: VectorStore | None = None) -> None:
        self.settings = settings
        self.service = Service("memory", settings)
        self._ring = FileKeyRing(settings.key_ring_dir)
        self._vectors = NoteVectors(store or open_vector_store(vectors))
        self._loaders = Tasks(_LOADS_AT_ONCE, self.service.log)
        self._background: list[asyncio.Task[None]] = []
        self._operations = Operations(self.service)
        self.queue: EmbeddingQueue | None = None
        self.spaces: Spaces | None = None
        self._notes: AgenticNotes | None = None
        self._keys: TenantKeys | None = None
        self._sole = SoleInstance(self.service, settings.memory_lease_s)
        self.service.before_start(self._open)
        self.service.on_start(self._start)
        self.service.on_stop(self._stop)
        self.service.on_stop(self._sole.release)

    async def _open(self) -> None:
        settings, service = self.settings, self.service
        bucket = await ensure_bucket(service.js, memory_bucket(settings.jetstream_replicas))
        store = KvRecordStore(
            service.js, bucket, Envelope(self._ring), settings.request_timeout_s, self._sole.ensure_active
        )
        limits = Limits(
            settings.memory_max_items, settings.memory_max_bytes, settings.memory_hot_bytes, settings.memory_lru_k
        )
        keys = self._keys = TenantKeys(
            self._ring,
            store,
            self._vectors,
            late_s=settings.memory_embed_timeout_s,
            retry_s=settings.memory_embed_retry_s,
            log=service.log,
        )
        spaces = self.spaces = Spaces(
            store,
            limits,
            settings.memory_spaces,
            self._loaders,
            self._on_loaded,
            self._on_ready,
            self._ring.stamp,
            keys.changed,
            keys.ensure_there,
        )
        queue = self.queue = EmbeddingQueue(
            spaces,
            store,
            KernelEmbedding(service.kernel_calls),
            self._vectors,
            batch=settings.memory_embed_batch,
            timeout_s=settings.memory_embed_timeout_s,
            retry_s=settings.memory_embed_retry_s,
            log=service.log,
        )
        library = Library(
            store,
            spaces,
            self._vectors,
            queue,
            search_wait_s=settings.memory_search_wait_s,
            now_ms=lambda: time.time_ns() // 1_000_000,
            log=service.log,
        )
        self._notes = AgenticNotes(
            library,
            service.kernel_calls,
            neighbours=settings.memory_agentic_neighbours,
            timeout_s=settings.memory_agentic_timeout_s,
            log=service.log,
        )
        self._operations.open(library, AccessLists(store), self._notes, Injection(library, service.kernel_calls))
        await queue.start()

    async def _start(self) -> None:
        assert self.queue is not None
        assert self._notes is not None
        assert self._keys is not None
        await self.service.lane.subscribe(subjects.KEY_FACTS, self._on_key_fact)
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "embed notes": self.queue.run,
            "embed all notes anew": self.queue.sweep,
            "work on agentic notes": self._notes.run,
            "follow the tenants' keys": self._keys.run,
        }
        self._background = [asyncio.create_task(self._lasting(name, run), name=name) for name, run in work.items()]

    async def _lasting(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Lets background work end by being cancelled only; what nobody foresaw is logged, and it begins anew."""
        while True:
            try:
                await run()
            except Exception:
                self.service.log.exception("background work failed", work=name)
                await asyncio.sleep(self.settings.memory_embed_retry_s)

    async def _on_loaded(self, space: Space) -> None:
        try:
            await self._vectors.reconcile(space)
        except AiosError as error:
            # All of them count as not embedded then, and are embedded again.
            self.service.log.warning("vectors could not be compared with the notes", error=error.message)

    def _on_ready(self, space: Space) -> None:
        assert self.queue is not None
        assert self._notes is not None
        self.queue.add(space)
        self._notes.add(space)

    async def _on_key_fact(self, message: Msg) -> None:
        assert self.spaces is not None
        self.spaces.check_keys(message.subject.split(".")[2])

    async def _stop(self) -> None:
        await end(*self._background)
        await self._loaders.drain(1)
        await self._vectors.close()
