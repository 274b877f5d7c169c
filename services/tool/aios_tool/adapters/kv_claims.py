"""Claims on calls in a JetStream KV bucket: `create` is the claim, the revision the fencing token."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyDeletedError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from aios_proto import subjects
from aios_proto.errors import BusUnavailable
from aios_tool.ports import Before, Claimed


def tool_calls_bucket(replicas: int, memory_s: float) -> KeyValueConfig:
    """`AIOS_TOOL_CALLS`: calls of tools with effects, and how they ended."""
    return KeyValueConfig(bucket=subjects.TOOL_CALLS_BUCKET, history=1, ttl=memory_s, replicas=replicas, direct=True)


class KvClaims:
    """The `ClaimStore` port on a KV bucket.

    A value is one line that names the run of the manager which has the claim, and after it the last frame, if the call
    has ended.
    """

    def __init__(self, bucket: KeyValue, owner: str) -> None:
        self._bucket = bucket
        self._owner = owner

    async def claim(self, key: str) -> Claimed | Before:
        """See `ClaimStore.claim`."""
        async with _reaching_the_store():
            try:
                return Claimed(await self._bucket.create(key, self._value(b"")))
            except KeyWrongLastSequenceError:
                pass
            try:
                entry = await self._bucket.get(key)
            except (KeyNotFoundError, KeyDeletedError) as error:  # it expired between the two
                raise BusUnavailable("the claim on the call changed meanwhile", retry_after_s=0.1) from error
        head, _, frame = (entry.value or b"").partition(b"\n")
        return Before(entry.revision or 0, frame or None, str(orjson.loads(head)["owner"]))

    async def take_over(self, key: str, revision: int) -> Claimed | None:
        """See `ClaimStore.take_over`."""
        async with _reaching_the_store():
            try:
                return Claimed(await self._bucket.update(key, self._value(b""), last=revision))
            except KeyWrongLastSequenceError:
                return None

    async def finish(self, key: str, revision: int, frame: bytes) -> None:
        """See `ClaimStore.finish`; where another run of the manager has taken the call over, nothing changes."""
        async with _reaching_the_store():
            try:
                await self._bucket.update(key, self._value(frame), last=revision)
            except KeyWrongLastSequenceError:
                return

    def _value(self, frame: bytes) -> bytes:
        return orjson.dumps({"owner": self._owner}) + b"\n" + frame


@asynccontextmanager
async def _reaching_the_store() -> AsyncIterator[None]:
    try:
        yield
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the store of tool calls cannot be reached", retry_after_s=1) from error
