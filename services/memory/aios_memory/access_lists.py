"""Who may use whose notes: the lists as they are stored, and the check every operation begins with."""

from collections.abc import Callable
from typing import Final

from aios_memory.core.note import Owner
from aios_memory.core.sharing import Right, Sharing, check
from aios_memory.ports import RecordStore
from aios_proto.errors import ResourceConflict
from aios_proto.headers import CallHeaders

_ATTEMPTS: Final = 5


class AccessLists:
    """The access lists of pools and of agents' own notes.

    Args:
        store: where they are stored.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._sharing: dict[str, tuple[Sharing, int]] = {}

    async def reach(self, headers: CallHeaders, right: Right, *, pool: str | None, agent: str | None = None) -> Owner:
        """The owner a call means, once it is clear that the caller may.

        Raises:
            AccessDenied: it may not, or there is no such pool.
        """
        if pool is not None:
            owner = Owner(headers.tenant, "pool", pool)
        else:
            owner = Owner(headers.tenant, "agent", agent or headers.agent)
        if owner.kind == "agent" and owner.name == headers.agent:
            return owner
        check(owner, await self.sharing(owner), headers.agent, right)
        return owner

    async def sharing(self, owner: Owner) -> Sharing | None:
        """Who else may use an owner's notes; None where nothing was ever said."""
        known = self._sharing.get(owner.key)
        if known is None:
            stored = await self._store.get(owner.tenant, owner.access_key)
            if stored is None:
                return None
            known = self._sharing[owner.key] = (Sharing.decoded(stored.content), stored.revision)
        return known[0]

    async def found_pool(self, owner: Owner, sharing: Sharing) -> Sharing:
        """Makes a pool; the same call again finds it made.

        Raises:
            ResourceConflict: there is one of that name.
        """
        revision = await self._store.create(owner.tenant, owner.access_key, sharing.encoded())
        if revision is None:
            self._sharing.pop(owner.key, None)
            existing = await self.sharing(owner)
            if existing != sharing:
                raise ResourceConflict(f"there is a pool {owner.name}", field="pool")
            return existing
        self._sharing[owner.key] = (sharing, revision)
        return sharing

    async def share(self, owner: Owner, change: Callable[[Sharing], Sharing], *, master: str) -> Sharing:
        """Changes the lists of an owner; an agent's own are made where there are none.

        Raises:
            ResourceConflict: others change them all the time.
        """
        for _ in range(_ATTEMPTS):
            current = await self.sharing(owner)
            changed = change(current or Sharing(master))
            if changed == current:
                return changed
            if current is None:
                revision = await self._store.create(owner.tenant, owner.access_key, changed.encoded())
            else:
                known = self._sharing[owner.key][1]
                revision = await self._store.replace(owner.tenant, owner.access_key, changed.encoded(), known)
            if revision is not None:
                self._sharing[owner.key] = (changed, revision)
                return changed
            self._sharing.pop(owner.key, None)
        raise ResourceConflict("the access lists are changed by others at the same time")

    async def pools(self, tenant: str, agent: str) -> list[tuple[str, Sharing]]:
        """The pools an agent can read, by name."""
        found = []
        for key in await self._store.keys_below(f"{tenant}.pool"):
            _, _, name, kind, *_ = key.split(".")
            if kind != "access":
                continue
            sharing = await self.sharing(Owner(tenant, "pool", name))
            if sharing is not None and sharing.allows(agent, "read"):
                found.append((name, sharing))
        return sorted(found)
