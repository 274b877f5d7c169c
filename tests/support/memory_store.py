"""The storage manager's store port in memory, for many short histories; the real one is tested on a real bus."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aios_storage.ports import Change, Entry, Outdated, Seen


class MemoryStore:
    """Keys and values of one process.

    Attributes:
        refusals: how many of the next commits are refused as outdated though they are not.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self._entries: dict[str, Entry] = {}
        self._revision = 0

    async def get(self, key: str) -> Entry:
        return self._entries.get(key, Entry(None, 0))

    async def fetch(self, key: str) -> bytes | None:
        return (await self.get(key)).value

    async def commit(self, changes: Sequence[Change]) -> int:
        if self.refusals:
            self.refusals -= 1
            raise Outdated
        for change in changes:
            if change.revision is not None and (await self.get(change.key)).revision != change.revision:
                raise Outdated
        for change in changes:
            self._revision += 1
            self._entries[change.key] = Entry(change.value, self._revision, time.time())
        return self._revision

    async def keys(self, pattern: str) -> list[str]:
        return [key for key, entry in self._entries.items() if entry.value is not None and _matches(key, pattern)]

    async def scan(self, pattern: str) -> AsyncIterator[Seen]:
        for key in await self.keys(pattern):
            entry = self._entries[key]
            yield Seen(key, entry.value, entry.revision)

    async def watch(self, pattern: str, seen: Callable[[Seen | None], Awaitable[None]]) -> None:
        async for one in self.scan(pattern):
            await seen(one)
        await seen(None)

    async def purge(self, pattern: str) -> None:
        for key in [key for key in self._entries if _matches(key, pattern)]:
            del self._entries[key]


def _matches(key: str, pattern: str) -> bool:
    tokens, wanted = key.split("."), pattern.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and all(w in ("*", t) for w, t in zip(wanted[:-1], tokens, strict=False))
    return len(tokens) == len(wanted) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))
