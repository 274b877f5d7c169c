"""The form of a backup file: a head, the messages as they lay in their streams, and an end that proves it is whole.

Each record is a length of four bytes, big-endian, that many bytes of JSON, and as many bytes of payload as the JSON's
`size` says. The first record describes the backup; the last one counts the others and has the SHA-256 of all before it.
What managers have sealed stays sealed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from aios_proto.errors import InvalidRequest

FORMAT = "aios-backup"
VERSION = 1
_LENGTH_BYTES = 4
_MAX_HEAD_BYTES = 1 << 20


class Head(BaseModel):
    """The first record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    version: int = VERSION
    tenant: str
    made_ms: int
    storage_schema: int | None = None
    """Form of the storage manager's records; None where it has never run."""
    keys: str | None = None
    """The tenant's keys under a passphrase, in base64; None where the backup is without."""
    salt: str | None = None


class Message(BaseModel):
    """One message of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: str
    subject: str
    headers: dict[str, str]


class _End(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A message with its payload."""

    message: Message
    payload: bytes


class ArchiveWriter:
    """Writes one file; it is whole after `finish` only."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.messages = 0
        self._write({"head": head.model_dump()}, b"")

    def add(self, message: Message, payload: bytes) -> None:
        """Appends a message."""
        self._write({"message": message.model_dump()}, payload)
        self.messages += 1

    def finish(self) -> None:
        """Appends the end."""
        self._write({"end": {"messages": self.messages, "sha256": self._digest.hexdigest()}}, b"")

    def _write(self, record: dict[str, object], payload: bytes) -> None:
        head = json.dumps({**record, "size": len(payload)}).encode()
        for piece in (len(head).to_bytes(_LENGTH_BYTES), head, payload):
            self._digest.update(piece)
            self._file.write(piece)


def read_head(path: Path) -> Head:
    """What a backup says of itself, after all of it was checked.

    Raises:
        InvalidRequest: it is no backup, one of a newer version, or damaged.
        OSError: it cannot be read.
    """
    records = _records(path)
    head = _head(next(records, None))
    if any("end" in record for record, _ in records):
        return head
    raise InvalidRequest("this backup is cut off", field="file")


def messages_of(path: Path) -> Iterator[Stored]:
    """The messages of a backup that `read_head` has checked."""
    for record, payload in _records(path):
        if "message" in record:
            yield Stored(Message.model_validate(record["message"]), payload)


def _head(first: tuple[dict[str, object], bytes] | None) -> Head:
    try:
        if first is None or "head" not in first[0]:
            raise InvalidRequest("this is no backup", field="file")
        head = Head.model_validate(first[0]["head"])
    except ValidationError as error:
        raise InvalidRequest("this is no backup that this version can read", field="file") from error
    if head.format != FORMAT or head.version > VERSION:
        raise InvalidRequest(f"this backup has form {head.version}; this version reads {VERSION}", field="file")
    return head


def _records(path: Path) -> Iterator[tuple[dict[str, object], bytes]]:
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while length := file.read(_LENGTH_BYTES):
            size = int.from_bytes(length)
            if len(length) < _LENGTH_BYTES or size > _MAX_HEAD_BYTES:
                raise InvalidRequest("this is no backup, or a damaged one", field="file")
            raw = file.read(size)
            try:
                record = json.loads(raw)
                payload = file.read(int(record["size"]))
                whole = len(payload) == record["size"]
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequest("this is no backup, or a damaged one", field="file") from error
            if not whole:
                raise InvalidRequest("this backup is cut off", field="file")
            if "end" in record:
                end = _End.model_validate(record["end"])
                if (end.messages, end.sha256) != (count, digest.hexdigest()) or file.read(1):
                    raise InvalidRequest("this backup is damaged", field="file")
                yield record, payload
                return
            for piece in (length, raw, payload):
                digest.update(piece)
            count += "message" in record
            yield record, payload
