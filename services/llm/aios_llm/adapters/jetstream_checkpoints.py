"""Checkpoints in a JetStream bucket, and the KV of paused generations in an object store."""

import asyncio

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, ObjectStoreConfig, StorageType
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.errors import BusUnavailable

KEPT_S = 3600
"""As long as a call without a deadline may take."""
_KV_BYTES = 256 << 20
_CHUNK_FAILURES = (NatsError, APIError, TimeoutError)


def checkpoints_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_CHECKPOINTS`: what running generations have made so far. Removed when they end."""
    return KeyValueConfig(bucket=subjects.CHECKPOINTS_BUCKET, history=1, ttl=KEPT_S, replicas=replicas, direct=True)


class KvCheckpoints:
    """`CheckpointStore` in a bucket."""

    def __init__(self, bucket: KeyValue, timeout_s: float, log: Log) -> None:
        self._bucket = bucket
        self._timeout_s = timeout_s
        self._log = log

    async def put(self, key: str, data: bytes) -> bool:
        """See `CheckpointStore.put`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.put(key, data)
        except _CHUNK_FAILURES as error:
            # The call goes on; only after a crash it would have to make some tokens again.
            self._log.warning("a checkpoint could not be written", key=key, error=str(error))
            return False
        return True

    async def get(self, key: str) -> bytes | None:
        """See `CheckpointStore.get`."""
        try:
            return await self.read(key)
        except BusUnavailable as error:
            self._log.warning("a checkpoint could not be read; the call begins anew", key=key, error=str(error))
            return None

    async def read(self, key: str) -> bytes | None:
        """See `CheckpointStore.read`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return (await self._bucket.get(key)).value
        except KeyNotFoundError:
            return None
        except _CHUNK_FAILURES as error:
            raise BusUnavailable("what the other call has made cannot be read now", retry_after_s=1) from error

    async def remove(self, key: str) -> None:
        """See `CheckpointStore.remove`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.purge(key)
        except _CHUNK_FAILURES as error:
            self._log.info("a checkpoint could not be removed; it will be in time", key=key, error=str(error))


class KvImages:
    """The KV of paused generations. In memory: it only saves work, and the disk has better to do."""

    def __init__(self, store: ObjectStore, timeout_s: float, log: Log) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._log = log

    async def put(self, key: str, data: bytes) -> None:
        """Keeps the KV of a call; where there is no room it is not kept. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.put(key, data)
        except _CHUNK_FAILURES as error:
            self._log.info("KV of a paused call is not kept", key=key, error=str(error))

    async def get(self, key: str) -> bytes | None:
        """The KV of a call; None where there is none. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return (await self._store.get(key)).data
        except _CHUNK_FAILURES:
            return None

    async def remove(self, key: str) -> None:
        """Forgets it. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.delete(key)
        except _CHUNK_FAILURES:
            return


async def open_images(js: JetStreamContext, timeout_s: float, replicas: int, log: Log) -> KvImages:
    """Opens the object store, creating it where it does not exist.

    Raises:
        APIError: JetStream cannot provide it.
    """
    try:
        store = await js.object_store(subjects.KV_IMAGES_STORE)
    except BucketNotFoundError:
        store = await js.create_object_store(
            subjects.KV_IMAGES_STORE,
            ObjectStoreConfig(ttl=KEPT_S, storage=StorageType.MEMORY, replicas=replicas, max_bytes=_KV_BYTES),
        )
    return KvImages(store, timeout_s, log)
