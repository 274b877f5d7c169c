"""What somebody who follows a bucket sees, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from support.nats_server import NatsServer

from aios_kit.kv_watch import watch_bucket

BUCKET = "WATCHED"


@pytest.fixture
async def js(own_bus: NatsServer) -> AsyncIterator[JetStreamContext]:
    nc: Client = await own_bus.connect()
    js = nc.jetstream()
    await js.create_key_value(bucket=BUCKET, history=3)
    yield js
    await nc.close()


async def present(js: JetStreamContext, keys: str = ">") -> dict[str, str | None]:
    """What is there by the time of the mark; None for a removal."""
    found: dict[str, str | None] = {}
    async with asyncio.timeout(10), aclosing(watch_bucket(js, BUCKET, keys)) as entries:
        async for entry in entries:
            if entry is None:
                return found
            found[entry.key] = None if entry.operation else (entry.value or b"").decode()
    raise AssertionError("the watch ended")


async def test_an_empty_bucket_is_shown_as_empty(js: JetStreamContext) -> None:
    assert await present(js) == {}


async def test_the_mark_never_comes_before_what_is_there(js: JetStreamContext) -> None:
    bucket = await js.key_value(BUCKET)
    await bucket.put("a", b"1")
    for _ in range(200):
        assert await present(js) == {"a": "1"}


async def test_only_the_keys_asked_for_are_shown_with_their_last_value(js: JetStreamContext) -> None:
    bucket = await js.key_value(BUCKET)
    for key, value in (("x.a", b"1"), ("x.a", b"2"), ("x.b", b"3"), ("y.a", b"4")):
        await bucket.put(key, value)
    await bucket.delete("x.b")
    assert await present(js, "x.>") == {"x.a": "2", "x.b": None}
    assert await present(js, "z.>") == {}


async def test_the_mark_comes_though_what_was_there_is_purged_before_it_is_sent(
    js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_kit.kv_watch._QUIET_S", 0.1)
    bucket = await js.key_value(BUCKET)
    for number in range(150):  # a few of them hit the moment
        for key in range(6):
            await bucket.put(f"x.{key}", b"x")
        watching = asyncio.create_task(present(js))
        await asyncio.sleep(number % 16 * 0.00025)
        await js.purge_stream(f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.x.>")
        await watching


async def test_changes_follow_the_mark(js: JetStreamContext) -> None:
    bucket = await js.key_value(BUCKET)
    async with asyncio.timeout(10), aclosing(watch_bucket(js, BUCKET)) as entries:
        assert await anext(entries) is None
        await bucket.put("a", b"1")
        await bucket.delete("a")
        seen = [await anext(entries) for _ in range(2)]
    assert [(entry.key, entry.operation) for entry in seen if entry is not None] == [("a", None), ("a", "DEL")]
