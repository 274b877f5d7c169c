"""On a bus of three nodes a commit is all or nothing too, and outlives the node that led."""

import asyncio
from pathlib import Path

import pytest
from support.nats_cluster import running_cluster

from aios_proto.errors import BusUnavailable
from aios_proto.subjects import STORAGE_BUCKET
from aios_storage.adapters.jetstream_store import JetStreamStore
from aios_storage.ports import Change, Outdated


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_commit_is_replicated_whole(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        nc = await cluster.connect("storage")
        store = JetStreamStore(lambda: nc, lambda: nc.jetstream(timeout=5), 5)
        await store.open(3)
        # The leader is chosen a moment after the stream was made.
        await patient(store, [Change("t.a", b"1", 0), Change("t.b", b"1", 0)])
        with pytest.raises(Outdated):
            await store.commit([Change("t.a", b"2", (await store.get("t.a")).revision), Change("t.b", b"2", 0)])
        assert (await store.get("t.a")).value == b"1"
        info = await nc.jetstream().stream_info(f"KV_{STORAGE_BUCKET}")
        assert info.cluster is not None
        assert info.cluster.leader is not None
        cluster.kill(info.cluster.leader)
        async with asyncio.timeout(60):
            while True:
                try:
                    found = await store.get("t.a")
                    break
                except BusUnavailable:
                    await asyncio.sleep(0.1)
        assert found.value == b"1"
        await patient(store, [Change("t.a", b"3", found.revision), Change("t.c", b"3", 0)])
        assert sorted(await store.keys("t.*")) == ["t.a", "t.b", "t.c"]
        await nc.close()


async def patient(store: JetStreamStore, changes: list[Change]) -> None:
    """Commits once a leader is there."""
    async with asyncio.timeout(60):
        while True:
            try:
                await store.commit(changes)
            except BusUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
