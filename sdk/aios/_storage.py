"""Files with versions: `agent.storage`."""

import asyncio
import hashlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal, Unpack

import orjson

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import result_of
from aios._request import CallOptions
from aios_proto.errors import InternalError, InvalidRequest
from aios_proto.frames import Done
from aios_proto.ids import new_syscall_id
from aios_proto.messages.storage import (
    PART_BYTES,
    FileInfo,
    FilesResult,
    Grant,
    InteractionsResult,
    MountInfo,
    MountsResult,
    ReadResult,
    SearchMode,
    SharesResult,
    UploadResult,
)

PARTS_AT_ONCE: Final = 4
"""Parts of a large file on their way at the same time; what a transfer holds in memory is this many times 512 KiB."""

# Control characters make a text up to six times longer as JSON; then it goes as bytes.
_TEXT_JSON_BYTES: Final = 900 << 10

# Inside the class `list` is an operation.
FileInfos = list[FileInfo]
GrantList = list[Grant]
MountInfos = list[MountInfo]

_info = result_of(FileInfo)
_files = result_of(FilesResult)
_read = result_of(ReadResult)
_upload = result_of(UploadResult)
_shares_result = result_of(SharesResult)
_mounts_result = result_of(MountsResult)
_interactions = result_of(InteractionsResult)


class Storage:
    """The files of one agent, and those others have granted it: `~bob/plan.md` is bob's `plan.md`.

    `write`, `read` and what streams are coroutines, because a large file takes several calls; everything else is one
    call, on its way when the method returns.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def write(
        self, path: str, content: str | bytes, *, expect_version: int | None = None, **options: Unpack[CallOptions]
    ) -> FileInfo:
        """Makes a new version of a file, of any size.

        Args:
            path: such as `notes/plan.md`.
            content: a text, stored as UTF-8, or bytes.
            expect_version: refuse unless this is the newest version; 0: unless there is no file.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: the path is none.
            ResourceConflict: another version is the newest.
            AccessDenied: the file is another agent's, who has not granted it.
        """
        data = _utf8(content) if isinstance(content, str) else content
        if isinstance(content, str) and len(data) <= PART_BYTES and len(orjson.dumps(content)) <= _TEXT_JSON_BYTES:
            return await self._write({"path": path, "text": content, "expect_version": expect_version}, options)
        if len(data) <= PART_BYTES:
            body = {"path": path, "base64": b64encode(data).decode(), "expect_version": expect_version}
            return await self._write(body, options)
        view = memoryview(data)

        async def pieces() -> AsyncIterator[bytes]:
            for begin in range(0, len(view), PART_BYTES):
                yield bytes(view[begin : begin + PART_BYTES])

        return await self.write_stream(path, pieces(), expect_version=expect_version, **options)

    async def write_file(
        self, path: str, local: str | Path, *, expect_version: int | None = None, **options: Unpack[CallOptions]
    ) -> FileInfo:
        """Stores a local file without holding it in memory; see `write`.

        Raises:
            OSError: the local file cannot be read.
        """
        with await asyncio.to_thread(open, local, "rb") as file:
            return await self.write_stream(path, _file_pieces(file), expect_version=expect_version, **options)

    async def write_stream(
        self,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        expect_version: int | None = None,
        **options: Unpack[CallOptions],
    ) -> FileInfo:
        """Stores what comes, in pieces of any size, without holding it all; one version, once all of it has come."""
        upload, digest, number = new_syscall_id(), hashlib.sha256(), 0
        rest = {key: value for key, value in options.items() if key != "id"}
        on_the_way: deque[Call[UploadResult]] = deque()

        async def send(data: bytes, *, last: bool) -> None:
            nonlocal number
            # In a thread: meanwhile the parts before this one leave.
            encoded = await asyncio.to_thread(_hashed_and_encoded, data, digest)
            body = {"upload": upload, "part": number, "base64": encoded, "last": last}
            number += 1
            on_the_way.append(self._exchange.call("storage", "upload", body, _upload, CallOptions(**rest)))  # type: ignore[typeddict-item]
            if len(on_the_way) >= PARTS_AT_ONCE:
                await on_the_way.popleft()

        kept = bytearray()
        async for piece in pieces:
            kept += piece
            while len(kept) > PART_BYTES:
                await send(bytes(kept[:PART_BYTES]), last=False)
                del kept[:PART_BYTES]
        if number == 0:
            body = {"path": path, "base64": b64encode(kept).decode(), "expect_version": expect_version}
            return await self._write(body, options)
        await send(bytes(kept), last=True)
        while on_the_way:
            await on_the_way.popleft()
        made = {"path": path, "upload": upload, "parts": number, "sha256": digest.hexdigest()}
        return await self._write({**made, "expect_version": expect_version}, options)

    async def read(self, path: str, version: int | None = None, **options: Unpack[CallOptions]) -> bytes:
        """A file's bytes, all of them; the newest version unless another is asked for.

        Raises:
            ResourceNotFound: there is no such file or version.
            AccessDenied: the file is another agent's, who has not granted it.
        """
        return b"".join([piece async for piece in self.stream(path, version, **options)])

    async def read_text(self, path: str, version: int | None = None, **options: Unpack[CallOptions]) -> str:
        """A file's text; see `read`.

        Raises:
            InvalidRequest: it is not UTF-8.
        """
        try:
            return (await self.read(path, version, **options)).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{path} is no text: read its bytes", field="path") from error

    async def read_file(
        self, path: str, local: str | Path, version: int | None = None, **options: Unpack[CallOptions]
    ) -> None:
        """Writes a file's bytes to a local file without holding them in memory; see `read`.

        Raises:
            OSError: the local file cannot be written.
        """
        with await asyncio.to_thread(open, local, "wb") as file:
            async for piece in self.stream(path, version, **options):
                await asyncio.to_thread(file.write, piece)

    async def stream(
        self, path: str, version: int | None = None, **options: Unpack[CallOptions]
    ) -> AsyncIterator[bytes]:
        """A file's bytes in pieces of at most 512 KiB; all of one version, and compared with its SHA-256 at the end."""
        first = await self._part(path, version, 0, options)
        digest = hashlib.sha256()
        on_the_way: deque[Call[ReadResult]] = deque()
        rest: CallOptions = {key: value for key, value in options.items() if key != "id"}  # type: ignore[assignment]
        offset, pinned = first.next_offset, first.version or None
        piece: ReadResult = first
        while True:
            data = piece.text.encode() if piece.text is not None else b64decode(piece.base64 or "")
            digest.update(data)
            yield data
            while offset is not None and offset < first.size_bytes and len(on_the_way) < PARTS_AT_ONCE:
                on_the_way.append(self._part(path, pinned, offset, rest))
                offset += PART_BYTES
            if not on_the_way:
                break
            piece = await on_the_way.popleft()
        if first.sha256 and digest.hexdigest() != first.sha256:
            raise InternalError(f"the bytes of {path} are not those that were written")

    def info(self, path: str, version: int | None = None, **options: Unpack[CallOptions]) -> Call[ReadResult]:
        """The first 512 KiB of a file and what is known of it."""
        return self._part(path, version, 0, options)

    def list(
        self, prefix: str = "", *, limit: int = 1000, cursor: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[FilesResult]:
        """The files at and below a folder, by path; `cursor` of the result gives the next page."""
        body = {"prefix": prefix, "limit": limit, "cursor": cursor}
        return self._exchange.call("storage", "list", body, _files, options, check=True)

    def delete(
        self,
        path: str,
        *,
        expect_version: int | None = None,
        purge: bool = False,
        **options: Unpack[CallOptions],
    ) -> Call[FileInfo]:
        """Makes a version that says the file is gone; with `purge`, removes every version for good."""
        body = {"path": path, "expect_version": expect_version, "purge": purge}
        return self._exchange.call("storage", "delete", body, _info, options, check=True)

    def move(
        self, source: str, target: str, *, overwrite: bool = False, **options: Unpack[CallOptions]
    ) -> Call[FileInfo]:
        """Gives a file another path, in one step, its history with it."""
        body = {"source": source, "target": target, "overwrite": overwrite}
        return self._exchange.call("storage", "move", body, _info, options, check=True)

    def versions(self, path: str, **options: Unpack[CallOptions]) -> Call[FileInfos]:
        """All versions of a file, the newest first; also of one that was deleted."""
        return self._exchange.call("storage", "versions", {"path": path}, _file_list, options, check=True)

    def rollback(self, path: str, version: int, **options: Unpack[CallOptions]) -> Call[FileInfo]:
        """Makes an older version the newest one, as a version of its own."""
        body = {"path": path, "version": version}
        return self._exchange.call("storage", "rollback", body, _info, options, check=True)

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        prefix: str = "",
        mode: SearchMode = "hybrid",
        **options: Unpack[CallOptions],
    ) -> Call[FileInfos]:
        """Files by what they say, the best first, each with a score and the place where it says so."""
        body = {"query": query, "limit": limit, "prefix": prefix, "mode": mode}
        return self._exchange.call("storage", "search", body, _file_list, options, check=True)

    def share(
        self, path: str, agent: str, right: Literal["read", "write", "none"] = "read", **options: Unpack[CallOptions]
    ) -> Call[GrantList]:
        """Grants another agent of the tenant a file, or everything below a folder; `none` takes the grant back."""
        body = {"path": path, "agent": agent, "right": right}
        return self._exchange.call("storage", "share", body, _grants, options, check=True)

    def shares(self, **options: Unpack[CallOptions]) -> Call[GrantList]:
        """The grants this agent has given."""
        return self._exchange.call("storage", "shares", None, _grants, options)

    def mount(
        self, mount: str, host_path: str, *, writable: bool = False, **options: Unpack[CallOptions]
    ) -> Call[MountInfos]:
        """Makes a host folder that the operator has allowed appear as `@<mount>/`."""
        body = {"mount": mount, "host_path": host_path, "writable": writable}
        return self._exchange.call("storage", "mount", body, _mount_list, options, check=True)

    def unmount(self, mount: str, **options: Unpack[CallOptions]) -> Call[MountInfos]:
        """Takes a mount away; the folder stays as it is."""
        return self._exchange.call("storage", "unmount", {"mount": mount}, _mount_list, options, check=True)

    def interactions(
        self,
        *,
        agent: str | None = None,
        operation: str | None = None,
        kind: str | None = None,
        text: str | None = None,
        after_ms: int | None = None,
        before_ms: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[InteractionsResult]:
        """What came of this agent's calls, the oldest first; an operator may ask for other agents of its tenant."""
        body = {
            "agent": agent,
            "operation": operation,
            "kind": kind,
            "text": text,
            "after_ms": after_ms,
            "before_ms": before_ms,
            "limit": limit,
            "cursor": cursor,
        }
        return self._exchange.call("storage", "interactions", body, _interactions, options, check=True)

    async def _write(self, body: Mapping[str, object], options: CallOptions) -> FileInfo:
        return await self._exchange.call("storage", "write", body, _info, options, check=True)

    def _part(self, path: str, version: int | None, offset: int, options: CallOptions) -> Call[ReadResult]:
        body = {"path": path, "version": version, "offset": offset}
        return self._exchange.call("storage", "read", body, _read, options, check=True)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("the text holds half a character, which UTF-8 cannot say", field="content") from error


def _hashed_and_encoded(data: bytes, digest: "hashlib._Hash") -> str:
    digest.update(data)
    return b64encode(data).decode()


async def _file_pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PART_BYTES):
        yield piece


def _file_list(done: Done, trace_id: str | None) -> list[FileInfo]:
    return _files(done, trace_id).files


def _grants(done: Done, trace_id: str | None) -> list[Grant]:
    return _shares_result(done, trace_id).grants


def _mount_list(done: Done, trace_id: str | None) -> list[MountInfo]:
    return _mounts_result(done, trace_id).mounts
