"""How memory follows the tenants' keys: what lies under an older key is rewrapped, what lies under none is dropped.

The storage manager tells when it has changed a tenant's keys. Who misses that finds out at the tenant's next call, or
at the next start.
"""

import asyncio

from aios_kit.key_ring import KeyRing, TenantShredded
from aios_kit.logs import Log
from aios_memory.ports import RecordStore
from aios_memory.vectors import NoteVectors
from aios_proto.errors import AiosError


class TenantKeys:
    """Does what a change of keys asks for, one tenant after the other.

    Args:
        ring: has the keys.
        store: has the records.
        vectors: has the notes' vectors.
        late_s: seconds after which an embedding that was on its way at the destruction has arrived.
        retry_s: seconds before what failed is tried again.
        log: told of what was done.
    """

    def __init__(
        self,
        ring: KeyRing,
        store: RecordStore,
        vectors: NoteVectors,
        *,
        late_s: float,
        retry_s: float,
        log: Log,
    ) -> None:
        self._ring = ring
        self._store = store
        self._vectors = vectors
        self._late_s = late_s
        self._retry_s = retry_s
        self._log = log
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._dropped: set[str] = set()

    def changed(self, tenant: str) -> None:
        """A tenant was seen first, or has other keys than before."""
        self._waiting.put_nowait(tenant)

    async def ensure_there(self, tenant: str) -> None:
        """Makes sure that the tenant's keys were not destroyed.

        Raises:
            TenantShredded: they were.
        """
        if (await self._ring.describe(tenant)).destroyed:
            raise TenantShredded(f"the keys of tenant {tenant} were destroyed")

    async def run(self) -> None:
        """Follows for ever; cancel it to stop."""
        await self._find_destroyed()
        while True:
            tenant = await self._waiting.get()
            try:
                await self._follow(tenant)
            except AiosError as error:
                self._log.warning("records do not follow the tenant's keys yet", tenant=tenant, error=error.message)
                await asyncio.sleep(self._retry_s)
                self._waiting.put_nowait(tenant)

    async def _find_destroyed(self) -> None:
        """Tenants that were shredded while no memory manager ran."""
        try:
            tenants = {key.split(".", 1)[0] for key in await self._store.keys_below("")}
        except AiosError as error:
            self._log.warning("records could not be compared with the tenants' keys", error=error.message)
            return
        for tenant in sorted(tenants):
            if (await self._ring.describe(tenant)).destroyed:
                self.changed(tenant)

    async def _follow(self, tenant: str) -> None:
        if (await self._ring.describe(tenant)).destroyed:
            await self._drop(tenant)
            return
        try:
            count = await self._store.rewrap(tenant)
        except TenantShredded:
            await self._drop(tenant)
            return
        if count:
            self._log.info("records are under the tenant's current key now", tenant=tenant, records=count)

    async def _drop(self, tenant: str) -> None:
        await self._store.purge(tenant)
        await self._vectors.forget_tenant(tenant)
        if tenant not in self._dropped:
            self._dropped.add(tenant)
            self._log.info("the tenant's keys were destroyed; its records and vectors are removed", tenant=tenant)
            asyncio.get_running_loop().call_later(self._late_s, self._waiting.put_nowait, tenant)
