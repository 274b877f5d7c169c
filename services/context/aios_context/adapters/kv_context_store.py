"""Contexts in two JetStream KV buckets: heads and snapshots by name, segments of the log by their content.

Heads are read from the stream's leader, so that who has written reads what was written. Segments never change, so any
replica may answer. A key is removed by purging it up to the revision that was judged, which leaves no marker behind and
spares whatever was written since.

Why no object store: a segment is one message here, written and read in one round trip; there it is chunks, a digest and
a description, each written and acknowledged on its own. `make bench-context` prints both.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from aios_context.core.head import Head, Snapshot, parse_head, parse_snapshot
from aios_context.core.segments import is_whole
from aios_context.ports import Changed, Stored
from aios_kit.kv_watch import watch_bucket
from aios_kit.streams import ensure_bucket
from aios_proto import subjects
from aios_proto.errors import AiosError, BusUnavailable, InternalError

_NEXT_ENTRY_S = 5.0

_HEADS = "c"
_SNAPSHOTS = "s"


class KvContextStore:
    """The `ContextStore` port, and what the sweep needs beside it."""

    def __init__(self, js: JetStreamContext, heads: KeyValue, segments: KeyValue) -> None:
        self._js = js
        self._heads = heads
        self._segments = segments

    @classmethod
    async def open(cls, js: JetStreamContext, replicas: int) -> "KvContextStore":
        """Opens the buckets, creating them where they do not exist.

        Raises:
            BusUnavailable: JetStream did not provide them in time.
        """
        heads = KeyValueConfig(bucket=subjects.CONTEXTS_BUCKET, history=1, replicas=replicas, direct=False)
        segments = KeyValueConfig(bucket=subjects.CONTEXT_TURNS_BUCKET, history=1, replicas=replicas, direct=True)
        return cls(js, await ensure_bucket(js, heads), await ensure_bucket(js, segments))

    async def head(self, tenant: str, agent: str, name: str) -> Stored | None:
        """See `ContextStore.head`."""
        found = await self._get(f"{tenant}.{agent}.{_HEADS}.{name}")
        return None if found is None else Stored(parse_head(found[0]), found[1])

    async def write(self, head: Head, revision: int) -> int:
        """See `ContextStore.write`."""
        key = f"{head.tenant}.{head.agent}.{_HEADS}.{head.name}"
        async with _reaching_the_store():
            return await self._heads.update(key, head.to_bytes(), last=revision)

    async def snapshot(self, tenant: str, agent: str, snapshot: str) -> Snapshot | None:
        """See `ContextStore.snapshot`."""
        found = await self._get(f"{tenant}.{agent}.{_SNAPSHOTS}.{snapshot}")
        return None if found is None else parse_snapshot(found[0])

    async def add_snapshot(self, snapshot: Snapshot) -> None:
        """See `ContextStore.add_snapshot`."""
        key = f"{snapshot.head.tenant}.{snapshot.head.agent}.{_SNAPSHOTS}.{snapshot.id}"
        async with _reaching_the_store():
            await self._heads.update(key, snapshot.to_bytes(), last=0)

    async def remove_snapshot(self, tenant: str, agent: str, snapshot: str) -> None:
        """See `ContextStore.remove_snapshot`."""
        await self._purge(subjects.CONTEXTS_BUCKET, f"{tenant}.{agent}.{_SNAPSHOTS}.{snapshot}")

    async def names(self, tenant: str, agent: str) -> tuple[int, int]:
        """See `ContextStore.names`."""
        stream = f"KV_{subjects.CONTEXTS_BUCKET}"
        prefix = f"$KV.{subjects.CONTEXTS_BUCKET}.{tenant}.{agent}."
        async with _reaching_the_store():
            state = (await self._js.stream_info(stream, subjects_filter=f"{prefix}>")).state
        stored = list(state.subjects or {})
        heads = sum(subject.startswith(f"{prefix}{_HEADS}.") for subject in stored)
        return heads, len(stored) - heads

    async def heads(self, tenant: str, agent: str) -> AsyncIterator[Stored]:
        """See `ContextStore.heads`."""
        async for entry in self._entries(subjects.CONTEXTS_BUCKET, f"{tenant}.{agent}.{_HEADS}.>"):
            yield Stored(parse_head(entry.value or b""), entry.revision or 0)

    async def snapshots(self, tenant: str, agent: str) -> AsyncIterator[Snapshot]:
        """See `ContextStore.snapshots`."""
        async for entry in self._entries(subjects.CONTEXTS_BUCKET, f"{tenant}.{agent}.{_SNAPSHOTS}.>"):
            yield parse_snapshot(entry.value or b"")

    async def put_segment(self, key: str, value: bytes) -> None:
        """See `ContextStore.put_segment`."""
        async with _reaching_the_store():
            await self._segments.put(key, value)

    async def segment(self, key: str) -> bytes:
        """See `ContextStore.segment`."""
        async with _reaching_the_store():
            try:
                value = (await self._segments.get(key)).value or b""
            except NotFoundError:
                value = await self._segment_from_leader(key)
        if not is_whole(key, value):
            raise InternalError("a part of the context is not what was written")
        return value

    async def everything(self) -> AsyncIterator[Stored | tuple[Snapshot, int]]:
        """All heads and all snapshots with their revisions."""
        async for entry in self._entries(subjects.CONTEXTS_BUCKET, ">"):
            value, revision = entry.value or b"", entry.revision or 0
            if f".{_HEADS}." in entry.key:
                yield Stored(parse_head(value), revision)
            else:
                yield parse_snapshot(value), revision

    async def segment_ages(self) -> AsyncIterator[tuple[str, int, float]]:
        """The keys of all segments with their revisions and the seconds since they were last written."""
        now = datetime.now(UTC)
        async for entry in self._entries(subjects.CONTEXT_TURNS_BUCKET, ">", meta_only=True):
            created: object = entry.created  # a datetime, whatever nats-py declares
            age_s = (now - created).total_seconds() if isinstance(created, datetime) else 0.0
            yield entry.key, entry.revision or 0, age_s

    async def remove_head(self, stored: Stored) -> None:
        """Removes a head unless it was written since."""
        head = stored.head
        await self._purge(subjects.CONTEXTS_BUCKET, f"{head.tenant}.{head.agent}.{_HEADS}.{head.name}", stored.revision)

    async def remove_segment(self, key: str, revision: int) -> None:
        """Removes a segment unless it was written since."""
        await self._purge(subjects.CONTEXT_TURNS_BUCKET, key, revision)

    async def _get(self, key: str) -> tuple[bytes, int] | None:
        async with _reaching_the_store():
            try:
                entry = await self._heads.get(key)
            except NotFoundError:
                return None
        return entry.value or b"", entry.revision or 0

    async def _segment_from_leader(self, key: str) -> bytes:
        """A replica may lag behind the leader that acknowledged the segment."""
        bucket = subjects.CONTEXT_TURNS_BUCKET
        try:
            return (await self._js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.{key}")).data or b""
        except NotFoundError as error:
            raise InternalError("a part of the context is missing") from error

    async def _entries(self, bucket: str, keys: str, *, meta_only: bool = False) -> AsyncIterator[KeyValue.Entry]:
        async with aclosing(watch_bucket(self._js, bucket, keys, meta_only=meta_only)) as watcher:
            while True:
                async with _reaching_the_store(), asyncio.timeout(_NEXT_ENTRY_S):
                    entry = await anext(watcher)
                if entry is None:
                    return
                if entry.operation is None:
                    yield entry

    async def _purge(self, bucket: str, key: str, revision: int | None = None) -> None:
        async with _reaching_the_store():
            await self._js.purge_stream(
                f"KV_{bucket}", subject=f"$KV.{bucket}.{key}", seq=None if revision is None else revision + 1
            )


@asynccontextmanager
async def _reaching_the_store() -> AsyncIterator[None]:
    try:
        yield
    except KeyWrongLastSequenceError as error:
        raise Changed from error
    except (NotFoundError, AiosError):
        raise
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the store of contexts cannot be reached", retry_after_s=1) from error
