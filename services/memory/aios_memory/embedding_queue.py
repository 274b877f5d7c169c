"""When notes get their vectors: soon after they were written, in batches, again after a failure, anew with a model."""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import Final

import orjson

from aios_kit.logs import Log
from aios_memory.core.note import Note, Owner
from aios_memory.core.space import Entry, Space
from aios_memory.ports import Embedded, Embedding, RecordStore
from aios_memory.spaces import Spaces
from aios_memory.vectors import Model, NoteVectors
from aios_proto.errors import AiosError, DeadlineExceeded
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.subjects import KERNEL_TENANT

_LONGEST_RETRY_S: Final = 30.0
# Notes written one after another go together; a search that waits for them does not wait for this.
_GATHER_S: Final = 0.05
_MODEL_KEY: Final = f"{KERNEL_TENANT}.vectors.model"
_PRIORITY: Final = 2
_PROGRAM: Final = "memory-embedding"
_GROUP: Final = "agent"


class EmbeddingQueue:
    """Embeds what is not embedded.

    Args:
        spaces: whose notes.
        store: contents that are not in memory, and which model is in use.
        embedding: makes vectors.
        vectors: keeps them.
        batch: most notes in one call.
        timeout_s: longest wait for one call.
        retry_s: first wait after a failure.
        log: told when embedding fails.
    """

    def __init__(
        self,
        spaces: Spaces,
        store: RecordStore,
        embedding: Embedding,
        vectors: NoteVectors,
        *,
        batch: int,
        timeout_s: float,
        retry_s: float,
        log: Log,
    ) -> None:
        self._spaces = spaces
        self._store = store
        self._embedding = embedding
        self._vectors = vectors
        self._batch = self._size = batch
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._log = log
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._works_again = asyncio.Event()
        self._progress = asyncio.Condition()
        self._switching = asyncio.Lock()
        self._old: tuple[Model, ...] = ()
        self._sweep = asyncio.Event()

    async def start(self) -> None:
        """Opens the vectors of the model that was in use last.

        Raises:
            AiosError: the store or the vector store cannot be reached.
        """
        stored = await self._store.get(KERNEL_TENANT, _MODEL_KEY)
        if stored is None:
            return
        said = orjson.loads(stored.content)
        self._old = tuple(Model(name, dimensions) for name, dimensions in said["old"])
        await self._vectors.use(Model(said["model"], said["dimensions"]))
        if self._old:
            self._sweep.set()  # bringing all notes to this model was not finished

    def add(self, space: Space) -> None:
        """Some notes of a space have no vector."""
        if space.unembedded:
            self._owners[space.owner.key] = space.owner
            self._news.set()

    async def query(self, text: str, headers: CallHeaders) -> Embedded:
        """The vector of a question, in the caller's name.

        Raises:
            AiosError: it cannot be made now.
        """
        embedded = await self._embedding.embed([text], headers, self._timeout_s)
        self._works_again.set()
        await self._use_model_of(embedded)
        return embedded

    async def settled(self, space: Space, timeout_s: float) -> bool:
        """Waits until every note of a space has its vector; False where that took too long."""
        if not space.unembedded:
            return True
        self.add(space)
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: not space.unembedded)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Embeds for ever; cancel it to stop."""
        wait_s = self._retry_s
        while True:
            await self._news.wait()
            await self._wait_for(self._hurry, _GATHER_S)
            self._news.clear()
            self._hurry.clear()
            while self._owners:
                _, owner = self._owners.popitem(last=False)
                space = self._spaces.loaded(owner)
                if space is None or not space.unembedded:
                    continue
                try:
                    await self._embed_some(space)
                except AiosError as error:
                    if isinstance(error, DeadlineExceeded):
                        # The same again would be late again, and the server works on what was given up as well.
                        self._size = max(1, self._size // 2)
                    self._log.warning("notes could not be embedded yet", error=error.message, batch=self._size)
                    self._owners[owner.key] = owner
                    # Until somebody else finds that embedding works again, at the latest.
                    self._works_again.clear()
                    await self._wait_for(self._works_again, wait_s)
                    wait_s = min(_LONGEST_RETRY_S, wait_s * 2)
                else:
                    wait_s = self._retry_s
                    self._size = min(self._batch, 2 * self._size)
                    if space.unembedded:
                        self._owners[owner.key] = owner  # behind the others

    async def sweep(self) -> None:
        """Brings all stored notes to a new model whenever there is one, for ever; cancel it to stop."""
        while True:
            await self._sweep.wait()
            self._sweep.clear()
            try:
                await self._bring_all_along()
            except AiosError as error:
                self._log.warning("not all notes have been embedded anew yet", error=error.message)
                await asyncio.sleep(_LONGEST_RETRY_S)
                self._sweep.set()

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _embed_some(self, space: Space) -> None:
        chosen: list[tuple[Note, Entry]] = []
        for name in list(space.unembedded)[: self._size]:
            entry = space.find(name)
            note = space.peek(name)
            if entry is not None and note is None:
                stored = await self._store.get(space.owner.tenant, space.owner.note_key(name))
                note = None if stored is None else Note.decoded(stored.content)
            if entry is None or note is None:
                space.unembedded.discard(name)
            elif note.mark == entry.mark:
                chosen.append((note, entry))
        if chosen:
            on_behalf = CallHeaders(
                id=new_syscall_id(),
                program=_PROGRAM,
                priority=_PRIORITY,
                tenant=space.owner.tenant,
                agent=chosen[0][0].author,
                group=_GROUP,
            )
            embedded = await self._embedding.embed([note.text for note, _ in chosen], on_behalf, self._timeout_s)
            await self._use_model_of(embedded)
            await self._vectors.put(space.owner, [(note.id, entry) for note, entry in chosen], embedded)
        gone = []
        for note, entry in chosen:
            now = space.find(note.id)
            if now is None:
                gone.append(note.id)  # it was removed meanwhile
            elif now.mark == entry.mark:
                space.unembedded.discard(note.id)
        if gone:
            await self._vectors.remove(space.owner, gone)
        async with self._progress:
            self._progress.notify_all()

    async def _use_model_of(self, embedded: Embedded) -> None:
        model = Model(embedded.model, embedded.dimensions)
        if self._vectors.model == model:
            return
        async with self._switching:
            old = self._vectors.model
            if old == model:
                return
            if old is not None:
                self._log.info("the embedding model changed; all notes are embedded anew", model=model.name)
                self._old = tuple(dict.fromkeys((*self._old, old)))
            self._old = tuple(other for other in self._old if other != model)
            await self._vectors.use(model)
            await self._remember(model)
            for space in self._spaces.all():
                space.unembedded.update(space.notes())
                await self._vectors.reconcile(space)
                self.add(space)
            if self._old:
                self._sweep.set()

    async def _remember(self, model: Model) -> None:
        old = [(other.name, other.dimensions) for other in self._old]
        content = orjson.dumps({"v": 1, "model": model.name, "dimensions": model.dimensions, "old": old})
        stored = await self._store.get(KERNEL_TENANT, _MODEL_KEY)
        if stored is None:
            await self._store.create(KERNEL_TENANT, _MODEL_KEY, content)
        else:
            await self._store.replace(KERNEL_TENANT, _MODEL_KEY, content, stored.revision)

    async def _bring_all_along(self) -> None:
        owners = {
            (tenant, kind, name)
            for tenant, kind, name, *_ in (key.split(".") for key in await self._store.keys_below(""))
            if kind in ("agent", "pool")
        }
        for tenant, kind, name in sorted(owners):
            space = await self._spaces.open(Owner(tenant, "agent" if kind == "agent" else "pool", name))
            while not await self.settled(space, _LONGEST_RETRY_S):
                if self._spaces.loaded(space.owner) is not space:
                    space = await self._spaces.open(space.owner)
        model = self._vectors.model
        old, self._old = self._old, ()
        if model is not None:
            for other in old:
                with suppress(AiosError):
                    await self._vectors.drop(other)
            await self._remember(model)
