"""The audit log in JetStream: stream `AIOS_AUDIT`, one subject a tenant, batches of chained lines.

Any number of replicas write one chain a tenant: a batch is stored only where it follows the batch it was chained to
(`Nats-Expected-Last-Subject-Sequence`); who was overtaken reads the new head and chains again. Whoever stored the last
batch knows the head and needs one round trip for the next, the others two: under load it would go on to win. So a
writer that is overtaken several times in a row says so, and the others leave it the time for a batch. A batch whose
acknowledgement was lost is not stored twice (`Nats-Msg-Id`). The stream refuses to delete or purge messages.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError
from pydantic import JsonValue

from aios_access.audit_chain import Head, chain_lines, head_of
from aios_access.audit_seal import Sealer
from aios_kit.logs import Log
from aios_kit.streams import ensure_stream
from aios_kit.tasks import end
from aios_proto import subjects
from aios_proto.errors import BusUnavailable

AuditRecord = Mapping[str, JsonValue] | str

_MSG_ID = "Nats-Msg-Id"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_OVERTAKEN = 10071
_BATCH = 512
_TENANTS_AT_ONCE = 32
_RETRY_S = 0.2
_OPEN_S = 30.0
_FETCH = 16
_FETCH_S = 5.0
_DUPLICATE_WINDOW_S = 120
_OVERTAKEN_OFTEN = 3
# One for a batch that is under way, two for the rival's: its reading of the head, and its batch; one to spare.
_YIELD_ROUND_TRIPS = 4
_MOST_YIELD_S = 0.5


def audit_stream(replicas: int, max_age_s: float) -> StreamConfig:
    """`AIOS_AUDIT`: what was decided and how it ended; kept for ever unless an age is given, never deleted by hand."""
    return StreamConfig(
        name=subjects.AUDIT_STREAM,
        subjects=[subjects.ALL_AUDIT],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=max_age_s,
        duplicate_window=_DUPLICATE_WINDOW_S,
        num_replicas=replicas,
        allow_direct=True,
        deny_delete=True,
        deny_purge=True,
    )


async def open_audit_stream(js: JetStreamContext, config: StreamConfig, log: Log) -> None:
    """Makes the stream where there is none. One that is there stays as it is: not even access may change it.

    Raises:
        BusUnavailable: JetStream did not provide it in time.
    """
    deadline = time.monotonic() + _OPEN_S
    while True:
        try:
            present = (await js.stream_info(subjects.AUDIT_STREAM)).config
        except NotFoundError:
            await ensure_stream(js, config)
            return
        except (NatsError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise BusUnavailable("JetStream could not provide the audit log in time") from error
            await asyncio.sleep(_RETRY_S)
            continue
        if (present.max_age or 0, present.num_replicas) != (config.max_age or 0, config.num_replicas):
            log.warning("the audit log keeps the age and the replicas it was made with; change them on the bus")
        return


@dataclass(slots=True)
class _Chain:
    """What this writer knows of one tenant's chain.

    Attributes:
        waiting: records not stored yet, oldest first.
        recorded: how many were ever given to this writer.
        stored: how many of those are on disk.
        head: where the chain ends; None if that must be asked.
        stream_seq: of the message that holds the head; 0 of an empty chain.
        batch_id: of the batch that is on its way or was lost on it.
        batch_size: its records.
        waiters: who wait for `stored` to reach a number.
        overtaken: how often in a row another writer was faster.
        round_trip_s: what the last batch took.
        yield_until_s: until when (on a steady clock) another writer is left to go first.
    """

    waiting: deque[AuditRecord] = field(default_factory=deque)
    recorded: int = 0
    stored: int = 0
    head: Head | None = None
    stream_seq: int = 0
    batch_id: str = ""
    batch_size: int = 0
    waiters: list[tuple[int, "asyncio.Future[None]"]] = field(default_factory=list)
    overtaken: int = 0
    round_trip_s: float = 0.0
    yield_until_s: float = 0.0


class AuditWriter:
    """Takes records in without waiting and stores them in batches.

    Args:
        js: JetStream, with its timeout.
        sealer: signs each batch; None leaves them unsealed.
        log: gets what goes wrong.
        linger_s: seconds a record may wait for others.
        capacity: records that may wait for the bus; see `full`.
        say_overtaken: awaited with the tenant where other writers have been faster several times in a row.
    """

    def __init__(
        self,
        js: JetStreamContext,
        sealer: Sealer | None,
        log: Log,
        *,
        linger_s: float,
        capacity: int,
        say_overtaken: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._js = js
        self._sealer = sealer
        self._log = log
        self._linger_s = linger_s
        self._capacity = capacity
        self._say_overtaken = say_overtaken
        self._chains: dict[str, _Chain] = {}
        self._waiting = 0
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._slots = asyncio.Semaphore(_TENANTS_AT_ONCE)
        self._writer: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Records that are not stored yet."""
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether no further call should be let in before some records are stored."""
        return self._waiting >= self._capacity

    def open(self) -> None:
        """Begins to write."""
        self._writer = asyncio.create_task(self._write(), name="audit log")

    async def close(self, timeout_s: float) -> None:
        """Stores what is waiting, as far as the bus takes it within `timeout_s`, and ends."""
        if self._writer is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                for tenant in list(self._chains):
                    await self.stored(tenant)
        except TimeoutError:
            self._log.error("audit records were not stored", records=self._waiting)
        await end(self._writer)

    def record(self, tenant: str, fields: AuditRecord) -> None:
        """Adds one record to a tenant's chain."""
        chain = self._chains.get(tenant)
        if chain is None:
            chain = self._chains[tenant] = _Chain()
        chain.waiting.append(fields)
        chain.recorded += 1
        self._waiting += 1
        if not self._work.is_set():
            self._work.set()

    async def stored(self, tenant: str) -> None:
        """Returns when everything recorded so far for this tenant is on disk; does not wait for the linger."""
        chain = self._chains.get(tenant)
        if chain is None or chain.stored >= chain.recorded:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        chain.waiters.append((chain.recorded, waiter))
        self._urgent.set()
        await waiter

    def let_others_first(self, tenant: str) -> None:
        """Another writer has been overtaken several times in a row: if it was by this one, it now has its turn."""
        chain = self._chains.get(tenant)
        if chain is not None and chain.head is not None:
            yield_s = min(_MOST_YIELD_S, _YIELD_ROUND_TRIPS * chain.round_trip_s)
            chain.yield_until_s = time.monotonic() + yield_s

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            try:
                async with asyncio.timeout(self._linger_s):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._work.clear()
            self._urgent.clear()
            due = [(tenant, chain) for tenant, chain in self._chains.items() if chain.waiting]
            if len(due) == 1:
                await self._write_chain(*due[0])
            else:
                async with asyncio.TaskGroup() as group:
                    for tenant, chain in due:
                        group.create_task(self._write_chain(tenant, chain))

    async def _write_chain(self, tenant: str, chain: _Chain) -> None:
        async with self._slots:
            while chain.waiting:
                try:
                    await self._write_batch(tenant, chain)
                except (NatsError, TimeoutError, BusUnavailable) as error:
                    chain.head = None
                    self._log.warning(
                        "the audit log cannot be written yet",
                        waiting=self._waiting,
                        error=str(error) or type(error).__name__,
                    )
                    await asyncio.sleep(_RETRY_S)

    async def _write_batch(self, tenant: str, chain: _Chain) -> None:
        if (yield_s := chain.yield_until_s - time.monotonic()) > 0:
            await asyncio.sleep(yield_s)
            chain.head = None
        if chain.head is None:
            chain.head, chain.stream_seq = await read_head(self._js, tenant)
        if not chain.batch_id:
            # The same records stay together under this id until they are stored.
            chain.batch_id, chain.batch_size = secrets.token_hex(8), min(_BATCH, len(chain.waiting))
        records: Sequence[AuditRecord] = list(islice(chain.waiting, chain.batch_size))
        lines, head = chain_lines(tenant, chain.head, records)
        if self._sealer is not None:
            lines.append(self._sealer.seal(tenant, head))
        started = time.monotonic()
        try:
            ack = await self._js.publish(
                subjects.audit(tenant),
                b"".join(lines),
                stream=subjects.AUDIT_STREAM,
                headers={_MSG_ID: chain.batch_id, _EXPECTED: str(chain.stream_seq)},
            )
        except APIError as error:
            if error.err_code != _OVERTAKEN:
                raise
            chain.head = None
            chain.overtaken += 1
            if chain.overtaken >= _OVERTAKEN_OFTEN and self._say_overtaken is not None:
                await self._say_overtaken(tenant)
            return
        chain.overtaken, chain.round_trip_s = 0, time.monotonic() - started
        chain.head, chain.stream_seq = (None, 0) if ack.duplicate else (head, ack.seq)
        chain.batch_id = ""
        for _ in records:
            chain.waiting.popleft()
        chain.stored += len(records)
        self._waiting -= len(records)
        for number, waiter in chain.waiters:
            if number <= chain.stored and not waiter.done():
                waiter.set_result(None)
        chain.waiters = [each for each in chain.waiters if not each[1].done()]


async def read_head(js: JetStreamContext, tenant: str) -> tuple[Head, int]:
    """Where a tenant's chain ends, and the stream's number of the message that holds it; read from the leader.

    Raises:
        BusUnavailable: it cannot be read.
    """
    try:
        last = await js.get_last_msg(subjects.AUDIT_STREAM, subjects.audit(tenant))
    except NotFoundError:
        return Head(), 0
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the audit log cannot be read", retry_after_s=1) from error
    head = head_of(last.data or b"")
    if head is None:
        # Something else was stored there; verification will say so. The chain begins anew behind it.
        return Head(), last.seq or 0
    return head, last.seq or 0


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One message of the log.

    Attributes:
        stream_seq: its number in the stream.
        lines: its bytes.
        following: messages of this tenant after it.
    """

    stream_seq: int
    lines: bytes
    following: int


async def read_batches(js: JetStreamContext, tenant: str, from_stream_seq: int = 1) -> AsyncIterator[StoredBatch]:
    """A tenant's batches, oldest first, up to those that are stored when it reaches them.

    Raises:
        BusUnavailable: the log cannot be read.
    """
    subject = subjects.audit(tenant)
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(1, from_stream_seq),
        ack_policy=AckPolicy.NONE,
        inactive_threshold=30,
        mem_storage=True,
        num_replicas=1,
    )
    try:
        if not await has_records(js, tenant):
            return
        subscription = await js.pull_subscribe(subject, stream=subjects.AUDIT_STREAM, config=config)
        try:
            info = await subscription.consumer_info()
            left = info.num_pending or 0
            while left > 0:
                for message in await subscription.fetch(min(_FETCH, left), timeout=_FETCH_S):
                    place = message.metadata
                    left -= 1
                    yield StoredBatch(place.sequence.stream, message.data, place.num_pending or 0)
        finally:
            await subscription.unsubscribe()
            await js.delete_consumer(subjects.AUDIT_STREAM, info.name)
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the audit log cannot be read", retry_after_s=1) from error


async def has_records(js: JetStreamContext, tenant: str) -> bool:
    """Whether a tenant's chain has begun."""
    try:
        await js.get_last_msg(subjects.AUDIT_STREAM, subjects.audit(tenant))
    except NotFoundError:
        return False
    return True
