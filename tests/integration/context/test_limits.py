"""Quotas, expiry, and what the sweep may remove."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from support.context_caller import ContextCaller, StartContexts
from support.nats_server import NatsServer

from aios_context.adapters.kv_context_store import KvContextStore
from aios_context.sweeping import Sweep, Swept
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_proto.errors import QuotaExhausted, ResourceNotFound
from aios_proto.messages.context import ContextInfo, ContextListResult, SnapshotInfo

LONG = "x" * 20_000
HOUR_MS = 3_600_000


@pytest.fixture
async def sweep(server: NatsServer) -> AsyncIterator[Sweep]:
    nc = await server.connect()
    settings = ServiceSettings(nats_url=server.url)
    yield Sweep(await KvContextStore.open(nc.jetstream(), 1), 60, setup_logging("context", settings))
    await nc.close()


async def test_an_agent_gets_no_more_contexts_and_snapshots_than_its_quota(
    start_contexts: StartContexts, alice: ContextCaller
) -> None:
    async with start_contexts(context_per_agent=2, context_snapshots_per_agent=1):
        await alice.open("a", context="one")
        await alice.open("b", context="two")
        for call in (alice.open("c", context="three"), alice.call("fork", ContextInfo, context="one")):
            with pytest.raises(QuotaExhausted) as caught:
                await call
            assert caught.value.field == "context"
        await alice.as_agent("bob").open("mine", context="one")
        await alice.call("close", ContextInfo, context="one")
        await alice.open("c", context="three")
        taken = await alice.call("snapshot", SnapshotInfo, context="two")
        with pytest.raises(QuotaExhausted) as caught:
            await alice.call("snapshot", SnapshotInfo, context="two")
        assert caught.value.field == "snapshot"
        await alice.call("discard", SnapshotInfo, snapshot=taken.snapshot)
        await alice.call("snapshot", SnapshotInfo, context="two")


async def test_a_context_that_is_full_names_the_field_and_keeps_what_it_has(
    start_contexts: StartContexts, alice: ContextCaller
) -> None:
    async with start_contexts(context_max_bytes=50_000, context_max_turns=5):
        await alice.open(LONG, LONG, context="large")
        with pytest.raises(QuotaExhausted) as caught:
            await alice.append("large", LONG)
        assert caught.value.field == "messages"
        assert await alice.texts("large") == [LONG, LONG]
        await alice.open(*"abcde", context="many")
        with pytest.raises(QuotaExhausted, match="5 turns"):
            await alice.append("many", "f")


@pytest.mark.usefixtures("contexts")
async def test_an_expired_context_is_gone_and_its_name_is_free(alice: ContextCaller) -> None:
    opened = await alice.open("old", context="talk", ttl_s=0.001)
    while time.time_ns() // 1_000_000 <= (opened.expires_ms or 0):
        await asyncio.sleep(0.001)
    with pytest.raises(ResourceNotFound):
        await alice.append("talk", "too late")
    assert (await alice.call("list", ContextListResult)).contexts == []
    await alice.open("new", context="talk")
    assert await alice.texts("talk") == ["new"]


@pytest.mark.usefixtures("contexts")
async def test_the_sweep_removes_what_has_expired_and_nothing_that_is_shared(
    alice: ContextCaller, sweep: Sweep
) -> None:
    await alice.open(LONG, "short-lived", context="talk", ttl_s=1800)
    await alice.call("fork", ContextInfo, context="talk", fork="fork")
    await alice.open(LONG + "other", context="alone", ttl_s=1800)
    await alice.append("fork", "keeps it", call_id="touch")
    kept = await alice.call("snapshot", SnapshotInfo, context="fork", ttl_s=7 * 24 * 3600)
    await alice.call("snapshot", SnapshotInfo, context="alone", ttl_s=1800)
    now_ms = time.time_ns() // 1_000_000
    assert await sweep.once(now_ms, 0) == Swept(0, 0, 0)
    # An hour later all three contexts and a snapshot have expired; the other snapshot still needs what they shared.
    swept = await sweep.once(now_ms + HOUR_MS, 0)
    assert (swept.contexts, swept.snapshots) == (3, 1)
    assert await sweep.once(now_ms + HOUR_MS, 30) == Swept(0, 0, 0)
    restored = await alice.call("restore", ContextInfo, snapshot=kept.snapshot)
    assert await alice.texts(restored.context) == [LONG, "short-lived", "keeps it"]


@pytest.mark.usefixtures("contexts")
async def test_unreferenced_segments_go_after_the_grace_and_not_before(
    alice: ContextCaller, server: NatsServer
) -> None:
    nc = await server.connect()
    store = await KvContextStore.open(nc.jetstream(), 1)
    sweep = Sweep(store, 0, setup_logging("context", ServiceSettings(nats_url=server.url)))
    await alice.open(LONG, context="talk")
    assert len([key async for key in store.segment_ages()]) == 1
    await alice.call("close", ContextInfo, context="talk")
    patient = Sweep(store, 60, setup_logging("context", ServiceSettings(nats_url=server.url)))
    now_ms = time.time_ns() // 1_000_000
    assert (await patient.once(now_ms, 0)).segments == 0
    assert (await patient.once(now_ms, 1000)).segments == 0  # written a moment ago, whatever the other clock says
    assert (await sweep.once(now_ms, 0)).segments == 1
    assert [key async for key in store.segment_ages()] == []
    await nc.close()


@pytest.mark.usefixtures("contexts")
async def test_a_closed_context_answers_its_last_call_until_the_sweep(alice: ContextCaller, sweep: Sweep) -> None:
    await alice.open("a", context="talk")
    closed = await alice.call("close", ContextInfo, context="talk", call_id="close-1")
    now_ms = time.time_ns() // 1_000_000
    assert (await sweep.once(now_ms, 0)).contexts == 0
    assert await alice.call("close", ContextInfo, context="talk", call_id="close-1") == closed
    assert (await sweep.once(now_ms + HOUR_MS, 0)).contexts == 1
    await alice.open("b", context="talk")
    assert await alice.texts("talk") == ["b"]
