"""Checkpoints in a JetStream bucket."""

import asyncio

from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue

from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.errors import BusUnavailable

KEPT_S = 3600
"""As long as a call without a deadline may take."""
_FAILURES = (NatsError, APIError, TimeoutError)


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
        except _FAILURES as error:
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
        except _FAILURES as error:
            raise BusUnavailable("what the other call has made cannot be read now", retry_after_s=1) from error

    async def remove(self, key: str) -> None:
        """See `CheckpointStore.remove`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.purge(key)
        except _FAILURES as error:
            self._log.info("a checkpoint could not be removed; it will be in time", key=key, error=str(error))
