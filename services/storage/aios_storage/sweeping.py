"""Which bytes no version needs any more, and their removal: uploads never used, and what a purge left behind."""

import asyncio
import time
from collections.abc import Callable

from aios_kit.key_ring import TenantShredded
from aios_kit.logs import Log
from aios_proto.errors import AiosError
from aios_storage.bodies import CLAIM_TTL_S
from aios_storage.core.records import decode_head, decode_version
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore

UPLOAD_AGE_S = 3600.0
"""Seconds that parts of an upload wait to be used."""


class Sweeping:
    """Removes what nobody needs, tenant by tenant.

    Args:
        store: what is swept.
        tenants: gives the tenants there are.
        every_s: seconds between sweeps.
        log: for what could not be removed.
    """

    def __init__(self, store: SealedStore, tenants: Callable[[], set[str]], every_s: float, log: Log) -> None:
        self._store = store
        self._tenants = tenants
        self._every_s = every_s
        self._log = log

    async def run(self) -> None:
        """Sweeps for ever; cancel it to stop."""
        while True:
            await asyncio.sleep(self._every_s)
            for tenant in self._tenants():
                try:
                    await self.sweep(tenant, UPLOAD_AGE_S)
                except TenantShredded:
                    continue
                except AiosError as error:
                    self._log.warning("a tenant could not be swept", tenant=tenant, error=error.message)

    async def sweep(self, tenant: str, age_s: float) -> int:
        """Removes the parts that no version names and that are older than `age_s`; returns of how many contents."""
        newest: dict[str, tuple[int, str]] = {}
        for key in await self._store.store.keys(f"{tenant}.b.*.*.*"):
            _, _, agent, upload, part = key.split(".")
            number = int(part.rstrip("e"))
            newest[f"{agent}.{upload}"] = max(newest.get(f"{agent}.{upload}", (-1, "")), (number, key))
        # What is named after the parts were listed stays. Heads before versions: a head is replaced, moved or removed
        # only once its version has a record of its own.
        needed = set()
        async for _, record in self._store.scan(tenant, "h.*.*"):
            if (content := decode_head(record).newest.content) is not None:
                needed.add(content.blob)
        async for _, record in self._store.scan(tenant, "v.*.*"):
            if (content := decode_version(record).content) is not None:
                needed.add(content.blob)
        removed = 0
        for blob in newest.keys() - needed:
            found = await self._store.store.get(newest[blob][1])
            if found.value is not None and time.time() - found.written_s >= age_s and await self._take(tenant, blob):
                await self._store.store.purge(f"{tenant}.b.{blob}.*")
                removed += 1
        return removed

    async def _take(self, tenant: str, blob: str) -> bool:
        """Takes the parts from whoever might be about to use them; False where a file was faster."""
        claim = f"u.{blob}"
        before = await self._store.store.get(f"{tenant}.{claim}")
        change: Change = await self._store.change(tenant, claim, b"sweep", before.revision, CLAIM_TTL_S)
        if before.value is not None and time.time() - before.written_s < UPLOAD_AGE_S:
            return False
        try:
            await self._store.store.commit([change])
        except Outdated:
            return False
        return True
