"""What is kept of a file: its head, its versions, where their bytes lie; and how that is written down."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from aios_proto.messages.storage import PART_BYTES, FileInfo

NO_CONTENT_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, slots=True)
class Content:
    """Where the bytes of one version lie: parts of `PART_BYTES`, but for the last.

    Attributes:
        blob: names the parts: `<agent>.<id of the call or upload>`.
        size_bytes: of all parts together.
        sha256: of all parts together; as the writer said where it came as an upload.
        short_tail: whether the last part was sent as shorter than `PART_BYTES`, which its key says too.
    """

    blob: str
    size_bytes: int
    sha256: str
    short_tail: bool = True

    @property
    def parts(self) -> int:
        """How many there are; none where there are no bytes."""
        return -(-self.size_bytes // PART_BYTES)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one file.

    Attributes:
        number: from 1.
        content: None where this version says that the file is gone.
        modified_ms: Unix time.
        author: the agent who made it.
    """

    number: int
    content: Content | None
    modified_ms: int
    author: str


@dataclass(frozen=True, slots=True)
class Made:
    """Which call made a version, and what is needed to answer it again.

    Attributes:
        agent: who called.
        call_id: of the call.
        operation: `write`, `delete` or `rollback`.
        shown: the file's path as the caller sees it.
    """

    agent: str
    call_id: str
    operation: str
    shown: str


@dataclass(frozen=True, slots=True)
class Head:
    """A file as it is now.

    Attributes:
        path: in its owner's tree.
        file: names the file's history, which stays with it when it moves.
        newest: its newest version.
        made: the call that made it, where head, version and answer were stored by this one record; the version's own
            record and the call's follow, at the latest before another head takes its place. None where both are there.
    """

    path: str
    file: str
    newest: Version
    made: Made | None = None

    @property
    def alive(self) -> bool:
        """Whether there is something to read."""
        return self.newest.content is not None

    def after(self, version: Version) -> "Head":
        """The file with one more version."""
        return replace(self, newest=version, made=None)


def info(version: Version, shown: str) -> FileInfo:
    """A version as callers see it, under the path they use."""
    content = version.content
    return FileInfo(
        path=shown,
        version=version.number,
        size_bytes=content.size_bytes if content else 0,
        sha256=content.sha256 if content else NO_CONTENT_SHA256,
        modified_ms=version.modified_ms,
        author=version.author,
        deleted=content is None,
    )


def encode_head(head: Head) -> bytes:
    """For the store."""
    return orjson.dumps(asdict(head))


def decode_head(data: bytes) -> Head:
    """From the store."""
    stored = orjson.loads(data)
    made = stored.get("made")
    return Head(stored["path"], stored["file"], _version(stored["newest"]), None if made is None else Made(**made))


def encode_version(version: Version) -> bytes:
    """For the store."""
    return orjson.dumps(asdict(version))


def decode_version(data: bytes) -> Version:
    """From the store."""
    return _version(orjson.loads(data))


def _version(stored: dict[str, Any]) -> Version:
    content = stored["content"]
    return Version(
        stored["number"], None if content is None else Content(**content), stored["modified_ms"], stored["author"]
    )
