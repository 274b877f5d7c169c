"""Which JetStream streams and buckets the kernel keeps, and how long.

All are files on disk. Whether a write is on the platter when it is acknowledged is the server's `sync_interval`:
`always` in the configurations we ship.
"""

import asyncio

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, BucketNotFoundError
from nats.js.kv import KeyValue

from aios_proto import subjects
from aios_proto.errors import BusUnavailable

IDEMPOTENCY_WINDOW_S = 600
"""Seconds for which a call's id is remembered and its result kept, counted from its acceptance and its end."""

MAX_OPEN_CALLS = 200_000
_EVENTS_AGE_S = 7 * 24 * 3600
_EVENTS_BYTES = 4 << 30
# A cluster that has just started has no leader yet: creating a stream fails until it has.
_RETRY_S = 0.2
_PATIENCE_S = 30.0

_STREAM_NAME_IN_USE = 10058


def syscalls_stream(replicas: int) -> StreamConfig:
    """`AIOS_SYSCALLS`: accepted durable calls until they have ended; a work queue."""
    return StreamConfig(
        name=subjects.SYSCALLS_STREAM,
        subjects=[subjects.ALL_DURABLE],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_msgs=MAX_OPEN_CALLS,
        duplicate_window=IDEMPOTENCY_WINDOW_S,
        num_replicas=replicas,
        allow_direct=True,
    )


def events_stream(replicas: int) -> StreamConfig:
    """`AIOS_EVENTS`: facts about calls, workers and decisions; the oldest go first."""
    return StreamConfig(
        name=subjects.EVENTS_STREAM,
        subjects=[subjects.ALL_EVENTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=_EVENTS_AGE_S,
        max_bytes=_EVENTS_BYTES,
        num_replicas=replicas,
        allow_direct=True,
    )


def agents_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_AGENTS`: identities; hashes of secrets, never secrets."""
    return KeyValueConfig(bucket=subjects.AGENTS_BUCKET, history=5, replicas=replicas, direct=True)


def results_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_RESULTS`: the last frame of each durable call, for a caller that lost it."""
    return KeyValueConfig(
        bucket=subjects.RESULTS_BUCKET, history=1, ttl=IDEMPOTENCY_WINDOW_S, replicas=replicas, direct=True
    )


def scheduler_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_SCHEDULER`: which scheduler is active (its revisions are fencing tokens), and the policy in force."""
    return KeyValueConfig(bucket=subjects.SCHEDULER_BUCKET, history=1, replicas=replicas, direct=False)


def leases_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_LEASES`: which instance is the active one of each service of which only one may be; a key a service."""
    return KeyValueConfig(bucket=subjects.LEASES_BUCKET, history=1, replicas=replicas, direct=False)


async def ensure_stream(js: JetStreamContext, config: StreamConfig, patience_s: float = _PATIENCE_S) -> None:
    """Creates a stream, or updates one that differs.

    Raises:
        BusUnavailable: JetStream did not do so within `patience_s` seconds.
    """
    async with _patience(f"stream {config.name}", patience_s):
        while True:
            try:
                await js.add_stream(config)
            except BadRequestError as error:
                if error.err_code != _STREAM_NAME_IN_USE:
                    raise
                await js.update_stream(config)
            except (APIError, NatsError, TimeoutError):
                await asyncio.sleep(_RETRY_S)
                continue
            return


async def ensure_bucket(js: JetStreamContext, config: KeyValueConfig, patience_s: float = _PATIENCE_S) -> KeyValue:
    """Opens a bucket, creating it where it does not exist.

    Raises:
        BusUnavailable: JetStream did not do so within `patience_s` seconds.
    """
    async with _patience(f"bucket {config.bucket}", patience_s):
        while True:
            try:
                return await js.key_value(config.bucket)
            except BucketNotFoundError:
                pass
            except (APIError, NatsError, TimeoutError):
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                return await js.create_key_value(config)
            except (APIError, NatsError, TimeoutError):
                await asyncio.sleep(_RETRY_S)


class _patience:  # noqa: N801 (a context manager that reads like a statement)
    """Turns running out of time into the error a caller understands."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)  # type: ignore[arg-type]
        except TimeoutError as late:
            raise BusUnavailable(f"JetStream could not provide the {self._what} in time") from late
