"""What lasts: acknowledged notes through kills, secrets through encryption, vectors through a change of model."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.js.kv import KeyValue
from support.frame_inbox import KernelCaller
from support.memory_calls import add, contents, done, refused
from support.nats_server import NatsServer
from support.running_service import InProcess, ServiceProcess, running_process
from support.word_embedder import WordEmbedder

from aios_kit.envelope import key_version
from aios_kit.key_ring import FileKeyRing
from aios_proto import subjects

StartMemory = Callable[..., AbstractAsyncContextManager[InProcess]]


@asynccontextmanager
async def memory_process(server: NatsServer, folder: Path) -> AsyncIterator[ServiceProcess]:
    env = {
        "AIOS_KEY_RING_DIR": str(folder / "keys"),
        "AIOS_VECTORS_FOLDER": str(folder / "vectors"),
        "AIOS_MEMORY_HOT_BYTES": "2000",
    }
    async with running_process("aios_memory", server, env=env) as process:
        yield process


async def patiently(caller: KernelCaller, operation: str, body: dict[str, object], call_id: str) -> dict[str, Any]:
    """Sends a call with the same id until it is answered, as the SDK does."""
    while True:
        try:
            async with asyncio.timeout(1.0):
                frame = await caller.call("memory", operation, body, call_id=call_id)
        except TimeoutError:
            continue
        if frame["type"] == "done" or not frame["error"]["retryable"]:
            return frame


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_killing_the_manager_loses_and_doubles_nothing(
    server: NatsServer, embedding: InProcess, alice: KernelCaller, tmp_path: Path
) -> None:
    rounds, operations = 4, 60
    expected: dict[str, str] = {}
    chosen = random.Random(7)
    for round_ in range(rounds):
        async with memory_process(server, tmp_path) as process:
            killing_at = chosen.randrange(operations)

            async def one(number: int) -> None:
                call_id = f"r{round_}-{number}"  # noqa: B023
                kind = chosen.random()
                mine = [name for name in expected if hash(name) % operations == number]
                if mine and kind < 0.3:
                    name = mine[0]
                    frame = await patiently(alice, "update", {"memory_id": name, "content": call_id}, call_id)
                    assert frame["type"] == "done", frame
                    expected[name] = call_id
                elif mine and kind < 0.5:
                    name = mine[0]
                    frame = await patiently(alice, "remove", {"memory_id": name}, call_id)
                    assert frame["type"] == "done", frame
                    del expected[name]
                else:
                    frame = await patiently(alice, "add", {"content": call_id}, call_id)
                    expected[frame["result"]["memory_id"]] = call_id
                if number == killing_at:  # noqa: B023
                    await process.kill()

            work = asyncio.gather(*(one(number) for number in range(operations)))
            await asyncio.wait((asyncio.ensure_future(process.wait(60)),), timeout=60)
            async with memory_process(server, tmp_path):
                await work
                found = await done(alice, "list", {"limit": 1000})
                stored = {memory["memory_id"]: memory["content"] for memory in found["memories"]}
                assert stored == expected
                assert max(Counter(stored.values()).values()) == 1
                assert (await done(alice, "usage"))["items"] == len(expected)


async def test_a_restart_keeps_notes_pools_and_grants(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller, bob: KernelCaller
) -> None:
    async with start_memory():
        await add(alice, "apple pie", tags=["food"])
        await done(alice, "pool.create", {"pool": "team", "writers": ["bob"]})
        await add(alice, "in the pool", pool="team")
        await done(alice, "grant", {"agent": "bob"})
        await contents(alice, "search", query="apple", mode="semantic")
    async with start_memory():
        assert await contents(bob, "search", agent="alice", query="apple", mode="semantic") == ["apple pie"]
        assert await contents(bob, "list", pool="team") == ["in the pool"]
        assert await contents(alice, "search", query="pie", mode="keyword", tags=["food"]) == ["apple pie"]


async def test_lost_vectors_are_made_again(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller, tmp_path: Path, embedder: WordEmbedder
) -> None:
    async with start_memory():
        await add(alice, "apple pie")
        await contents(alice, "search", query="apple", mode="semantic")
    before = len(embedder.texts)
    async with start_memory():
        assert await contents(alice, "search", query="apple", mode="semantic") == ["apple pie"]
    assert embedder.texts[before:].count("apple pie") == 0  # its vector was still there
    shutil.rmtree(tmp_path / "vectors")
    async with start_memory():
        assert await contents(alice, "search", query="apple", mode="semantic") == ["apple pie"]


async def test_a_new_model_embeds_everything_anew(
    start_memory: StartMemory,
    embedding: InProcess,
    alice: KernelCaller,
    bob: KernelCaller,
    embedder: WordEmbedder,
    tmp_path: Path,
) -> None:
    async with start_memory():
        await add(alice, "apple pie")
        await contents(alice, "search", query="apple", mode="semantic")
        await add(bob, "apple tart")
        await contents(bob, "search", query="apple", mode="semantic")
    embedder.model, embedder.dimensions = "other", 32
    async with start_memory():
        assert await contents(alice, "search", query="apple", mode="semantic") == ["apple pie"]
        # Bob's are embedded anew although he asks for nothing; then the old vectors go.
        async with asyncio.timeout(15):
            while len(list((tmp_path / "vectors").glob("memory-*"))) > 1 or embedder.texts.count("apple tart") < 2:
                await asyncio.sleep(0.02)
        assert await contents(bob, "search", query="apple", mode="semantic") == ["apple tart"]


async def test_nothing_readable_is_on_disk(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller, tmp_path: Path, server: NatsServer
) -> None:
    marker = "xyzzy-plugh-marker"
    async with start_memory():
        name = await add(alice, f"{marker} content", tags=[f"{marker}-tag"], metadata={"k": f"{marker}-meta"})
        await done(alice, "update", {"memory_id": name, "content": f"{marker} again"})
        assert await contents(alice, "search", query=marker, tags=[f"{marker}-tag"]) == [f"{marker} again"]
    server.stop()
    assert files_with(tmp_path, b"AIOS_MEMORY")
    assert files_with(tmp_path, marker.encode()) == []


async def test_a_shredded_tenant_has_nothing_left_and_others_lose_nothing(
    memory: InProcess, alice: KernelCaller, callers: Callable[..., Any], tmp_path: Path
) -> None:
    stranger = await callers("alice", "other")
    name = await add(alice, "apple pie")
    await add(stranger, "apple pie")
    await contents(alice, "search", query="apple", mode="semantic")
    await FileKeyRing(tmp_path / "keys").destroy("acme")
    assert await refused(alice, "get", {"memory_id": name}) == "resource.not_found"
    assert await refused(alice, "search", {"query": "apple"}) == "resource.not_found"
    assert await refused(alice, "add", {"content": "more"}) == "resource.not_found"
    assert await contents(stranger, "search", query="apple") == ["apple pie"]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_shredded_tenant_leaves_memory_and_disk_without_a_further_call(
    memory: InProcess, alice: KernelCaller, tmp_path: Path, server: NatsServer, callers: Callable[..., Any]
) -> None:
    stranger = await callers("alice", "other")
    for caller in (alice, stranger):
        await add(caller, "apple pie")
        await contents(caller, "search", query="apple", mode="semantic")
    await FileKeyRing(tmp_path / "keys").destroy("acme")
    storage = await server.connect()
    await storage.publish(subjects.event("acme", "storage.shredded"), b"{}")
    bucket = await storage.jetstream().key_value("AIOS_MEMORY")
    async with asyncio.timeout(90):  # what was written just then goes once no embedding can be on its way, after 30 s
        while await acme_keys(bucket):
            await asyncio.sleep(0.02)
    await storage.close()
    assert await contents(stranger, "search", query="apple", mode="semantic") == ["apple pie"]


async def test_a_tenant_that_was_shredded_meanwhile_is_gone_after_the_start(
    start_memory: StartMemory,
    embedding: InProcess,
    alice: KernelCaller,
    callers: Callable[..., Any],
    tmp_path: Path,
    server: NatsServer,
) -> None:
    stranger = await callers("alice", "other")
    async with start_memory():
        await add(alice, "apple pie")
        await add(stranger, "apple tart")
    await FileKeyRing(tmp_path / "keys").destroy("acme")
    looking = await server.connect()
    bucket = await looking.jetstream().key_value("AIOS_MEMORY")
    async with start_memory():
        async with asyncio.timeout(15):
            while await acme_keys(bucket):
                await asyncio.sleep(0.02)
        assert await contents(stranger, "list") == ["apple tart"]
    await looking.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_new_keys_reach_what_is_not_in_use(
    memory: InProcess, alice: KernelCaller, tmp_path: Path, server: NatsServer
) -> None:
    ring = FileKeyRing(tmp_path / "keys")
    name = await add(alice, "apple pie")
    version = await ring.rotate("acme")
    storage = await server.connect()
    await storage.publish(subjects.event("acme", "storage.rotated"), b"{}")
    bucket = await storage.jetstream().key_value("AIOS_MEMORY")
    async with asyncio.timeout(90):  # what was written just then goes once no embedding can be on its way, after 30 s
        while any([key_version((await bucket.get(key)).value or b"") < version for key in await acme_keys(bucket)]):
            await asyncio.sleep(0.02)
    await storage.close()
    await ring.retire("acme", version)
    assert (await done(alice, "get", {"memory_id": name}))["content"] == "apple pie"


async def test_keys_are_rotated_under_load_and_old_ones_can_be_destroyed(
    memory: InProcess, alice: KernelCaller, tmp_path: Path, server: NatsServer
) -> None:
    ring = FileKeyRing(tmp_path / "keys")
    made = [await add(alice, f"note {number}", ttl_s=1000) for number in range(30)]
    version = await ring.rotate("acme")
    made += [await add(alice, f"note {number}") for number in range(30, 40)]
    store_says = await server.connect()
    bucket = await store_says.jetstream().key_value("AIOS_MEMORY")
    async with asyncio.timeout(15):
        while any([key_version((await bucket.get(key)).value or b"") < version for key in await acme_keys(bucket)]):
            await done(alice, "usage")
    await store_says.close()
    await ring.retire("acme", version)
    assert len(await contents(alice, "list")) == 40
    for number, name in enumerate(made):
        note = await done(alice, "get", {"memory_id": name})
        assert note["content"] == f"note {number}"
        assert ("expires_ms" in note) == (number < 30)


async def acme_keys(bucket: KeyValue) -> list[str]:
    """As the stream counts them: nats-py's own list never ends where a purge takes what it waits for."""
    prefix = "$KV.AIOS_MEMORY."
    info = await bucket._js.stream_info("KV_AIOS_MEMORY", subjects_filter=f"{prefix}acme.>")
    return [subject.removeprefix(prefix) for subject in info.state.subjects or ()]


def files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]
