"""A JetStream KV bucket as every replica sees it: written with compare-and-set, watched, kept up with by revision."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NoKeysError, NotFoundError
from nats.js.kv import KeyValue

from aios_kit.kv_watch import watch_bucket
from aios_kit.logs import Log
from aios_kit.tasks import end
from aios_proto.errors import BusUnavailable, ResourceConflict

_REMOVALS = ("DEL", "PURGE")
_OPERATION = "KV-Operation"
_WATCH_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands under a key; `value` is None where the key was removed."""

    key: str
    revision: int
    value: bytes | None


Taken = Callable[[Entry], None]
Settled = Callable[[], Awaitable[None]]


async def _nothing() -> None: ...


class KvTable:
    """One bucket.

    Changes arrive by watch, by this replica's own writes and by single reads, in any order, so each is taken by its
    revision: the newest stands.

    Args:
        js: for reads that must not lag behind.
        bucket: the bucket.
        name: its name.
        taken: called with each change that is news.
        settled: awaited after the present values were taken, and after each later change.
        log: gets why the bucket cannot be watched.
    """

    def __init__(
        self,
        js: JetStreamContext,
        bucket: KeyValue,
        name: str,
        taken: Taken,
        log: Log,
        settled: Settled = _nothing,
    ) -> None:
        self._js = js
        self._bucket = bucket
        self._name = name
        self._taken = taken
        self._settled = settled
        self._log = log
        self._revisions: dict[str, int] = {}
        self._present: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._loaded = asyncio.Event()

    async def start(self, timeout_s: float) -> None:
        """Watches from now on; returns when all present values were taken.

        Raises:
            TimeoutError: that took longer than `timeout_s`.
        """
        await self.restart()
        await asyncio.wait_for(self._loaded.wait(), timeout_s)

    async def restart(self) -> None:
        """Watches anew, as after a lost connection."""
        await self.stop()
        self._task = asyncio.create_task(self._keep_watching(), name=f"watch {self._name}")

    async def stop(self) -> None:
        """Watches no more."""
        if self._task is not None:
            await end(self._task)

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        """Writes a value; returns its revision.

        Args:
            key: where.
            value: what.
            revision: what must stand there now: 0 for nothing, None for anything.

        Raises:
            ResourceConflict: something else stands there.
            BusUnavailable: the bucket cannot be reached.
        """
        async with self._reaching():
            try:
                if revision is None:
                    made = await self._bucket.put(key, value)
                elif revision == 0:
                    made = await self._bucket.create(key, value)
                else:
                    made = await self._bucket.update(key, value, last=revision)
            except KeyWrongLastSequenceError as error:
                raise ResourceConflict("it was changed at the same time") from error
        self._take(Entry(key, made, value))
        await self._settled()
        return made

    async def delete(self, key: str) -> None:
        """Removes a key, if it is there.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        async with self._reaching():
            await self._bucket.delete(key)
        await self.read(key)
        await self._settled()

    async def read(self, key: str) -> Entry:
        """What stands under a key now, from the stream's leader.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        async with self._reaching():
            try:
                found = await self._js.get_last_msg(f"KV_{self._name}", f"$KV.{self._name}.{key}")
            except NotFoundError:
                return Entry(key, 0, None)
        removed = (found.headers or {}).get(_OPERATION) in _REMOVALS
        entry = Entry(key, found.seq or 0, None if removed else found.data or b"")
        self._take(entry)
        return entry

    async def history(self, key: str) -> list[Entry]:
        """The kept values of a key, the oldest first.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        async with self._reaching():
            try:
                found = await self._bucket.history(key)
            except (NoKeysError, KeyNotFoundError):
                return []
        return [Entry(key, e.revision or 0, e.value) for e in found if e.operation not in _REMOVALS]

    async def _keep_watching(self) -> None:
        while True:
            try:
                await self._watch()
            except (NatsError, TimeoutError) as error:
                self._log.warning("a bucket cannot be watched yet", bucket=self._name, error=str(error))
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _watch(self) -> None:
        loading: set[str] | None = set()
        # A bus that lost its data counts its revisions from the start.
        self._revisions.clear()
        async with aclosing(watch_bucket(self._js, self._name)) as watcher:
            async for entry in watcher:
                if entry is None:
                    for key in self._present - (loading or set()):
                        self._taken(Entry(key, 0, None))
                    self._present = loading or set()
                    loading = None
                    await self._settled()
                    self._loaded.set()
                    continue
                removed = entry.operation in _REMOVALS
                if loading is not None and not removed:
                    loading.add(entry.key)
                self._take(Entry(entry.key, entry.revision or 0, None if removed else entry.value or b""))
                if loading is None:
                    await self._settled()

    def _take(self, entry: Entry) -> None:
        if entry.revision <= self._revisions.get(entry.key, -1):
            return
        self._revisions[entry.key] = entry.revision
        if entry.value is None:
            self._present.discard(entry.key)
        else:
            self._present.add(entry.key)
        self._taken(entry)

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        try:
            yield
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable(f"the bucket {self._name} cannot be reached", retry_after_s=1) from error
