"""Which owners' notes are in memory: loaded from the store at the first use, the idlest let go of beyond a number."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from aios_kit.tasks import Tasks
from aios_memory.core.note import Note, Owner
from aios_memory.core.space import Limits, Space
from aios_memory.ports import RecordStore

Loaded = Callable[[Space], Awaitable[None]]


class Spaces:
    """The spaces of this process.

    Args:
        store: the source of truth.
        limits: of each owner.
        most: how many are kept.
        loaders: where loads run; a caller that gives up does not end a load others wait for.
        loaded: awaited with each space that was loaded, before it is used.
        ready: called when it can be used.
        stamp: of a tenant's keys; when it changes, what was decrypted before is not believed any more.
        keys_seen: called with a tenant that is seen first, or whose keys have changed.
        keys_there: raises TenantShredded for a tenant whose keys were destroyed; awaited before its notes are loaded.
    """

    def __init__(
        self,
        store: RecordStore,
        limits: Limits,
        most: int,
        loaders: Tasks,
        loaded: Loaded,
        ready: Callable[[Space], None],
        stamp: Callable[[str], Hashable],
        keys_seen: Callable[[str], None],
        keys_there: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._limits = limits
        self._most = most
        self._loaders = loaders
        self._loaded = loaded
        self._ready = ready
        self._stamp = stamp
        self._keys_seen = keys_seen
        self._keys_there = keys_there
        self._stamps: dict[str, Hashable] = {}
        self._spaces: OrderedDict[str, Space] = OrderedDict()
        self._stale: set[str] = set()
        self._loading: dict[str, asyncio.Future[Space]] = {}

    def __len__(self) -> int:
        return len(self._spaces)

    async def open(self, owner: Owner) -> Space:
        """The space of an owner.

        Raises:
            BusUnavailable: the store cannot be reached.
            TenantShredded: the tenant's keys were destroyed.
        """
        self.check_keys(owner.tenant)
        space = self._spaces.get(owner.key)
        if space is not None:
            self._spaces.move_to_end(owner.key)
            return space
        loading = self._loading.get(owner.key)
        if loading is None:
            loading = self._loading[owner.key] = asyncio.get_running_loop().create_future()
            loading.add_done_callback(_seen)
            await self._loaders.start(self._load(owner, loading), f"load {owner.key}")
        return await asyncio.shield(loading)

    def loaded(self, owner: Owner) -> Space | None:
        """The space of an owner if it is in memory."""
        return self._spaces.get(owner.key)

    def forget(self, owner: Owner) -> None:
        """What is in memory may not be what is stored: it is loaded again at the next use, or if it is being loaded."""
        self._spaces.pop(owner.key, None)
        if owner.key in self._loading:
            self._stale.add(owner.key)

    def written(self, space: Space) -> None:
        """Something was written for this space: whoever loaded the same notes meanwhile may have missed it."""
        if self._spaces.get(space.owner.key) is not space:
            self.forget(space.owner)

    def all(self) -> list[Space]:
        """Those in memory."""
        return list(self._spaces.values())

    def check_keys(self, tenant: str) -> None:
        """Lets go of what is in memory of a tenant whose keys have changed."""
        stamp = self._stamp(tenant)
        if tenant in self._stamps and self._stamps[tenant] == stamp:
            return
        first = self._stamps.get(tenant) is None
        self._stamps[tenant] = stamp
        if stamp is None:
            return  # it has no keys yet, and so no records
        self._keys_seen(tenant)
        if first:
            return
        for space in list(self._spaces.values()):
            if space.owner.tenant == tenant:
                self.forget(space.owner)

    async def _load(self, owner: Owner, done: "asyncio.Future[Space]") -> None:
        try:
            while True:
                self._stale.discard(owner.key)
                await self._keys_there(owner.tenant)
                space = Space(owner, self._limits)
                for stored in await self._store.below(owner.tenant, owner.notes_key):
                    space.put(Note.decoded(stored.content), stored.revision, len(stored.content))
                await self._loaded(space)
                if owner.key not in self._stale:
                    break
            self._spaces[owner.key] = space
            self._ready(space)
            self._make_room()
        except BaseException as error:
            if not done.done():
                done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
        else:
            if not done.done():
                done.set_result(space)
        finally:
            self._loading.pop(owner.key, None)

    def _make_room(self) -> None:
        for key in list(self._spaces):
            if len(self._spaces) <= self._most:
                return
            # One with notes still to be embedded stays: nobody else knows of them until it is loaded again.
            if not self._spaces[key].unembedded:
                del self._spaces[key]


def _seen(future: "asyncio.Future[Space]") -> None:
    """Takes note of a failure nobody waits for any more."""
    if not future.cancelled():
        future.exception()
