"""How the catalogue learns what is in the store: a watch on all heads, taken up again whenever it is lost."""

import asyncio

from aios_kit.key_ring import Tampered, TenantShredded
from aios_kit.logs import Log
from aios_proto.errors import BusUnavailable
from aios_storage.commits import Listener
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.core.records import decode_head
from aios_storage.ports import Seen
from aios_storage.sealed_store import SealedStore

_WATCH_AGAIN_S = 0.2
_HEADS = "*.h.>"


class Feed:
    """Keeps a catalogue as the store is.

    Args:
        store: is watched.
        catalogue: is kept.
        changed: called with the tenant and a file before and after each change that others made.
        log: for heads that cannot be read.
    """

    def __init__(self, store: SealedStore, catalogue: Catalogue, changed: Listener, log: Log) -> None:
        self._store = store
        self._catalogue = catalogue
        self._changed = changed
        self._log = log
        self._present: set[tuple[str, str]] | None = None
        self.loaded = asyncio.Event()

    async def run(self) -> None:
        """Watches for ever; cancel it to stop."""
        while True:
            self._present = set()
            try:
                await self._store.store.watch(_HEADS, self._seen)
            except BusUnavailable as error:
                self._log.warning("the files cannot be watched yet", error=error.message)
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _seen(self, seen: Seen | None) -> None:
        if seen is None:
            self._all_seen()
            return
        tenant, key = seen.key.split(".", 1)
        if seen.value is None:
            before = self._catalogue.remove(tenant, key, seen.revision)
            if before is not None:
                self._changed(tenant, before, None)
            return
        if self._present is not None:
            self._present.add((tenant, key))
        try:
            head = decode_head(await self._store.envelope.open(tenant, key, seen.value))
        except TenantShredded:
            return
        except Tampered as error:
            self._log.error("a file's record does not open; it is left out of listings", key=key, error=error.message)
            return
        before = self._catalogue.by_key(tenant, key)
        after = Known(key, key.split(".")[1], head, seen.revision)
        if self._catalogue.put(tenant, after):
            self._changed(tenant, before, after)

    def _all_seen(self) -> None:
        if self._present is not None:
            for tenant, known in self._catalogue.keep_only(self._present):
                self._changed(tenant, known, None)
            self._present = None
        self.loaded.set()
