"""The store port on one JetStream key-value bucket, with commits of several keys at once.

A commit of one key is a published message; one of several is an atomic batch (ADR-50 of NATS, server 2.12 or newer):
the messages are published in order, the last one commits them, and each may demand the revision its key must be at. So
both paths of a move, and what is granted on them, change together or not at all, on one replica or on three. A batch
has a folder of its own on the server's disk until it is committed: several times the price of a single message.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from aios_kit.kv_watch import watch_bucket
from aios_kit.streams import ensure_stream
from aios_proto.errors import BusUnavailable
from aios_proto.ids import new_syscall_id
from aios_proto.subjects import STORAGE_BUCKET
from aios_storage.ports import Change, Entry, Outdated, Seen

_STREAM = f"KV_{STORAGE_BUCKET}"
_PREFIX = f"$KV.{STORAGE_BUCKET}."
_OPERATION = "KV-Operation"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_TTL = "Nats-TTL"
_WRONG_REVISION = frozenset({10071, 10164})
_NO_MESSAGE = 10037
# Long enough for every watcher; afterwards the key is as if it had never been.
_REMOVAL_TTL_S = 24 * 3600
# The server stages at most fifty batches a stream; replicas share them.
_BATCHES_AT_ONCE = 12
_SINGLES_AT_ONCE = 32
_READS_AT_ONCE = 32


def bucket_stream(replicas: int) -> StreamConfig:
    """The stream behind the bucket."""
    return StreamConfig(
        name=_STREAM,
        subjects=[f"{_PREFIX}>"],
        storage=StorageType.FILE,
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=True,
        allow_atomic=True,
        allow_msg_ttl=True,
        num_replicas=replicas,
    )


class JetStreamStore:
    """The `Store` port.

    Args:
        nc: gives the connection, once there is one.
        js: gives JetStream on it.
        timeout_s: longest wait for one answer.
    """

    def __init__(self, nc: Callable[[], Client], js: Callable[[], JetStreamContext], timeout_s: float) -> None:
        self._connection = nc
        self._context = js
        self._timeout_s = timeout_s
        self._batches = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._singles = asyncio.Semaphore(_SINGLES_AT_ONCE)

    @property
    def _nc(self) -> Client:
        return self._connection()

    @property
    def _js(self) -> JetStreamContext:
        return self._context()

    async def open(self, replicas: int) -> None:
        """Makes the bucket where there is none.

        Raises:
            BusUnavailable: JetStream did not do so in time.
        """
        await ensure_stream(self._js, bucket_stream(replicas))

    async def get(self, key: str) -> Entry:
        """See `Store.get`: asks the stream's leader."""
        async with _reaching():
            try:
                found = await self._js.get_last_msg(_STREAM, _PREFIX + key)
            except NotFoundError as error:
                if error.err_code != _NO_MESSAGE:
                    raise BusUnavailable("the store of files is not there yet", retry_after_s=1) from error
                return Entry(None, 0)
        removed = _OPERATION in (found.headers or {})
        written_s = found.time.timestamp() if found.time is not None else 0.0
        return Entry(None if removed else found.data or b"", found.seq or 0, written_s)

    async def fetch(self, key: str) -> bytes | None:
        """See `Store.fetch`. A replica that has not heard of the key yet is not believed."""
        async with _reaching():
            try:
                found = await self._js.get_last_msg(_STREAM, _PREFIX + key, direct=True)
            except NotFoundError:
                return (await self.get(key)).value
        return None if _OPERATION in (found.headers or {}) else found.data

    async def commit(self, changes: Sequence[Change]) -> int:
        """See `Store.commit`."""
        batch = new_syscall_id()
        async with self._batches if len(changes) > 1 else self._singles, _reaching():
            for number, change in enumerate(changes, 1):
                headers = _headers(change)
                if len(changes) > 1:
                    headers |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                if number < len(changes):
                    await self._nc.publish(_PREFIX + change.key, change.value or b"", headers=headers)
                    continue
                if len(changes) > 1:
                    headers["Nats-Batch-Commit"] = "1"
                answer = await self._nc.request(
                    _PREFIX + change.key, change.value or b"", headers=headers, timeout=self._timeout_s
                )
        ack = orjson.loads(answer.data)
        if error := ack.get("error"):
            if error.get("err_code") in _WRONG_REVISION:
                raise Outdated
            raise BusUnavailable(f"JetStream did not take the change: {error.get('description')}", retry_after_s=1)
        revision: int = ack["seq"]
        return revision

    async def keys(self, pattern: str) -> list[str]:
        """See `Store.keys`."""
        found: list[str] = []
        while True:
            ask = orjson.dumps({"subjects_filter": _PREFIX + pattern, "offset": len(found)})
            async with _reaching():
                answer = await self._nc.request(f"$JS.API.STREAM.INFO.{_STREAM}", ask, timeout=self._timeout_s)
            info = orjson.loads(answer.data)
            if error := info.get("error"):
                raise BusUnavailable(f"JetStream could not list keys: {error.get('description')}", retry_after_s=1)
            page = info["state"].get("subjects") or {}
            found += [subject.removeprefix(_PREFIX) for subject in page]
            if not page or len(found) >= info.get("total", 0):
                return found

    async def scan(self, pattern: str) -> AsyncIterator[Seen]:
        """See `Store.scan`.

        Key by key, as they stood when the keys were listed.
        """
        keys = await self.keys(pattern)
        for begin in range(0, len(keys), _READS_AT_ONCE):
            some = keys[begin : begin + _READS_AT_ONCE]
            for key, entry in zip(some, await asyncio.gather(*map(self.get, some)), strict=True):
                if entry.value is not None:
                    yield Seen(key, entry.value, entry.revision)

    async def watch(self, pattern: str, seen: Callable[[Seen | None], Awaitable[None]]) -> None:
        """See `Store.watch`.

        Raises:
            BusUnavailable: the bus or JetStream is away; watch again.
        """
        async with _reaching(), aclosing(watch_bucket(self._js, STORAGE_BUCKET, pattern)) as watcher:
            async for entry in watcher:
                if entry is None:
                    await seen(None)
                else:
                    value = (entry.value or b"") if entry.operation is None else None
                    await seen(Seen(entry.key, value, entry.revision or 0))

    async def purge(self, pattern: str) -> None:
        """See `Store.purge`."""
        async with _reaching():
            await self._js.purge_stream(_STREAM, subject=_PREFIX + pattern)


def _headers(change: Change) -> dict[str, str]:
    headers: dict[str, str] = {}
    if change.revision is not None:
        headers[_EXPECTED] = str(change.revision)
    if change.value is None:
        headers |= {_OPERATION: "DEL", _TTL: f"{_REMOVAL_TTL_S}s"}
    elif change.ttl_s is not None:
        headers[_TTL] = f"{change.ttl_s}s"
    return headers


@asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    try:
        yield
    except NotFoundError:
        raise
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the store of files cannot be reached", retry_after_s=1) from error
