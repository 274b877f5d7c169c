"""Who holds a lease, and what a holder may believe, on a real bucket."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from nats.js.kv import KeyValue
from support.nats_server import NatsServer

from aios_kit.lease import Holder, Lease
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_kit.streams import ensure_bucket, leases_bucket

TTL_S = 0.4
LONG_S = 30.0


@pytest.fixture
async def bucket(shared_bus: NatsServer) -> AsyncIterator[KeyValue]:
    nc = await shared_bus.connect()
    yield await ensure_bucket(nc.jetstream(), leases_bucket(1))
    await nc.close()


class Candidate:
    """One process that wants the lease, and what it was told."""

    def __init__(
        self, bucket: KeyValue, instance: str, *, key: str, ttl_s: float = TTL_S, gone: bool | None = None
    ) -> None:
        self.waited, self.lost, self.asked = asyncio.Event(), asyncio.Event(), list[str]()

        async def is_gone(holder: Holder) -> bool:
            self.asked.append(holder.process)
            return bool(gone)

        log = setup_logging("test", ServiceSettings())
        self.lease = Lease(
            *(bucket, instance, ttl_s, 5.0, self.waited.set, self.lost.set, log),
            key=key,
            gone=None if gone is None else is_gone,
        )


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


async def test_a_holder_that_does_not_renew_it_finds_that_another_has_it(bucket: KeyValue, key: str) -> None:
    first, second = (Candidate(bucket, name, key=key) for name in ("first", "second"))
    async with asyncio.timeout(20):
        await first.lease.acquire()
        await second.lease.acquire()
        assert second.waited.is_set()
        assert second.lease.token > first.lease.token
        assert not await first.lease.still_held()
        assert first.lost.is_set()
        assert first.lease.token == 0
        assert await second.lease.still_held()


async def test_a_holder_that_was_late_and_lost_nothing_goes_on(bucket: KeyValue, key: str) -> None:
    only = Candidate(bucket, "only", key=key)
    async with asyncio.timeout(20):
        await only.lease.acquire()
        before = only.lease.token
        await asyncio.sleep(TTL_S * 1.5)
        assert all(await asyncio.gather(*(only.lease.still_held() for _ in range(20))))
        assert only.lease.token == before
        assert not only.lost.is_set()


async def test_what_is_given_back_is_free_at_once(bucket: KeyValue, key: str) -> None:
    first, second = (Candidate(bucket, name, key=key, ttl_s=LONG_S) for name in ("first", "second"))
    async with asyncio.timeout(20):
        await first.lease.acquire()
        waiting = asyncio.create_task(second.lease.acquire())
        await second.waited.wait()
        await first.lease.release()
        await waiting
        assert not await first.lease.still_held()


async def test_the_same_instance_takes_it_from_a_process_that_is_gone_and_waits_for_one_that_is_not(
    bucket: KeyValue, key: str
) -> None:
    first = Candidate(bucket, "same", key=key, ttl_s=LONG_S)
    alive = Candidate(bucket, "same", key=key, ttl_s=LONG_S, gone=False)
    dead = Candidate(bucket, "same", key=key, ttl_s=LONG_S, gone=True)
    async with asyncio.timeout(20):
        await first.lease.acquire()
        waiting = asyncio.create_task(alive.lease.acquire())
        await alive.waited.wait()
        assert alive.asked == [first.lease.process]
        await dead.lease.acquire()
        assert dead.asked == [first.lease.process]
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))
