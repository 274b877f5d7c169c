"""Records in one JetStream KV bucket, each sealed under its tenant's key; see `aios_kit.envelope`.

Keys name tenants, agents, pools and note ids in clear; everything else is inside the sealed value. A record with a time
to live is removed by the bus itself. A removal carries the id of its call, so that the same call sent again is
recognised.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import Header, KeyValueConfig
from nats.js.errors import BadRequestError, NotFoundError
from nats.js.kv import KeyValue

from aios_kit.envelope import Envelope, is_sealed, key_version
from aios_kit.kv_watch import watch_bucket
from aios_memory.ports import Stored
from aios_proto import subjects
from aios_proto.errors import BusUnavailable

_BUCKET: Final = subjects.MEMORY_BUCKET
_OPERATION: Final = "KV-Operation"
_CALL: Final = "Aios-Call"
_WRONG_SEQUENCE: Final = 10071
_LOAD_TIMEOUT_S: Final = 60.0


def memory_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_MEMORY`: all notes and access lists."""
    return KeyValueConfig(bucket=_BUCKET, history=1, replicas=replicas, direct=True)


class KvRecordStore:
    """The `RecordStore` port on a KV bucket.

    Args:
        js: JetStream of the service's connection.
        bucket: the bucket.
        envelope: seals and opens the values.
        timeout_s: longest wait for one answer.
        ensure_active: awaited before each change; raises BusUnavailable where another process keeps the records now.
    """

    def __init__(
        self,
        js: JetStreamContext,
        bucket: KeyValue,
        envelope: Envelope,
        timeout_s: float,
        ensure_active: Callable[[], Awaitable[None]],
    ) -> None:
        self._ensure_active = ensure_active
        self._js = js
        self._bucket = bucket
        self._envelope = envelope
        self._timeout_s = timeout_s

    async def get(self, tenant: str, key: str) -> Stored | None:
        """See `RecordStore.get`. Asks the stream's leader: a replica may lag behind."""
        try:
            async with self._reaching():
                message = await self._js.get_last_msg(f"KV_{_BUCKET}", f"$KV.{_BUCKET}.{key}", direct=False)
        except NotFoundError:
            return None
        if _OPERATION in (message.headers or {}):
            return None
        return Stored(key, await self._envelope.open(tenant, key, message.data or b""), message.seq or 0)

    async def below(self, tenant: str, prefix: str) -> Sequence[Stored]:
        """See `RecordStore.below`."""
        return [
            Stored(key, await self._envelope.open(tenant, key, value), revision)
            for key, value, revision in await self._present(prefix)
        ]

    async def create(self, tenant: str, key: str, content: bytes, ttl_s: float | None = None) -> int | None:
        """See `RecordStore.create`."""
        sealed = await self._envelope.seal(tenant, key, content)
        revision = await self._publish(key, sealed, 0, ttl_s)
        if revision is not None:
            return revision
        # Something is there: a record, or the mark of one that was removed, which may be written over.
        try:
            async with self._reaching():
                last = await self._js.get_last_msg(f"KV_{_BUCKET}", f"$KV.{_BUCKET}.{key}", direct=False)
        except NotFoundError:
            return await self._publish(key, sealed, 0, ttl_s)
        if _OPERATION not in (last.headers or {}):
            return None
        return await self._publish(key, sealed, last.seq or 0, ttl_s)

    async def replace(
        self, tenant: str, key: str, content: bytes, revision: int, ttl_s: float | None = None
    ) -> int | None:
        """See `RecordStore.replace`."""
        return await self._publish(key, await self._envelope.seal(tenant, key, content), revision, ttl_s)

    async def remove(self, key: str, call: str) -> None:
        """See `RecordStore.remove`."""
        await self._ensure_active()
        async with self._reaching():
            await self._js.publish(
                f"$KV.{_BUCKET}.{key}", headers={_OPERATION: "DEL", _CALL: call}, timeout=self._timeout_s
            )

    async def removed_by(self, key: str) -> str | None:
        """See `RecordStore.removed_by`."""
        try:
            async with self._reaching():
                message = await self._js.get_last_msg(f"KV_{_BUCKET}", f"$KV.{_BUCKET}.{key}", direct=False)
        except NotFoundError:
            return None
        return (message.headers or {}).get(_CALL)

    async def keys_below(self, prefix: str) -> Sequence[str]:
        """See `RecordStore.keys_below`."""
        return [key for key, _, _ in await self._present(prefix, meta_only=True)]

    async def rewrap(self, tenant: str) -> int:
        """See `RecordStore.rewrap`. A record that is changed meanwhile is under the current key by that."""
        current = (await self._envelope.ring.describe(tenant)).current
        count = 0
        for key, value, _ in await self._present(tenant):
            if not is_sealed(value) or key_version(value) == current:
                continue
            # Read once more, for its time to live.
            try:
                async with self._reaching():
                    message = await self._js.get_last_msg(f"KV_{_BUCKET}", f"$KV.{_BUCKET}.{key}", direct=False)
            except NotFoundError:
                continue
            headers = message.headers or {}
            if _OPERATION in headers:
                continue
            again = await self._envelope.rewrap(tenant, message.data or b"")
            if again is None:
                continue
            left = _ttl_left(headers, message.time.timestamp() if message.time else None)
            if await self._publish(key, again, message.seq or 0, left) is not None:
                count += 1
        return count

    async def purge(self, tenant: str) -> None:
        """See `RecordStore.purge`."""
        await self._ensure_active()
        async with self._reaching(_LOAD_TIMEOUT_S):
            await self._js.purge_stream(f"KV_{_BUCKET}", subject=f"$KV.{_BUCKET}.{tenant}.>")

    async def _present(self, prefix: str, *, meta_only: bool = False) -> list[tuple[str, bytes, int]]:
        """Key, value and revision of what is there below a prefix; an empty one means everything."""
        found: list[tuple[str, bytes, int]] = []
        async with self._reaching(_LOAD_TIMEOUT_S):
            pattern = f"{prefix}.>" if prefix else ">"
            async with aclosing(watch_bucket(self._js, _BUCKET, pattern, meta_only=meta_only)) as watcher:
                async for entry in watcher:
                    if entry is None:
                        break
                    if entry.operation is None:
                        found.append((entry.key, entry.value or b"", entry.revision or 0))
        return found

    async def _publish(self, key: str, value: bytes, expected: int, ttl_s: float | None) -> int | None:
        await self._ensure_active()
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(expected)}
        try:
            async with self._reaching():
                acknowledged = await self._js.publish(
                    f"$KV.{_BUCKET}.{key}",
                    value,
                    headers=headers,
                    timeout=self._timeout_s,
                    msg_ttl=None if ttl_s is None else max(1, math.ceil(ttl_s)),
                )
        except BadRequestError as error:
            if error.err_code != _WRONG_SEQUENCE:
                raise
            return None
        return acknowledged.seq

    @asynccontextmanager
    async def _reaching(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                yield
        except (NotFoundError, BadRequestError):
            raise
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the store of memories cannot be reached", retry_after_s=1) from error


def _ttl_left(headers: dict[str, str], written_s: float | None) -> float | None:
    """Seconds a record has still to live; None is for ever."""
    ttl = headers.get("Nats-TTL")
    if ttl is None or written_s is None:
        return None
    seconds = float(ttl.removesuffix("s"))
    return max(1.0, written_s + seconds - time.time())
