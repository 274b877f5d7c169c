"""The memory manager's figures: calls on the whole road, vectors by the hundred thousand, recall, eviction, kills."""

import asyncio
import os
import random
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
from caches import Arc, Lru, LruKCache, hit_rate, skewed_trace
from part import Part
from report import quantile
from road import Road

from aios import Agent, AiosError
from aios_kit.vectors.port import Collection, Point, Where
from aios_kit.vectors.qdrant_edge import QdrantEdge
from aios_memory.settings import MemorySettings
from aios_stack.data_folder import DataFolder
from aios_stack.supervision import State

GET_P50_MS = 2.0
ADD_P50_MS = 4.0
SEARCH_P95_MS = 30.0
RECALL = 0.95
ARC_SHARE = 0.98

DIMENSIONS = 384
_TENANTS = 4
_CLUSTERS = 500
QUERIES = 300
_INSERT = 1000
_DEADLINE_S = 20
_PATIENCE_S = 300

Vectors = npt.NDArray[np.float32]


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


async def measure_road(road: Road, calls: int, texts: list[str]) -> Part:
    """Get, add and search from the SDK to the manager and back, one at a time, in turns."""
    part = Part("memory, whole road")
    samples: dict[str, list[float]] = {"get": [], "add": [], "search": [], "search by keywords": []}
    async with Agent(token=road.token, url=road.url) as agent:
        names = [(await agent.memory.add(text)).memory_id for text in texts[:200]]
        await _all_embedded(agent)
        chosen = random.Random(1)
        for turn in range(calls + calls // 10):
            kept = turn >= calls // 10
            took = {
                "get": await timed(lambda: agent.memory.get(chosen.choice(names))),
                "add": await timed(lambda: agent.memory.add(chosen.choice(texts))),
            }
            if kept:
                for kind, value in took.items():
                    samples[kind].append(value)
        await _all_embedded(agent)
        for query in texts[200 : 200 + max(20, calls // 10)]:
            samples["search"].append(await timed(lambda: agent.memory.search(query[:80], mode="semantic")))  # noqa: B023
            samples["search by keywords"].append(
                await timed(lambda: agent.memory.search(query[:80], mode="keyword"))  # noqa: B023
            )
    limits = {"get": GET_P50_MS, "add": ADD_P50_MS}
    for kind, values in samples.items():
        part.add(f"{kind} p50", quantile(values, 0.5), "ms", limits.get(kind))
        part.add(f"{kind} p95", quantile(values, 0.95), "ms")
    return part


async def measure_search(road: Road, count: int, texts: list[str]) -> Part:
    """A question's embedding on the whole road, then a search among `count` clustered vectors of several tenants."""
    part = Part(f"search, {count} vectors")
    chosen = np.random.default_rng(1)
    centres = chosen.normal(size=(_CLUSTERS, DIMENSIONS)).astype(np.float32)
    sizes = 1 / np.arange(1, _CLUSTERS + 1)
    with tempfile.TemporaryDirectory(prefix="aios-vectors-") as name:
        store = QdrantEdge(Path(name))
        await store.ensure(Collection("bench", DIMENSIONS, "tenant", ("owner",), ("created_ms",)))
        begun = time.perf_counter()
        for start in range(0, count, _INSERT):
            size = min(_INSERT, count - start)
            vectors = _clustered(chosen, centres, sizes / sizes.sum(), size)
            await store.upsert("bench", [_point(start + row, vectors[row]) for row in range(size)])
        part.add("vectors stored a second", count / (time.perf_counter() - begun), "/s")
        begun = time.perf_counter()
        await store.indexed("bench")
        part.add("wait for the index, in the background", time.perf_counter() - begun, "s")
        whole: list[float] = []
        vectors_only: list[float] = []
        async with Agent(token=road.token, url=road.url) as agent:
            for turn in range(QUERIES):
                query = _clustered(chosen, centres, sizes / sizes.sum(), 1)[0]
                where = Where(equals={"tenant": f"tenant-{turn % _TENANTS}"})
                text = texts[turn % len(texts)][:80]
                embedding = await timed(lambda: agent.llm.embed(text))  # noqa: B023
                searching = await timed(lambda: store.search("bench", query.tolist(), where, 10))  # noqa: B023
                if turn >= QUERIES // 10:
                    whole.append(embedding + searching)
                    vectors_only.append(searching)
        part.add("with tenant filter and query embedding p50", quantile(whole, 0.5), "ms")
        part.add("with tenant filter and query embedding p95", quantile(whole, 0.95), "ms", SEARCH_P95_MS)
        part.add("of it the search p95", quantile(vectors_only, 0.95), "ms")
        await store.close()
    return part


async def measure_recall(embedder_url: str, texts: list[str], count: int) -> Part:
    """How many of the exact ten nearest an index search finds, among real text embeddings."""
    part = Part(f"recall, {count} real texts")
    texts = texts[: count + QUERIES]
    begun = time.perf_counter()
    embedded = await _embed_all(embedder_url, texts)
    part.add("texts embedded a second", len(texts) / (time.perf_counter() - begun), "/s")
    stored, queries = embedded[:count], embedded[count:]
    with tempfile.TemporaryDirectory(prefix="aios-recall-") as name:
        # An index from the start: without one, searches of 20 000 vectors are exact.
        store = QdrantEdge(Path(name), index_after=1000)
        await store.ensure(Collection("bench", DIMENSIONS))
        for start in range(0, count, _INSERT):
            rows = range(start, min(count, start + _INSERT))
            await store.upsert("bench", [_point(row, stored[row]) for row in rows])
            await store.indexed("bench")
        found = 0
        for query in queries:
            exact = np.argsort(-(stored @ query))[:10]
            hits = await store.search("bench", query.tolist(), Where(), 10)
            found += len({_id(int(row)) for row in exact} & {hit.id for hit in hits})
        await store.close()
    part.add("recall@10", found / (10 * len(queries)), "", RECALL, at_most=False)
    return part


def measure_eviction(uses: int) -> Part:
    """LRU-K against LRU and ARC on a skewed trace with walks through it; the tier holds a tenth of the notes."""
    part = Part("eviction")
    keys = 10_000
    trace = skewed_trace(keys, uses)
    k: int = MemorySettings.model_fields["memory_lru_k"].default
    for share in (0.02, 0.1):
        capacity = int(keys * share)
        lru, arc = hit_rate(Lru(capacity), trace), hit_rate(Arc(capacity), trace)
        ours = hit_rate(LruKCache(k, capacity), trace)
        barred = share == 0.1
        part.add(f"LRU-{k} at {share:.0%}", ours, "of uses")
        part.add(f"LRU at {share:.0%}", lru, "of uses")
        part.add(f"ARC at {share:.0%}", arc, "of uses")
        part.add(f"LRU-{k} to LRU at {share:.0%}", ours / lru, "times", 1.0 if barred else None, at_most=False)
        part.add(f"LRU-{k} to ARC at {share:.0%}", ours / arc, "times", ARC_SHARE if barred else None, at_most=False)
    return part


async def measure_kills(road: Road, rounds: int, operations: int) -> Part:
    """Memory and the bus killed at random under mixed operations: what was acknowledged is there, once."""
    part = Part(f"kill -9, {rounds} rounds of {operations}")
    expected: dict[str, str] = {}
    chosen = random.Random(3)
    kills = 0
    async with Agent(token=road.token, url=road.url) as agent:
        for round_ in range(rounds):
            names: asyncio.Queue[int] = asyncio.Queue()
            for number in range(operations):
                names.put_nowait(number)
            workers = [
                asyncio.create_task(_operate(agent, names, expected, chosen, round_, worker)) for worker in range(16)
            ]
            while not all(worker.done() for worker in workers):
                await asyncio.wait(workers, timeout=chosen.uniform(0.1, 1.0))
                if not all(worker.done() for worker in workers):
                    kills += await _kill(road, chosen.choice(["memory", "memory", "nats"]))
            await asyncio.gather(*workers)
            stored = await _everything(agent)
            part.figures.setdefault("lost", 0)
            lost = {name for name, content in expected.items() if stored.get(name) != content}
            part.figures["lost"] += len(lost)
            part.figures["doubled"] = part.figures.get("doubled", 0) + sum(
                times - 1 for times in Counter(stored.values()).values()
            )
            part.figures["unasked"] = part.figures.get("unasked", 0) + len(stored.keys() - expected.keys())
    part.add("kills", kills, "")
    for what in ("lost", "doubled", "unasked"):
        part.add(what, part.figures[what], "notes", 0)
    return part


async def _all_embedded(agent: Agent) -> None:
    while (await agent.memory.usage()).unembedded:  # noqa: ASYNC110 (another process does it)
        await asyncio.sleep(0.1)


async def _operate(
    agent: Agent,
    numbers: "asyncio.Queue[int]",
    expected: dict[str, str],
    chosen: random.Random,
    round_: int,
    worker: int,
) -> None:
    mine: list[str] = []
    while not numbers.empty():
        call = f"k{round_}-{numbers.get_nowait()}-{worker}"
        kind = chosen.random()
        name = chosen.choice(mine) if mine else ""
        if name and kind < 0.3:
            await _patiently(lambda: agent.memory.update(name, call, id=call, deadline_s=_DEADLINE_S))  # noqa: B023
            expected[name] = call
        elif name and kind < 0.45:
            await _patiently(lambda: agent.memory.remove(name, id=call, deadline_s=_DEADLINE_S))  # noqa: B023
            mine.remove(name)
            del expected[name]
        elif name and kind < 0.6:
            note = await _patiently(lambda: agent.memory.get(name, deadline_s=_DEADLINE_S))  # noqa: B023
            if note.content != expected[name]:
                raise AssertionError(f"{name} says {note.content}, not {expected[name]}")
        else:
            made = await _patiently(lambda: agent.memory.add(call, id=call, deadline_s=_DEADLINE_S))  # noqa: B023
            mine.append(made.memory_id)
            expected[made.memory_id] = call


async def _patiently(send: Callable[[], Awaitable[Any]]) -> Any:
    """Makes a call with the same id until it is answered for good."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await send()
        except AiosError as error:
            temporary = error.retryable or error.code.startswith(("deadline", "bus", "manager"))
            if not temporary or time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


async def _everything(agent: Agent) -> dict[str, str]:
    stored: dict[str, str] = {}
    cursor: str | None = None
    while True:
        page = await _patiently(lambda: agent.memory.list(limit=1000, cursor=cursor))  # noqa: B023
        stored |= {memory.memory_id: memory.content for memory in page.memories}
        cursor = page.cursor
        if cursor is None:
            return stored


async def _kill(road: Road, process: str) -> int:
    """Kills a process and waits until its successor is ready; returns how many were killed."""
    pid = _pid(road, process)
    if pid is None:
        return 0
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    async with asyncio.timeout(_PATIENCE_S):
        while _pid(road, process) in (pid, None):  # noqa: ASYNC110 (the supervisor tells it in a file)
            await asyncio.sleep(0.1)
    return 1


def _pid(road: Road, process: str) -> int | None:
    """The process' id if it is ready."""
    state = DataFolder(road.folder).read_state()
    rows = [] if state is None else state.processes
    return next((row.pid for row in rows if row.name == process and row.state is State.READY), None)


async def _embed_all(url: str, texts: list[str]) -> Vectors:
    rows: list[list[float]] = []
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(texts), 32):
            body = {"inputs": texts[start : start + 32], "truncate": True}
            async with session.post(f"{url}/embed", json=body) as response:
                response.raise_for_status()
                rows += await response.json()
    return np.array(rows, dtype=np.float32)


def _clustered(chosen: np.random.Generator, centres: Vectors, sizes: npt.NDArray[np.float64], count: int) -> Vectors:
    rows = centres[chosen.choice(len(centres), size=count, p=sizes)]
    rows = rows + 0.9 * chosen.normal(size=(count, DIMENSIONS)).astype(np.float32)
    normal: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return normal


def _point(row: int, vector: Vectors) -> Point:
    payload = {"tenant": f"tenant-{row % _TENANTS}", "owner": f"owner-{row % 64}", "created_ms": row}
    return Point(_id(row), vector.tolist(), payload)  # type: ignore[arg-type]


def _id(row: int) -> str:
    return str(uuid.UUID(int=row))
