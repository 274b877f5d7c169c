"""Files with versions: `storage.write read list delete move versions rollback search share mount` and what keeps them.

A path names a file of the caller: `notes/plan.md`. `~bob/notes/plan.md` is a file of the agent bob of the same tenant,
reachable by his grant; `@docs/readme.md` is a file below the mount `docs`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name, SyscallId

PART_BYTES = 512 << 10
"""Bytes of each part of an upload but the last, and the most that one `storage.read` returns: a part fits one call."""

MAX_PARTS = 1 << 17
"""Parts of one file at most: 64 GiB."""

Path = Annotated[str, Field(min_length=1, max_length=1024, description="segments separated by `/`, relative")]
Folder = Annotated[str, Field(max_length=1024, description="everything below it; empty is the root")]
SearchMode = Literal["semantic", "keyword", "hybrid"]
Right = Literal["read", "write"]


class WriteRequest(Body):
    """`storage.write`: a new version of a file, made inside the call: of a text, of bytes, or of an upload's parts."""

    path: Path
    text: str | None = None
    base64: str | None = Field(None, description="at most 512 KiB of bytes; larger content comes as an upload")
    upload: SyscallId | None = Field(None, description="whose parts, all sent before, become the content")
    parts: int = Field(0, ge=0, le=MAX_PARTS, description="how many parts the upload has")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of the content; required for an upload")
    expect_version: int | None = Field(
        None, ge=0, description="refuses the write unless this is the newest version; 0: no file, or a deleted one"
    )

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if sum(content is not None for content in (self.text, self.base64, self.upload)) != 1:
            raise ValueError("exactly one of text, base64 and upload must be given")
        if self.upload is not None and (self.parts < 1 or self.sha256 is None):
            raise ValueError("an upload needs parts and sha256")
        return self


class UploadRequest(Body):
    """`storage.upload`: one part of a file that is too large for one call. Sending it again changes nothing.

    Parts may come in any order and at once. All but the last have exactly 512 KiB. Parts that no `storage.write` takes
    up are removed after an hour.
    """

    upload: SyscallId = Field(description="chosen by the caller, such as a ULID; used once")
    part: int = Field(ge=0, lt=MAX_PARTS)
    base64: str = Field(min_length=1)
    last: bool = Field(False, description="the last part may be shorter")


class UploadResult(Result):
    """`storage.upload`: what is stored now."""

    upload: SyscallId
    part: int
    size_bytes: int


class PathRequest(Body):
    """Names one file, or one of its versions."""

    path: Path
    version: int | None = Field(None, ge=1)


class ReadRequest(PathRequest):
    """`storage.read`: at most 512 KiB of a file from an offset on."""

    offset: int = Field(0, ge=0, description="bytes")
    length: int = Field(PART_BYTES, ge=1, le=PART_BYTES, description="bytes at most")


class DeleteRequest(Body):
    """`storage.delete`: a version that says the file is gone; older versions stay, unless it is purged with them."""

    path: Path
    expect_version: int | None = Field(None, ge=1)
    purge: bool = Field(False, description="remove every version for good")


class ListRequest(Body):
    """`storage.list`: what lies under a folder, by path."""

    prefix: Folder = ""
    limit: int = Field(1000, ge=1, le=10_000, description="entries at most; fewer where an answer holds no more")
    cursor: str | None = Field(None, description="of the page before")


class MoveRequest(Body):
    """`storage.move`: atomic. The history moves along; onto a path with a history of its own it becomes its newest."""

    source: Path
    target: Path
    overwrite: bool = False


class RollbackRequest(Body):
    """`storage.rollback`: an older version becomes the newest one, as a version of its own."""

    path: Path
    version: int = Field(ge=1)


class SearchRequest(Body):
    """`storage.search`: by what files say. Keywords are found as soon as a write is answered, meaning shortly after."""

    query: str = Field(min_length=1, max_length=4096)
    limit: int = Field(10, ge=1, le=1000)
    prefix: Folder = ""
    mode: SearchMode = "hybrid"


class ShareRequest(Body):
    """`storage.share`: a grant to another agent of the tenant, on a file or on everything below a folder."""

    path: Path
    agent: Name
    right: Literal["read", "write", "none"] = Field(description="`write` includes `read`; `none` takes the grant back")


class SharesRequest(Body):
    """`storage.shares`: the caller's grants."""


class Grant(Result):
    """One grant."""

    path: str
    agent: Name
    right: Right


class SharesResult(Result):
    """`storage.share` and `storage.shares`: the grants the caller has given."""

    grants: list[Grant]


class MountRequest(Body):
    """`storage.mount`: a host folder the operator has allowed, inside a jail, as `@<mount>/` for this agent."""

    mount: Name
    host_path: str = Field(min_length=1, max_length=4096)
    writable: bool = False


class UnmountRequest(Body):
    """`storage.unmount`."""

    mount: Name


class MountInfo(Result):
    """One mount."""

    mount: Name
    host_path: str
    writable: bool


class MountsResult(Result):
    """`storage.mount` and `storage.unmount`: the agent's mounts."""

    mounts: list[MountInfo]


class FileInfo(Result):
    """One version of one file. Files of a mount have no versions: theirs is 0."""

    path: str
    version: int
    size_bytes: int
    sha256: str = Field(description="empty for files of a mount")
    modified_ms: int
    author: Name | None = Field(None, description="who wrote this version")
    deleted: bool = False
    score: float | None = None
    excerpt: str | None = Field(None, description="where a search found it")


class ReadResult(FileInfo):
    """`storage.read`: text where the bytes are UTF-8, else base64."""

    offset: int = 0
    next_offset: int | None = Field(None, description="where to read on; none at the end")
    text: str | None = None
    base64: str | None = None


class FilesResult(Result):
    """Files or versions."""

    files: list[FileInfo]
    cursor: str | None = None


class InteractionsRequest(Body):
    """`storage.interactions`: the calls of the caller, or, for an operator, of an agent or the whole tenant."""

    agent: Name | None = Field(None, description="an operator may leave it out")
    operation: str | None = Field(None, max_length=128, description="such as `llm.chat`, or `llm.*`")
    kind: str | None = Field(None, max_length=128, description="of the event, such as `syscall.failed`")
    text: str | None = Field(None, max_length=256, description="stands in one of the fields")
    after_ms: int | None = Field(None, ge=0)
    before_ms: int | None = Field(None, ge=0)
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, description="of the page before; the pages go from the oldest to the newest")


class Interaction(Result):
    """One call as the kernel's events told it. Holds no content."""

    kind: str
    agent: Name
    operation: str
    id: SyscallId
    program: str | None = None
    code: str | None = None
    tokens: int | None = None
    worker: str | None = None
    trace_id: str | None = None
    at_ms: int


class InteractionsResult(Result):
    """One page."""

    interactions: list[Interaction]
    cursor: str | None = Field(None, description="none where this page ends with the newest")


class TenantRequest(Body):
    """`storage.keys`, `storage.rotate`, `storage.shred`: for operators."""

    tenant: Name | None = Field(None, description="None is the caller's own")


class ShredRequest(Body):
    """`storage.shred`: destroys the tenant's keys. What every manager stores for it can never be read again."""

    tenant: Name
    confirm: Name = Field(description="the tenant's name once more")


class KeysResult(Result):
    """A tenant's keys and how far what is stored here follows them."""

    tenant: Name
    current: int = Field(description="0 where the tenant has no key yet")
    versions: list[int]
    destroyed: bool
    rewrapping: bool = Field(
        False, description="objects under an older version are being brought under the current one"
    )
    behind: int | None = Field(None, description="objects of the storage manager still under older versions, last seen")
