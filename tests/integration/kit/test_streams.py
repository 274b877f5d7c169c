"""What JetStream holds after the services have started, however often they did."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType
from support.nats_server import NatsServer

from aios_kit.streams import (
    IDEMPOTENCY_WINDOW_S,
    agents_bucket,
    ensure_bucket,
    ensure_stream,
    events_stream,
    results_bucket,
    syscalls_stream,
)
from aios_proto.errors import BusUnavailable


@pytest.fixture
async def js(own_bus: NatsServer) -> AsyncIterator[JetStreamContext]:
    async def quiet(_: Exception) -> None: ...

    nc = await own_bus.connect(error_cb=quiet)
    yield nc.jetstream(timeout=10)
    await nc.close()


async def test_the_queue_of_calls_keeps_each_on_disk_until_it_is_acknowledged(js: JetStreamContext) -> None:
    await ensure_stream(js, syscalls_stream(1))
    config = (await js.stream_info("AIOS_SYSCALLS")).config
    assert config.subjects == ["aios.q.>"]
    assert (config.retention, config.storage) == (RetentionPolicy.WORK_QUEUE, StorageType.FILE)
    assert config.discard == DiscardPolicy.NEW
    assert config.duplicate_window == IDEMPOTENCY_WINDOW_S


async def test_every_replica_may_ensure_the_same_at_once_and_again(js: JetStreamContext) -> None:
    await asyncio.gather(*(ensure_stream(js, events_stream(1)) for _ in range(5)))
    await js.publish("aios.evt.acme.syscall.denied", b"fact")
    await ensure_stream(js, events_stream(1))
    assert (await js.stream_info("AIOS_EVENTS")).state.messages == 1


async def test_a_stream_of_an_older_version_is_brought_up_to_date_and_keeps_its_messages(js: JetStreamContext) -> None:
    await js.add_stream(replace(events_stream(1), max_bytes=1 << 20, max_age=60))
    await js.publish("aios.evt.acme.syscall.denied", b"fact")
    await ensure_stream(js, events_stream(1))
    info = await js.stream_info("AIOS_EVENTS")
    assert info.config.max_age == events_stream(1).max_age
    assert info.state.messages == 1


async def test_a_bucket_is_made_once_and_keeps_its_values(js: JetStreamContext) -> None:
    first = await ensure_bucket(js, agents_bucket(1))
    await first.put("acme.alice", b"1")
    second = await ensure_bucket(js, agents_bucket(1))
    assert (await second.get("acme.alice")).value == b"1"


async def test_replicas_that_make_a_bucket_at_once_all_get_it(js: JetStreamContext) -> None:
    buckets = await asyncio.gather(*(ensure_bucket(js, results_bucket(1)) for _ in range(5)))
    await buckets[0].put("a.b.c", b"frame")
    assert [(await bucket.get("a.b.c")).value for bucket in buckets] == [b"frame"] * 5


async def test_where_jetstream_cannot_do_it_the_caller_is_told_after_the_patience(js: JetStreamContext) -> None:
    with pytest.raises(BusUnavailable, match="AIOS_SYSCALLS"):
        await ensure_stream(js, syscalls_stream(3), patience_s=0.5)  # one server holds no three copies
    with pytest.raises(BusUnavailable, match="AIOS_AGENTS"):
        await ensure_bucket(js, agents_bucket(3), patience_s=0.5)


async def test_ensuring_waits_for_a_bus_that_is_coming_back(own_bus: NatsServer, js: JetStreamContext) -> None:
    own_bus.restart()
    own_bus.stop()
    ensuring = asyncio.create_task(ensure_stream(js._nc.jetstream(timeout=1), syscalls_stream(1)))
    await asyncio.wait((ensuring,), timeout=0.3)
    assert not ensuring.done()
    own_bus.start()
    await asyncio.wait_for(ensuring, 15)
    assert (await js.stream_info("AIOS_SYSCALLS")).config.name == "AIOS_SYSCALLS"
