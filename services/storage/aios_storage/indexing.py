"""How what files say becomes searchable: each change is taken up at once, in the order in which it was made.

A search first waits for the changes made before it, so it finds what was written before it was asked.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aios_kit.key_ring import Tampered, TenantShredded
from aios_kit.logs import Log
from aios_proto.errors import AiosError, BusUnavailable
from aios_storage.bodies import Bodies
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.core.keyword_index import KeywordIndex, words_of

_RETRY_S = 0.5
# Splitting a long text takes milliseconds: then it goes to a thread.
_INLINE_BYTES = 16 << 10

Text = tuple[str, Known, str]


class Indexing:
    """The keyword indexes of all tenants, and what feeds them.

    Args:
        catalogue: knows which files there are.
        bodies: have their bytes.
        indexed_bytes: of each file, from its beginning.
        log: for files that cannot be read.
    """

    def __init__(self, catalogue: Catalogue, bodies: Bodies, indexed_bytes: int, log: Log) -> None:
        self._catalogue = catalogue
        self._bodies = bodies
        self._indexed_bytes = indexed_bytes
        self._log = log
        self._indexes: dict[str, KeywordIndex] = {}
        self._pending: dict[tuple[str, str], None] = {}
        self._news = asyncio.Event()
        self._done = asyncio.Condition()
        self._busy: tuple[str, str] | None = None
        self._on_text: Callable[[str, Known, str | None], Awaitable[None]] | None = None

    def also(self, on_text: Callable[[str, Known, str | None], Awaitable[None]]) -> None:
        """Calls `on_text` with a tenant, a file and its text, or None where it has none any more."""
        self._on_text = on_text

    def changed(self, tenant: str, key: str) -> None:
        """A file has another content, or is gone."""
        self._pending[tenant, key] = None
        self._news.set()

    def of_tenant(self, tenant: str) -> KeywordIndex:
        """The index of one tenant."""
        return self._indexes.setdefault(tenant, KeywordIndex())

    def forget(self, tenant: str) -> None:
        """Drops what is known of a tenant."""
        self._indexes.pop(tenant, None)
        self._pending = {place: None for place in self._pending if place[0] != tenant}

    async def caught_up(self, tenant: str, timeout_s: float) -> bool:
        """Waits until all of the tenant's changes made so far are in; False where that took too long."""
        waiting = {place for place in self._pending if place[0] == tenant}
        if self._busy is not None and self._busy[0] == tenant:
            waiting.add(self._busy)
        if not waiting:
            return True
        try:
            async with asyncio.timeout(timeout_s), self._done:
                await self._done.wait_for(lambda: not waiting & {*self._pending, self._busy})
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Takes changes up for ever; cancel it to stop."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._pending:
                self._busy = next(iter(self._pending))
                del self._pending[self._busy]
                try:
                    await self._take_up(*self._busy)
                except BusUnavailable:
                    self._pending[self._busy] = None
                    await asyncio.sleep(_RETRY_S)
                except TenantShredded:
                    self.forget(self._busy[0])
                except AiosError as error:
                    self._log.error("a file cannot be made searchable", key=self._busy[1], error=error.message)
                finally:
                    self._busy = None
                    async with self._done:
                        self._done.notify_all()

    async def _take_up(self, tenant: str, key: str) -> None:
        known = self._catalogue.by_key(tenant, key)
        index = self.of_tenant(tenant)
        text = None if known is None else await self.text_of(tenant, known)
        if known is None or text is None:
            index.remove(key)
        else:
            # A file is also found by its name.
            whole = f"{known.head.path}\n{text}"
            words = words_of(whole) if len(whole) < _INLINE_BYTES else await asyncio.to_thread(words_of, whole)
            index.put(key, words)
        if known is not None and self._on_text is not None:
            await self._on_text(tenant, known, text)

    async def text_of(self, tenant: str, known: Known) -> str | None:
        """The beginning of a file's text; empty where its bytes are no text, None where it is gone."""
        content = known.head.newest.content
        if content is None:
            return None
        try:
            data = await self._bodies.read(tenant, content, 0, self._indexed_bytes)
        except Tampered:
            # The parts of a file that was purged a moment ago.
            return None if self._catalogue.by_key(tenant, known.key) is not known else ""
        if b"\0" in data[:4096]:
            return ""
        return data.decode(errors="ignore")
