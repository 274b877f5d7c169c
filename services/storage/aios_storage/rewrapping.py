"""How a tenant's new key reaches what was stored under older ones: object by object, while the files are in use."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import islice

from aios_kit.key_ring import TenantShredded
from aios_kit.logs import Log
from aios_proto.errors import BusUnavailable
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore

_AT_ONCE = 4
_TOGETHER = 32
_LARGE_BYTES = 32 << 10
_RETRY_S = 1.0
_ATTEMPTS = 20
# `c` and `u` are gone by themselves, `k` and `r` are no sealed records.
_KINDS = ("h", "v", "b", "g", "m")


class Rewrapping:
    """Brings the objects of tenants under their current keys.

    Args:
        store: where the objects are.
        start: runs one of these tasks in the background, under a name.
        log: for what goes wrong.
    """

    def __init__(self, store: SealedStore, start: Callable[[Coroutine[None, None, None], str], None], log: Log) -> None:
        self._store = store
        self._start = start
        self._log = log
        self._behind: dict[str, int] = {}

    def running(self, tenant: str) -> bool:
        """Whether the tenant's objects are being rewrapped."""
        return tenant in self._behind

    def behind(self, tenant: str) -> int:
        """Objects still under older keys, as last counted."""
        return self._behind.get(tenant, 0)

    def begin(self, tenant: str) -> None:
        """Rewraps all of a tenant's objects in the background, unless that is being done."""
        if tenant not in self._behind:
            self._behind[tenant] = 0
            self._start(self._rewrap(tenant), f"rewrap {tenant}")

    async def resume(self, tenant: str) -> None:
        """Goes on where an earlier process stopped."""
        keys = await self._store.ring.describe(tenant)
        if keys.destroyed or keys.current <= 1:
            return
        done = (await self._store.store.get(f"{tenant}.r")).value
        if done is None or int(done) < keys.current:
            self.begin(tenant)

    async def _rewrap(self, tenant: str) -> None:
        try:
            while True:
                current = (await self._store.ring.describe(tenant)).current
                try:
                    await self._all(tenant)
                except BusUnavailable:
                    await asyncio.sleep(_RETRY_S)
                    continue
                if (await self._store.ring.describe(tenant)).current == current:
                    await self._store.store.commit([Change(f"{tenant}.r", str(current).encode(), None)])
                    return
        except TenantShredded:
            return
        except Exception:
            self._log.exception("a tenant's objects could not be brought under the new key", tenant=tenant)
        finally:
            self._behind.pop(tenant, None)

    async def _all(self, tenant: str) -> None:
        keys = [key for kind in _KINDS for key in await self._store.store.keys(f"{tenant}.{kind}.>")]
        self._behind[tenant] = len(keys)
        waiting = iter(keys)

        async def work() -> None:
            while some := list(islice(waiting, _TOGETHER)):
                await self._together(tenant, some)
                self._behind[tenant] -= len(some)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())
        await self._index_key(tenant)

    async def _together(self, tenant: str, keys: list[str]) -> None:
        """Rewraps some objects in one commit, which costs the disk no more than one of them would."""
        changes: list[Change] = []
        for key, found in zip(keys, await asyncio.gather(*map(self._store.store.get, keys)), strict=True):
            again = None if found.value is None else await self._store.envelope.rewrap(tenant, found.value)
            if again is not None and len(again) > _LARGE_BYTES:
                await self._one(tenant, key)
            elif again is not None:
                changes.append(Change(key, again, found.revision))
        try:
            if changes:
                await self._store.store.commit(changes)
        except Outdated:
            for change in changes:
                await self._one(tenant, change.key)

    async def _one(self, tenant: str, key: str) -> None:
        for _ in range(_ATTEMPTS):
            found = await self._store.store.get(key)
            if found.value is None:
                return
            again = await self._store.envelope.rewrap(tenant, found.value)
            if again is None:
                return
            try:
                await self._store.store.commit([Change(key, again, found.revision)])
            except Outdated:
                continue  # somebody wrote it anew: under the new key, or it is our turn again
            return
        self._log.warning("an object keeps changing; it stays under its key until the next rotation", key=key)

    async def _index_key(self, tenant: str) -> None:
        key = f"{tenant}.k"
        found = await self._store.store.get(key)
        if found.value is None:
            return
        version = int.from_bytes(found.value[:4])
        again = await self._store.ring.rewrap(tenant, version, found.value[4:])
        if again.version != version:
            await self._store.store.commit([Change(key, again.version.to_bytes(4) + again.wrapped, found.revision)])
