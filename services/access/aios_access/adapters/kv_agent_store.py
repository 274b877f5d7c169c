"""Identities in a JetStream KV bucket: one key an agent, watched by every replica."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aios_access.directory import Directory, Identity
from aios_kit.kv_watch import watch_bucket
from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.errors import BusUnavailable, ResourceConflict
from aios_proto.names import Name

_BUCKET = subjects.AGENTS_BUCKET
_OPERATION = "KV-Operation"
_REMOVALS = ("DEL", "PURGE")


class StoredIdentity(BaseModel):
    """The value of one key, and one entry of the bootstrap file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Name
    agent: Name
    group: Name
    secret_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int = 0
    origin: str = ""
    revoked: bool = False
    """Kept of an agent of the bootstrap file, so that the file does not bring it back at the next start."""

    def identity(self) -> Identity:
        """The same for the directory."""
        return Identity(self.tenant, self.agent, self.group, self.secret_sha256, self.created_ms, self.origin)


_BOOTSTRAP = TypeAdapter(list[StoredIdentity])


def read_bootstrap(path: Path) -> list[Identity]:
    """The agents that exist from the start.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a list of agents.
    """
    entries = [stored.identity() for stored in _BOOTSTRAP.validate_json(path.read_bytes())]
    return [replace(entry, origin=_mark(entry)) for entry in entries]


def _mark(entry: Identity) -> str:
    """Tells one content of an entry from another; holds no secret."""
    return hashlib.sha256(f"{entry.secret_sha256}:{entry.group}".encode()).hexdigest()[:16]


class KvAgentStore:
    """The `AgentStore` port on a KV bucket, and the watch that feeds a directory.

    Replies, watched changes and single reads arrive in any order, so each is taken by its revision: the newest stands.
    """

    def __init__(self, js: JetStreamContext, bucket: KeyValue, directory: Directory, log: Log) -> None:
        self._js = js
        self._bucket = bucket
        self._directory = directory
        self._log = log
        self._revisions: dict[str, int] = {}
        self._retired: dict[str, str] = {}

    def applied(self, key: str) -> str | None:
        """The mark of the bootstrap entry that was applied to an agent last, revoked or not; None where none was."""
        known = self._directory.by_key(key)
        return self._retired.get(key) if known is None else known.origin or None

    async def create(self, identity: Identity) -> None:
        """See `AgentStore.create`."""
        try:
            async with _reaching_the_store():
                if identity.key in self._retired:
                    last = self._revisions[identity.key]
                    revision = await self._bucket.update(identity.key, _value_of(identity), last=last)
                else:
                    revision = await self._bucket.create(identity.key, _value_of(identity))
        except KeyWrongLastSequenceError as error:
            raise ResourceConflict(f"there is an agent {identity.key}", field="agent") from error
        self._apply(identity.key, revision, identity)

    async def replace(self, identity: Identity) -> None:
        """See `AgentStore.replace`."""
        known = self._revisions.get(identity.key)
        try:
            async with _reaching_the_store():
                revision = await self._bucket.update(identity.key, _value_of(identity), last=known)
        except KeyWrongLastSequenceError as error:
            raise ResourceConflict(f"{identity.key} was changed at the same time", field="agent") from error
        self._apply(identity.key, revision, identity)

    async def delete(self, key: str) -> None:
        """See `AgentStore.delete`."""
        known = self._directory.by_key(key)
        async with _reaching_the_store():
            if known is not None and known.origin:
                revision = await self._bucket.put(key, _value_of(known, revoked=True))
                self._retired[key] = known.origin
                self._apply(key, revision, None)
            else:
                await self._bucket.delete(key)
        self._directory.remove(key)

    async def refresh(self, key: str) -> None:
        """See `AgentStore.refresh`. Reads from the stream's leader: a replica may lag behind."""
        try:
            async with _reaching_the_store():
                found = await self._js.get_last_msg(
                    f"KV_{subjects.AGENTS_BUCKET}", f"$KV.{subjects.AGENTS_BUCKET}.{key}"
                )
        except NotFoundError:
            return
        removed = (found.headers or {}).get(_OPERATION) in _REMOVALS
        self._take(key, found.seq or 0, None if removed else found.data)

    async def watch(self, loaded: Callable[[], None]) -> None:
        """Keeps the directory as the bucket is, for ever; calls `loaded` once all present values are in.

        Raises:
            nats.errors.Error: the bus or JetStream is away; watch again.
        """
        async with aclosing(watch_bucket(self._js, subjects.AGENTS_BUCKET)) as watcher:
            self._revisions.clear()
            present: set[str] | None = set()
            async for entry in watcher:
                if entry is None:
                    if present is not None:
                        self._directory.keep_only(present)
                        present = None
                    loaded()
                    continue
                removed = entry.operation in _REMOVALS
                self._take(entry.key, entry.revision or 0, None if removed else entry.value)
                if present is not None:
                    present.add(entry.key)

    def _take(self, key: str, revision: int, value: bytes | None) -> None:
        if value is None:
            self._apply(key, revision, None)
            return
        try:
            stored = StoredIdentity.model_validate_json(value)
            identity: Identity | None = stored.identity()
            if stored.revoked:
                if revision >= self._revisions.get(key, 0):
                    self._retired[key] = stored.origin
                self._apply(key, revision, None)
                return
        except ValidationError as error:
            self._log.error("an agent's record cannot be read; the agent is shut out", key=key, error=str(error))
            identity = None
        if identity is not None and identity.key != key:
            self._log.error("an agent's record stands under another name; the agent is shut out", key=key)
            identity = None
        self._apply(key, revision, identity)

    def _apply(self, key: str, revision: int, identity: Identity | None) -> None:
        if revision < self._revisions.get(key, 0):
            return
        self._revisions[key] = revision
        if identity is None:
            self._directory.remove(key)
        else:
            self._retired.pop(key, None)
            self._directory.put(identity)


def _value_of(identity: Identity, *, revoked: bool = False) -> bytes:
    stored = StoredIdentity(
        tenant=identity.tenant,
        agent=identity.agent,
        group=identity.group,
        secret_sha256=identity.secret_sha256,
        created_ms=identity.created_ms,
        origin=identity.origin,
        revoked=revoked,
    )
    return stored.model_dump_json().encode()


@asynccontextmanager
async def _reaching_the_store() -> AsyncIterator[None]:
    try:
        yield
    except (KeyWrongLastSequenceError, NotFoundError):
        raise
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the store of identities cannot be reached", retry_after_s=1) from error
