"""How records are sealed on their way to the store: each under its tenant's key, bound to the key it stands under.

| key | what stands there |
|---|---|
| `<tenant>.k` | the tenant's index key, wrapped; paths are hashed with it, so that no key tells a file's name |
| `<tenant>.h.<owner>.<path hash>` | head of a file |
| `<tenant>.v.<file>.<number>` | one version |
| `<tenant>.b.<agent>.<id>.<part>` | bytes of one version; an `e` ends the number of a last part that is short |
| `<tenant>.g.<owner>` | the owner's grants |
| `<tenant>.m.<owner>` | the owner's mounts |
| `<tenant>.u.<agent>.<id>` | who has an upload's parts: a file, or the sweep that removes them |
| `<tenant>.r` | the version of the tenant's key that everything here was brought under |
| `<tenant>.c.<agent>.<id>` | what a call came to, for ten minutes: the same call sent again is answered with it |
"""

import hashlib
import hmac
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass

from aios_kit.envelope import Envelope
from aios_kit.key_ring import KeyRing, Tampered
from aios_proto.messages.storage import PART_BYTES
from aios_storage.ports import Change, Entry, Outdated, Store

_HASH_HEX = 40


@dataclass(frozen=True, slots=True)
class Opened:
    """A record as it was stored: its value, or None; and the revision its key is at."""

    value: bytes | None
    revision: int


class SealedStore:
    """The store with everything in it sealed.

    Args:
        store: where the sealed records go.
        envelope: seals and opens them.
    """

    def __init__(self, store: Store, envelope: Envelope) -> None:
        self.store = store
        self.envelope = envelope
        self._index_keys: dict[str, tuple[Hashable, bytes]] = {}

    @property
    def ring(self) -> KeyRing:
        """The tenants' keys."""
        return self.envelope.ring

    async def get(self, tenant: str, key: str) -> Opened:
        """The newest record under `<tenant>.<key>`.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            BusUnavailable: the store cannot be reached.
        """
        found = await self.store.get(f"{tenant}.{key}")
        return Opened(await self._opened(tenant, key, found), found.revision)

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        """A record that never changes."""
        found = await self.store.fetch(f"{tenant}.{key}")
        return None if found is None else await self.envelope.open(tenant, key, found)

    async def change(
        self, tenant: str, key: str, value: bytes | None, revision: int | None, ttl_s: int | None = None
    ) -> Change:
        """A change for a commit; see `Change`."""
        sealed = None if value is None else await self.envelope.seal(tenant, key, value)
        return Change(f"{tenant}.{key}", sealed, revision, ttl_s)

    async def scan(self, tenant: str, pattern: str) -> AsyncIterator[tuple[str, bytes]]:
        """All present records of a pattern, without the tenant in their keys."""
        async for seen in self.store.scan(f"{tenant}.{pattern}"):
            key = seen.key.removeprefix(f"{tenant}.")
            yield key, await self.envelope.open(tenant, key, seen.value or b"")

    async def check(self, tenant: str) -> None:
        """Makes sure that the tenant's keys are there.

        Raises:
            TenantShredded: they were destroyed.
        """
        await self._index_key(tenant)

    async def head_key(self, tenant: str, owner: str, path: str) -> str:
        """Where the head of a file stands."""
        digest = hmac.new(await self._index_key(tenant), f"{owner}\0{path}".encode(), hashlib.sha256)
        return f"h.{owner}.{digest.hexdigest()[:_HASH_HEX]}"

    async def _opened(self, tenant: str, key: str, entry: Entry) -> bytes | None:
        return None if entry.value is None else await self.envelope.open(tenant, key, entry.value)

    async def _index_key(self, tenant: str) -> bytes:
        stamp = self.ring.stamp(tenant)
        known = self._index_keys.get(tenant)
        if known is not None and known[0] == stamp:
            return known[1]
        key = await self._stored_index_key(tenant)
        if key is None:
            fresh = await self.ring.data_key(tenant)
            try:
                await self.store.commit([Change(f"{tenant}.k", fresh.version.to_bytes(4) + fresh.wrapped, 0)])
            except Outdated:  # another replica was faster
                key = await self._stored_index_key(tenant)
            else:
                key = fresh.plain
        if key is None:
            raise Tampered(f"the index key of tenant {tenant} is gone")
        self._index_keys[tenant] = (stamp, key)
        return key

    async def _stored_index_key(self, tenant: str) -> bytes | None:
        found = (await self.store.get(f"{tenant}.k")).value
        return None if found is None else await self.ring.unwrap(tenant, int.from_bytes(found[:4]), found[4:])


def part_key(blob: str, part: int, size_bytes: int) -> str:
    """Where one part of a content stands."""
    return f"b.{blob}.{part}{'' if size_bytes == PART_BYTES else 'e'}"
