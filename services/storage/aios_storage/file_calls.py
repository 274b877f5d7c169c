"""The system calls on files: what a request means, which road it takes (home or mount), and what is answered."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import TypeVar

from aios_kit.service import Call, Service
from aios_proto.errors import InvalidRequest, QuotaExhausted
from aios_proto.ids import new_syscall_id
from aios_proto.messages.base import Body
from aios_proto.messages.storage import (
    DeleteRequest,
    FileInfo,
    FilesResult,
    ListRequest,
    MountRequest,
    MountsResult,
    MoveRequest,
    PathRequest,
    ReadRequest,
    ReadResult,
    RollbackRequest,
    ShareRequest,
    SharesRequest,
    SharesResult,
    UnmountRequest,
    UploadRequest,
    UploadResult,
    WriteRequest,
)
from aios_storage.bodies import Bodies
from aios_storage.commits import Ahead, Caller
from aios_storage.core.paths import Home, Mounted, Place, file_place, folder_place
from aios_storage.core.records import Content
from aios_storage.library import Library
from aios_storage.mounts import Mounts

B = TypeVar("B", bound=Body)


class FileCalls:
    """The handlers of these calls.

    Args:
        library: agents' own files.
        bodies: their bytes.
        mounts: host folders.
        stored_bytes: of a tenant's newest versions.
        quota_bytes: how many those may be; 0 for no limit.
    """

    def __init__(
        self,
        library: Library,
        bodies: Bodies,
        mounts: Mounts,
        stored_bytes: Callable[[str], int],
        quota_bytes: int,
    ) -> None:
        self._library = library
        self._bodies = bodies
        self._mounts = mounts
        self._stored_bytes = stored_bytes
        self._quota_bytes = quota_bytes

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        service.serve("storage", "write", self._write)
        service.serve("storage", "upload", self._upload)
        service.serve("storage", "read", self._read)
        service.serve("storage", "list", self._list)
        service.serve("storage", "delete", self._delete)
        service.serve("storage", "move", self._move)
        service.serve("storage", "versions", self._versions)
        service.serve("storage", "rollback", self._rollback)
        service.serve("storage", "share", self._share)
        service.serve("storage", "shares", self._shares)
        service.serve("storage", "mount", self._mount)
        service.serve("storage", "unmount", self._unmount)

    async def _write(self, call: Call[WriteRequest]) -> FileInfo:
        caller, body = caller_of(call), call.body
        place = file_place(caller.agent, body.path)
        if isinstance(place, Mounted):
            return await self._mounts.write(caller, place, self._whole(body), body.expect_version)
        content, parts = await self._content(caller, body)
        if self._quota_bytes and self._stored_bytes(caller.tenant) + content.size_bytes > self._quota_bytes:
            raise QuotaExhausted(f"the tenant may store {self._quota_bytes} bytes", retryable=False, field="path")
        return await self._library.write(caller, place, content, parts, body.expect_version)

    async def _content(self, caller: Caller, body: WriteRequest) -> tuple[Content, Ahead]:
        if body.upload is not None:
            blob = f"{caller.agent}.{body.upload}"
            content = await self._bodies.uploaded(caller.tenant, blob, body.parts, body.sha256 or "")
            return content, self._bodies.claim(caller.tenant, blob, f"{caller.agent}.{caller.call_id}")
        content, parts = await self._bodies.small(
            caller.tenant, f"{caller.agent}.{new_syscall_id()}", self._whole(body)
        )
        if body.sha256 is not None and body.sha256 != content.sha256:
            raise InvalidRequest("the content has another SHA-256", field="sha256")
        return content, parts

    def _whole(self, body: WriteRequest) -> bytes:
        if body.upload is not None:
            raise InvalidRequest("a file of a mount is written in one call", field="upload")
        return body.text.encode() if body.text is not None else _decoded(body.base64 or "")

    async def _upload(self, call: Call[UploadRequest]) -> UploadResult:
        caller, body = caller_of(call), call.body
        data = _decoded(body.base64)
        blob = f"{caller.agent}.{body.upload}"
        await self._bodies.put_part(caller.tenant, blob, body.part, data, last=body.last)
        return UploadResult(upload=body.upload, part=body.part, size_bytes=len(data))

    async def _read(self, call: Call[ReadRequest]) -> ReadResult:
        caller, body = caller_of(call), call.body
        place = file_place(caller.agent, body.path)
        if isinstance(place, Mounted):
            _no_version(body.version)
            about, data = await self._mounts.read(caller, place, body.offset, body.length)
        else:
            version, about = await self._library.open(caller, place, body.version)
            data = b""
            if version.content is not None:
                data = await self._bodies.read(caller.tenant, version.content, body.offset, body.length)
        end = body.offset + len(data)
        text = _as_text(data)
        return ReadResult(
            **about.model_dump(),
            offset=body.offset,
            next_offset=end if end < about.size_bytes and data else None,
            text=text,
            base64=None if text is not None else b64encode(data).decode(),
        )

    async def _list(self, call: Call[ListRequest]) -> FilesResult:
        caller, body = caller_of(call), call.body
        folder = folder_place(caller.agent, body.prefix)
        if isinstance(folder, Mounted):
            return await self._mounts.list(caller, folder, body.limit, body.cursor)
        return await self._library.list(caller, folder, body.limit, body.cursor)

    async def _delete(self, call: Call[DeleteRequest]) -> FileInfo:
        caller, body = caller_of(call), call.body
        place = file_place(caller.agent, body.path)
        if isinstance(place, Mounted):
            _no_version(body.expect_version)
            return await self._mounts.delete(caller, place)
        if body.purge:
            return await self._library.purge(caller, place, body.expect_version)
        return await self._library.delete(caller, place, body.expect_version)

    async def _move(self, call: Call[MoveRequest]) -> FileInfo:
        caller, body = caller_of(call), call.body
        source = file_place(caller.agent, body.source, "source")
        target = file_place(caller.agent, body.target, "target")
        if isinstance(source, Home) and isinstance(target, Home):
            return await self._library.move(caller, source, target, overwrite=body.overwrite)
        if isinstance(source, Mounted) and isinstance(target, Mounted):
            return await self._mounts.move(caller, source, target, overwrite=body.overwrite)
        raise InvalidRequest("a file is not moved into or out of a mount: read it and write it", field="target")

    async def _versions(self, call: Call[PathRequest]) -> FilesResult:
        caller = caller_of(call)
        place = _home(file_place(caller.agent, call.body.path))
        return await self._library.versions(caller, place, call.body.version)

    async def _rollback(self, call: Call[RollbackRequest]) -> FileInfo:
        caller = caller_of(call)
        place = _home(file_place(caller.agent, call.body.path))
        return await self._library.rollback(caller, place, call.body.version)

    async def _share(self, call: Call[ShareRequest]) -> SharesResult:
        caller, body = caller_of(call), call.body
        place = _home(file_place(caller.agent, body.path.removesuffix("/")))
        if body.agent == caller.agent:
            raise InvalidRequest("agent: your files are yours already", field="agent")
        return await self._library.share(caller, place, body.agent, body.right)

    async def _shares(self, call: Call[SharesRequest]) -> SharesResult:
        return await self._library.shares(caller_of(call))

    async def _mount(self, call: Call[MountRequest]) -> MountsResult:
        return await self._mounts.mount(caller_of(call), call.body)

    async def _unmount(self, call: Call[UnmountRequest]) -> MountsResult:
        return await self._mounts.unmount(caller_of(call), call.body.mount)


def caller_of(call: Call[B]) -> Caller:
    """Whose call it is."""
    return Caller(call.headers.tenant, call.headers.agent, call.headers.id)


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("base64: this is not base64", field="base64") from error


def _as_text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _home(place: Place) -> Home:
    if isinstance(place, Mounted):
        raise InvalidRequest("files of a mount have no versions and no grants", field="path")
    return place


def _no_version(version: int | None) -> None:
    if version is not None:
        raise InvalidRequest("files of a mount have no versions", field="version")
