"""Which host folders an agent has mounted, and its calls to files below them; the operator decides which may be."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import orjson

from aios_proto.errors import AccessDenied, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.messages.storage import FileInfo, FilesResult, MountInfo, MountRequest, MountsResult
from aios_storage.adapters.jail import HostFile, Jail
from aios_storage.commits import Caller
from aios_storage.core.pages import Page
from aios_storage.core.paths import Mounted
from aios_storage.ports import Outdated
from aios_storage.sealed_store import SealedStore
from aios_storage.settings import MountRoot

MAX_MOUNTS = 64
_ATTEMPTS = 16


class Mounts:
    """The mounts of all agents.

    Args:
        store: where they are kept.
        roots: what may be mounted, by whom.
    """

    def __init__(self, store: SealedStore, roots: list[MountRoot]) -> None:
        self._store = store
        self._roots = roots

    async def mount(self, caller: Caller, request: MountRequest) -> MountsResult:
        """Adds a mount, or changes the one of that name.

        Raises:
            AccessDenied: the operator has not allowed this folder, or not to be written.
        """
        path = await asyncio.to_thread(self._allowed_folder, caller, request.host_path, writable=request.writable)
        made = MountInfo(mount=request.mount, host_path=str(path), writable=request.writable)

        def with_it(mounts: dict[str, MountInfo]) -> dict[str, MountInfo]:
            return {**mounts, request.mount: made}

        return await self._change(caller, with_it)

    async def unmount(self, caller: Caller, mount: str) -> MountsResult:
        """Takes a mount away; the folder stays as it is."""
        return await self._change(caller, lambda mounts: {name: one for name, one in mounts.items() if name != mount})

    async def read(self, caller: Caller, place: Mounted, offset: int, length: int) -> tuple[FileInfo, bytes]:
        """See `Jail.read`."""
        jail = await self._jail(caller, place.mount)
        about, data = await asyncio.to_thread(jail.read, place.path, offset, length)
        return _info(place, about), data

    async def write(self, caller: Caller, place: Mounted, data: bytes, expect_version: int | None) -> FileInfo:
        """See `Jail.write`."""
        if expect_version is not None:
            raise InvalidRequest("files of a mount have no versions", field="expect_version")
        jail = await self._jail(caller, place.mount)
        return _info(place, await asyncio.to_thread(jail.write, place.path, data))

    async def delete(self, caller: Caller, place: Mounted) -> FileInfo:
        """See `Jail.delete`."""
        jail = await self._jail(caller, place.mount)
        about = await asyncio.to_thread(jail.delete, place.path)
        return _info(place, about).model_copy(update={"deleted": True})

    async def move(self, caller: Caller, source: Mounted, target: Mounted, *, overwrite: bool) -> FileInfo:
        """See `Jail.move`; within one mount."""
        if source.mount != target.mount:
            raise InvalidRequest("a file is not moved from one mount to another", field="target")
        jail = await self._jail(caller, source.mount)
        about = await asyncio.to_thread(jail.move, source.path, target.path, overwrite=overwrite)
        return _info(target, about)

    async def list(self, caller: Caller, folder: Mounted, limit: int, cursor: str | None) -> FilesResult:
        """The files at and below a folder of a mount."""
        jail = await self._jail(caller, folder.mount)

        def look() -> FilesResult:
            page, last = Page(limit), ""
            for one in jail.walk(folder.path):
                if cursor is not None and one.path <= cursor:
                    continue
                if not page.add(_info(Mounted(folder.mount, one.path), one)):
                    return FilesResult(files=page.files, cursor=last)
                last = one.path
            return FilesResult(files=page.files)

        return await asyncio.to_thread(look)

    async def _jail(self, caller: Caller, mount: str) -> Jail:
        mounts, _ = await self._mounts(caller)
        found = mounts.get(mount)
        if found is None:
            raise ResourceNotFound(f"you have no mount {mount}", field="path")
        # The operator may have changed his mind since.
        path = await asyncio.to_thread(self._allowed_folder, caller, found.host_path, writable=found.writable)
        return Jail(path, writable=found.writable)

    def _allowed_folder(self, caller: Caller, host_path: str, *, writable: bool) -> Path:
        try:
            wanted = Path(host_path)
            path = wanted.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            path = None
        for root in self._roots:
            if caller.tenant not in root.tenants and "*" not in root.tenants:
                continue
            if path is not None and wanted.is_absolute() and path.is_dir() and path.is_relative_to(root.path.resolve()):
                if writable and not root.writable:
                    raise AccessDenied("the operator allows this folder to be mounted read-only", field="writable")
                return path
        # The same answer whether the folder exists or not.
        raise AccessDenied("the operator has not allowed this folder to be mounted", field="host_path")

    async def _mounts(self, caller: Caller) -> tuple[dict[str, MountInfo], int]:
        found = await self._store.get(caller.tenant, f"m.{caller.agent}")
        if found.value is None:
            return {}, found.revision
        stored = [MountInfo.model_validate(one) for one in orjson.loads(found.value)]
        return {one.mount: one for one in stored}, found.revision

    async def _change(
        self, caller: Caller, change: Callable[[dict[str, MountInfo]], dict[str, MountInfo]]
    ) -> MountsResult:
        for _ in range(_ATTEMPTS):
            mounts, revision = await self._mounts(caller)
            after = change(mounts)
            if len(after) > MAX_MOUNTS:
                raise ResourceConflict(f"an agent has at most {MAX_MOUNTS} mounts", field="mount")
            data = orjson.dumps([one.model_dump() for one in after.values()])
            try:
                await self._store.store.commit(
                    [await self._store.change(caller.tenant, f"m.{caller.agent}", data, revision)]
                )
            except Outdated:
                continue
            return MountsResult(mounts=list(after.values()))
        raise ResourceConflict("others keep changing the same mounts", retryable=True, retry_after_s=1)


def _info(place: Mounted, about: HostFile) -> FileInfo:
    return FileInfo(path=place.shown, version=0, size_bytes=about.size_bytes, sha256="", modified_ms=about.modified_ms)
