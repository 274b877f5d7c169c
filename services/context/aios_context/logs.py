"""How a context's whole log is read: its segments from memory or the store, then the lines in its head."""

import asyncio
from collections import OrderedDict

from aios_context.core.head import Head
from aios_context.core.record import Record, parse
from aios_context.core.segments import lines_of
from aios_context.ports import ContextStore
from aios_context.together import together

_READS_AT_ONCE = 16


class Logs:
    """Reads logs.

    Args:
        store: has the segments.
        cache_bytes: of segments kept in memory; they never change, so they are never wrong.
    """

    def __init__(self, store: ContextStore, cache_bytes: int) -> None:
        self._store = store
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)

    async def lines(self, head: Head) -> tuple[bytes, ...]:
        """All lines of a context's log.

        Raises:
            BusUnavailable: the store cannot be reached.
            InternalError: a part is missing or damaged.
        """
        values = await together(self._segment(ref.key) for ref in head.segments)
        return (*(line for value in values for line in lines_of(value)), *head.tail)

    async def records(self, head: Head, at_version: int | None = None) -> list[Record]:
        """The records of a context's log, up to a version."""
        records = [parse(line) for line in await self.lines(head)]
        if at_version is None:
            return records
        return [record for record in records if record.version <= at_version]

    def keep(self, key: str, value: bytes) -> None:
        """Puts a segment into memory: it was just written or read."""
        if key in self._cached:
            self._cached.move_to_end(key)
            return
        self._cached[key] = value
        self._size += len(value)
        while self._size > self._cache_bytes and self._cached:
            self._size -= len(self._cached.popitem(last=False)[1])

    async def _segment(self, key: str) -> bytes:
        value = self._cached.get(key)
        if value is None:
            async with self._reads:
                value = await self._store.segment(key)
        self.keep(key, value)
        return value
