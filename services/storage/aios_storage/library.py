"""What becomes of a call to an agent's files: who may, what changes, and all of it committed at once, once a call.

A commit makes the new version, the head that names it and what the call came to appear together (`aios_storage.commits`
says how). It is refused where anything it was based on has changed meanwhile; then it is decided anew. A call sent
again finds what it came to.
"""

import time
from collections.abc import Callable

from aios_proto.errors import AccessDenied, ResourceConflict, ResourceNotFound
from aios_proto.ids import new_syscall_id
from aios_proto.messages.storage import FileInfo, FilesResult, Right, SharesResult
from aios_storage.bodies import Bodies
from aios_storage.commits import Ahead, AlreadyMade, Caller, Commits, Found, Listener, Plan
from aios_storage.core import files
from aios_storage.core.catalogue import Catalogue
from aios_storage.core.grants import MAX_GRANTS, Grants, Wish
from aios_storage.core.pages import Page
from aios_storage.core.paths import Home
from aios_storage.core.records import (
    Content,
    Head,
    Version,
    decode_head,
    decode_version,
    encode_version,
    info,
)
from aios_storage.ports import Change
from aios_storage.sealed_store import SealedStore

_MAX_VERSIONS = 10_000


class Library:
    """The files of all agents.

    Args:
        store: where records go.
        bodies: where bytes go.
        catalogue: is told of every change made here.
        changed: called with the tenant and a file before and after each change made here.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        store: SealedStore,
        bodies: Bodies,
        catalogue: Catalogue,
        changed: Listener,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._catalogue = catalogue
        self._commits = Commits(store, catalogue, changed)
        self._clock = clock

    async def write(self, caller: Caller, place: Home, content: Content, ahead: Ahead, expect: int | None) -> FileInfo:
        """A new version of a file.

        Args:
            caller: who writes.
            place: the file.
            content: what it holds from now on.
            ahead: stores what it holds.
            expect: see `WriteRequest.expect_version`.
        """
        await self._allow(caller, place, "write")
        fresh_file = new_syscall_id()

        async def plan(*, fresh: bool) -> Plan:
            found = await self._find_to_change(caller, place, fresh=fresh)
            head = files.written(found.head, place.path, fresh_file, content, caller.agent, self._now_ms(), expect)
            return _new_version(caller, place, found, head)

        return await self._commits.once(caller, "write", FileInfo, plan, ahead)

    async def close(self) -> None:
        """Ends what runs on after calls."""
        await self._commits.close()

    async def delete(self, caller: Caller, place: Home, expect: int | None) -> FileInfo:
        """A version that says that the file is gone."""
        await self._allow(caller, place, "write")

        async def plan(*, fresh: bool) -> Plan:
            found = await self._find_to_change(caller, place, fresh=fresh)
            head = files.deleted(found.head, caller.agent, self._now_ms(), expect)
            return _new_version(caller, place, found, head)

        return await self._commits.once(caller, "delete", FileInfo, plan)

    async def purge(self, caller: Caller, place: Home, expect: int | None) -> FileInfo:
        """Removes a file with all its versions. The owner's right alone."""
        if place.owner != caller.agent:
            raise AccessDenied("only its owner may purge a file", field="path")

        async def plan(*, fresh: bool) -> Plan:
            found = await self._find_to_change(caller, place, fresh=True)
            if found.head is None:
                raise ResourceNotFound("there is no such file", field="path")
            if expect is not None and found.head.newest.number != expect:
                raise ResourceConflict(f"version {found.head.newest.number} is the newest", field="expect_version")
            shares = await self._regranted(caller.tenant, place.owner, lambda grants: grants.without(place.path))
            gone = info(found.head.newest, place.shown_to(caller.agent)).model_copy(update={"deleted": True})
            return Plan(gone, ((place.owner, found, None),), shares)

        before = await self._find(caller.tenant, place, fresh=True)
        result = await self._commits.once(caller, "purge", FileInfo, plan)
        if before.head is not None:
            history = f"{caller.tenant}.v.{before.head.file}"
            await self._store.store.purge(f"{history}.*")
            # Another replica may be about to write down what the newest head said: its key is not to be new again.
            await self._store.store.commit([Change(f"{history}.{before.head.newest.number}", None, None)])
        return result

    async def rollback(self, caller: Caller, place: Home, version: int) -> FileInfo:
        """An older version as the newest one."""
        await self._allow(caller, place, "write")

        async def plan(*, fresh: bool) -> Plan:
            found = await self._find_to_change(caller, place, fresh=fresh)
            old = None if found.head is None else await self._version(caller.tenant, found.head, version)
            head = files.rolled_back(found.head, old, caller.agent, self._now_ms())
            return _new_version(caller, place, found, head)

        return await self._commits.once(caller, "rollback", FileInfo, plan)

    async def move(self, caller: Caller, source: Home, target: Home, *, overwrite: bool) -> FileInfo:
        """A file at another path, in one step."""
        await self._allow(caller, source, "write", "source")
        await self._allow(caller, target, "write", "target")

        async def plan(*, fresh: bool) -> Plan:
            old = await self._find_to_change(caller, source, fresh=fresh)
            if source == target:
                return Plan(info(files.present(old.head, "source").newest, target.shown_to(caller.agent)))
            new = await self._find_to_change(caller, target, fresh=fresh)
            made = files.moved(old.head, new.head, target.path, caller.agent, self._now_ms(), overwrite=overwrite)
            changes: list[Change] = []
            if made.source is not None:
                changes += [await self._version_change(caller.tenant, made.source)]
                changes += [await self._version_change(caller.tenant, made.target)]
            changes += await self._grants_after_move(caller.tenant, source, target)
            heads = ((source.owner, old, made.source), (target.owner, new, made.target))
            return Plan(info(made.target.newest, target.shown_to(caller.agent)), heads, tuple(changes))

        return await self._commits.once(caller, "move", FileInfo, plan)

    async def open(self, caller: Caller, place: Home, version: int | None) -> tuple[Version, FileInfo]:
        """A version to be read; the newest one unless another is asked for.

        Raises:
            ResourceNotFound: there is none, or it says that the file is gone.
        """
        await self._allow(caller, place, "read")
        found = await self._find(caller.tenant, place, fresh=True)
        if version is None:
            chosen = files.present(found.head).newest
        else:
            if found.head is None:
                raise ResourceNotFound("there is no such file", field="path")
            old = await self._version(caller.tenant, found.head, version)
            if old is None or old.content is None:
                raise ResourceNotFound("there is no content of that version", field="version")
            chosen = old
        return chosen, info(chosen, place.shown_to(caller.agent))

    async def versions(self, caller: Caller, place: Home, version: int | None) -> FilesResult:
        """All versions of a file, or one; the newest first, as many as an answer holds; also of a deleted file."""
        await self._allow(caller, place, "read")
        found = await self._find(caller.tenant, place, fresh=True)
        if found.head is None:
            raise ResourceNotFound("there is no such file", field="path")
        shown = place.shown_to(caller.agent)
        # The newest may have no record of its own yet; one that a later head has made meanwhile comes along.
        versions = {found.head.newest.number: found.head.newest}
        async for _, record in self._store.scan(caller.tenant, f"v.{found.head.file}.*"):
            one = decode_version(record)
            versions[one.number] = one
        page = Page(_MAX_VERSIONS)
        for one in sorted(versions.values(), key=lambda one: -one.number):
            if version is not None and one.number != version:
                continue
            if not page.add(info(one, shown)):
                break
        return FilesResult(files=page.files)

    async def list(self, caller: Caller, folder: Home, limit: int, cursor: str | None) -> FilesResult:
        """What lies below a folder: all of it for its owner, else what is shared."""
        await self._store.check(caller.tenant)
        visible = await self.visible(caller, folder.owner)
        page = Page(limit)
        last = ""
        for known in self._catalogue.below(caller.tenant, folder.owner, folder.path, cursor or ""):
            if visible is not None and not visible.allow(caller.agent, known.head.path, "read"):
                continue
            if not page.add(info(known.head.newest, Home(folder.owner, known.head.path).shown_to(caller.agent))):
                return FilesResult(files=page.files, cursor=last)
            last = known.head.path
        return FilesResult(files=page.files)

    async def visible(self, caller: Caller, owner: str) -> Grants | None:
        """By which grants the caller sees an owner's files; None where they are its own."""
        if owner == caller.agent:
            return None
        return (await self._grants(caller.tenant, owner))[0]

    async def share(self, caller: Caller, place: Home, agent: str, wish: Wish) -> SharesResult:
        """A grant given, changed or taken back by the owner."""
        if place.owner != caller.agent:
            raise AccessDenied("only its owner may share a file", field="path")

        async def plan(*, fresh: bool) -> Plan:
            grants, revision = await self._grants(caller.tenant, caller.agent)
            after = grants.changed(place.path, agent, wish)
            if len(after.given) > MAX_GRANTS:
                raise ResourceConflict(f"an agent gives at most {MAX_GRANTS} grants", field="path")
            change = await self._store.change(caller.tenant, f"g.{caller.agent}", after.encode(), revision)
            return Plan(SharesResult(grants=after.shown()), changes=(change,))

        return await self._commits.once(caller, "share", SharesResult, plan)

    async def shares(self, caller: Caller) -> SharesResult:
        """The caller's grants."""
        return SharesResult(grants=(await self._grants(caller.tenant, caller.agent))[0].shown())

    # Inside.

    async def _allow(self, caller: Caller, place: Home, right: Right, field: str = "path") -> None:
        if place.owner == caller.agent:
            return
        grants, _ = await self._grants(caller.tenant, place.owner)
        if not grants.allow(caller.agent, place.path, right):
            # Without any grant nobody learns whether the file is there.
            raise AccessDenied(f"{place.owner} has not granted you to {right} this", field=field)

    async def _grants(self, tenant: str, owner: str) -> tuple[Grants, int]:
        found = await self._store.get(tenant, f"g.{owner}")
        return (Grants() if found.value is None else Grants.decode(found.value)), found.revision

    async def _regranted(self, tenant: str, owner: str, change: Callable[[Grants], Grants]) -> tuple[Change, ...]:
        grants, revision = await self._grants(tenant, owner)
        after = change(grants)
        if after == grants:
            return ()
        return (await self._store.change(tenant, f"g.{owner}", after.encode(), revision),)

    async def _grants_after_move(self, tenant: str, source: Home, target: Home) -> tuple[Change, ...]:
        if source.owner == target.owner:
            return await self._regranted(tenant, source.owner, lambda grants: grants.moved(source.path, target.path))
        return await self._regranted(tenant, source.owner, lambda grants: grants.without(source.path))

    async def _find(self, tenant: str, place: Home, *, fresh: bool) -> Found:
        key = await self._store.head_key(tenant, place.owner, place.path)
        if not fresh and (known := self._catalogue.by_key(tenant, key)) is not None:
            return Found(key, known.head, known.revision)
        found = await self._store.get(tenant, key)
        return Found(key, None if found.value is None else decode_head(found.value), found.revision)

    async def _find_to_change(self, caller: Caller, place: Home, *, fresh: bool) -> Found:
        """As `_find`.

        Raises:
            AlreadyMade: this call has changed it already.
        """
        found = await self._find(caller.tenant, place, fresh=fresh)
        made = None if found.head is None else found.head.made
        if found.head is not None and made is not None and (made.agent, made.call_id) == (caller.agent, caller.call_id):
            raise AlreadyMade(made, found.head)
        return found

    async def _version(self, tenant: str, head: Head, number: int) -> Version | None:
        if number == head.newest.number:
            return head.newest
        found = await self._store.fetch(tenant, f"v.{head.file}.{number}")
        return None if found is None else decode_version(found)

    async def _version_change(self, tenant: str, head: Head) -> Change:
        key = f"v.{head.file}.{head.newest.number}"
        return await self._store.change(tenant, key, encode_version(head.newest), 0)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _new_version(caller: Caller, place: Home, found: Found, head: Head) -> Plan:
    return Plan(info(head.newest, place.shown_to(caller.agent)), ((place.owner, found, head),))
