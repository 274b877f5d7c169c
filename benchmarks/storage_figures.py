"""What files cost on the whole road from the SDK to the disk, and what survives while processes are killed.

    python benchmarks/storage_figures.py                       # latencies, a streamed file, kills, rotation; minutes
    python benchmarks/storage_figures.py --stream-mib 1024 --rounds 20 --calls 10000 --objects 10000    # for the record
    make bench-storage CHECK=1                                 # exit status 1 if a bar is missed

`make bench-managers` takes the latencies from here. All figures are of a stack as `aios up` runs it.
"""

import argparse
import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvloop
from report import Bar, Report, quantile, read_options
from road import Road, running_road

from aios import Agent, AiosError
from aios_stack.data_folder import DataFolder

WRITE_1_MIB_LIMIT_MS = 60.0
STREAM_MEMORY_LIMIT_MIB = 192.0
MIB = 1 << 20
PATIENCE_S = 120.0


@dataclass
class Written:
    """What one agent was told is stored: the text of every version, by path."""

    versions: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: int = 0


async def latencies(road: Road, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of operations, one at a time."""
    data = random.Random(0).randbytes(MIB)
    samples: dict[str, list[float]] = {}

    async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
        begun = time.perf_counter()
        await work()
        samples.setdefault(name, []).append((time.perf_counter() - begun) * 1000)

    async with Agent(token=road.token, url=road.url) as agent:
        storage = agent.storage
        for number in range(rounds + 3):
            note = f"note {number}: the fox crossed road {number}\n" * 20
            await timed("write 1 KiB", lambda note=note: storage.write("bench/note", note))  # type: ignore[misc]
            await timed("read 1 KiB", lambda: storage.read("bench/note"))
            await timed("write 1 MiB", lambda: storage.write("bench/large", data))
            await timed("read 1 MiB", lambda: storage.read("bench/large"))
            await timed("list", lambda: storage.list("bench"))
            await timed("search by words", lambda: storage.search("fox", mode="keyword"))
    return {
        name: {"p50_ms": quantile(values[3:], 0.5), "p95_ms": quantile(values[3:], 0.95), "calls": len(values) - 3}
        for name, values in samples.items()
    }


async def streamed(road: Road, mib: int) -> dict[str, float]:
    """A large file in and out again; how fast, and by how much the processes that carry it grew meanwhile."""
    watched = {"sdk": psutil.Process(), "storage": psutil.Process(pid_of(road, "storage"))}
    before = {name: process.memory_info().rss for name, process in watched.items()}
    most = dict(before)

    def look() -> None:
        for name, process in watched.items():
            most[name] = max(most[name], process.memory_info().rss)

    block = random.Random(1).randbytes(MIB)
    digest = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(mib):
            piece = number.to_bytes(8) + block[8:]
            digest.update(piece)
            look()
            yield piece

    async with Agent(token=road.token, url=road.url) as agent:
        begun = time.perf_counter()
        await agent.storage.write_stream("bench/huge", pieces(), deadline_s=600)
        written_s = time.perf_counter() - begun
        begun, size, back = time.perf_counter(), 0, hashlib.sha256()
        async for piece in agent.storage.stream("bench/huge", deadline_s=600):
            size += len(piece)
            back.update(piece)
            look()
        read_s = time.perf_counter() - begun
        await agent.storage.delete("bench/huge", purge=True)
    grown = {f"{name}_grew_mib": (most[name] - before[name]) / MIB for name in watched}
    same = size == mib * MIB and back.digest() == digest.digest()
    return {"mib": mib, "write_mib_s": mib / written_s, "read_mib_s": mib / read_s, "same": float(same), **grown}


async def killed(
    road: Road, rounds: int, calls: int, victims: tuple[str, ...] = ("storage", "nats")
) -> dict[str, float]:
    """Mixed operations while processes are killed at random; then everything acknowledged is looked for."""
    notes = [Written() for _ in range(8)]
    chance = random.Random(2)
    done = asyncio.Event()
    kills = 0

    async def kill_now_and_then() -> None:
        nonlocal kills
        while kills < rounds and not done.is_set():
            try:
                async with asyncio.timeout(chance.uniform(1, 3)):
                    await done.wait()
            except TimeoutError:
                victim = chance.choice(victims)
                before = pid_of(road, victim)
                os.kill(before, signal.SIGKILL)
                kills += 1
                await up_again(road, victim, before)

    async with Agent(token=road.token, url=road.url) as agent:
        killing = asyncio.create_task(kill_now_and_then())
        each = -(-calls // len(notes))
        await asyncio.gather(*(mixed(agent, f"kill/{n}", note, each, random.Random(n)) for n, note in enumerate(notes)))
        done.set()
        await killing
        lost = doubled = 0
        for note in notes:
            for path, texts in note.versions.items():
                there = await patiently(lambda path=path: agent.storage.versions(path))  # type: ignore[misc]
                doubled += max(0, len(there) - len(texts))
                lost += max(0, len(texts) - len(there))
                for number, text in enumerate(texts[: len(there)], 1):
                    found = await patiently(lambda p=path, n=number: agent.storage.read_text(p, n))  # type: ignore[misc]
                    lost += found != text
    return {"kills": kills, "acknowledged": sum(note.acknowledged for note in notes), "lost": lost, "doubled": doubled}


async def mixed(agent: Agent, folder: str, note: Written, calls: int, chance: random.Random) -> None:
    """Writes, rollbacks and reads of a few files, each acknowledged before the next."""
    for number in range(calls):
        path = f"{folder}/{chance.randrange(20)}"
        texts = note.versions.setdefault(path, [])
        kind = chance.random()
        if kind < 0.6 or not texts:
            text = f"{path} {number}"
            await patiently(lambda p=path, t=text, i=f"w-{folder[5:]}-{number}": agent.storage.write(p, t, id=i))  # type: ignore[misc]
            texts.append(text)
        elif kind < 0.75:
            back = chance.randrange(len(texts))
            await patiently(
                lambda p=path, v=back + 1, i=f"r-{folder[5:]}-{number}": agent.storage.rollback(p, v, id=i)  # type: ignore[misc]
            )
            texts.append(texts[back])
        else:
            await patiently(lambda p=path: agent.storage.read_text(p))  # type: ignore[misc]
        note.acknowledged += 1


async def rotated(road: Road, objects: int) -> dict[str, float]:
    """A change of keys over many files while they are written; and whether all of them can be read afterwards."""
    async with Agent(token=road.token, url=road.url) as operator:

        async def write(begin: int) -> None:
            for number in range(begin, objects, 16):
                await operator.storage.write(f"rotate/{number // 1000}/{number}", f"object {number}")

        await asyncio.gather(*(write(begin) for begin in range(16)))
        begun, busy = time.perf_counter(), 0
        await operator.syscall("storage", "rotate")
        while (await operator.syscall("storage", "keys")).result["rewrapping"]:
            busy += 1
            await operator.storage.write("rotate/busy", f"busy {busy}")
        took_s = time.perf_counter() - begun
        lost = 0

        async def read(begin: int) -> None:
            nonlocal lost
            for number in range(begin, objects, 16):
                lost += await operator.storage.read_text(f"rotate/{number // 1000}/{number}") != f"object {number}"

        await asyncio.gather(*(read(begin) for begin in range(16)))
        lost += await operator.storage.read_text("rotate/busy") != f"busy {busy}" if busy else 0
        lost += len(await operator.storage.versions("rotate/busy")) != busy if busy else 0
    return {"objects": objects, "seconds": took_s, "writes_meanwhile": busy, "lost": lost}


async def patiently(work: Callable[[], Awaitable[Any]]) -> Any:
    """Tries a call again, by the same id where it has one, while processes come back."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work()
        except AiosError as error:
            if not (error.retryable or error.code == "deadline.exceeded") or time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.2)


def pid_of(road: Road, name: str) -> int:
    """The process of that name in the stack."""
    state = DataFolder(road.folder).read_state()
    pid = next((row.pid for row in state.processes if row.name == name), None) if state is not None else None
    if pid is None:
        raise RuntimeError(f"{name} is not running")
    return pid


async def up_again(road: Road, name: str, before: int) -> None:
    """Returns when the supervisor has started another process of that name and it is ready."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = DataFolder(road.folder).read_state()
            for row in state.processes if state is not None else []:
                if row.name == name and row.pid not in (None, before) and row.state.value == "ready":
                    return
            await asyncio.sleep(0.1)


def storage_figures(rounds: int = 100) -> dict[str, dict[str, float]]:
    """The latencies, on a stack of their own; for `make bench-managers`."""
    with running_road("--engine-kind", "instant") as road:
        return uvloop.run(latencies(road, rounds))


def storage_bars(found: dict[str, dict[str, float]]) -> list[Bar]:
    """What the latencies must reach."""
    return [Bar("1 MiB write p50", found["write 1 MiB"]["p50_ms"], WRITE_1_MIB_LIMIT_MS, "ms")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="calls of each kind")
    parser.add_argument("--stream-mib", type=int, default=128, help="size of the streamed file")
    parser.add_argument("--rounds", type=int, default=4, help="processes killed")
    parser.add_argument("--calls", type=int, default=1000, help="mixed operations while they are killed")
    parser.add_argument("--objects", type=int, default=1000, help="files whose keys are changed")
    chosen = read_options(parser)
    with running_road("--engine-kind", "instant") as road:
        times = uvloop.run(latencies(road, chosen.samples))
        stream = uvloop.run(streamed(road, chosen.stream_mib))
        rotation = uvloop.run(rotated(road, chosen.objects))
        survival = uvloop.run(killed(road, chosen.rounds, chosen.calls))
    report = Report("storage", "Files, from the SDK to the disk", ("measure", "p50", "p95"))
    for name, found in times.items():
        report.rows.append((name, f"{found['p50_ms']:.1f} ms", f"{found['p95_ms']:.1f} ms"))
    report.rows.append((f"{stream['mib']:.0f} MiB streamed in", f"{stream['write_mib_s']:.0f} MiB/s", ""))
    report.rows.append((f"{stream['mib']:.0f} MiB streamed out", f"{stream['read_mib_s']:.0f} MiB/s", ""))
    report.rows.append((f"new key for {rotation['objects']} files", f"{rotation['seconds']:.1f} s", ""))
    report.rows.append((f"{survival['acknowledged']:.0f} calls, {survival['kills']:.0f} kills", "", ""))
    report.bars = [
        *storage_bars(times),
        Bar("the streamed file came back", stream["same"], 1, "", at_most=False),
        Bar("memory of the SDK while streaming", stream["sdk_grew_mib"], STREAM_MEMORY_LIMIT_MIB, "MiB"),
        Bar("memory of storage while streaming", stream["storage_grew_mib"], STREAM_MEMORY_LIMIT_MIB, "MiB"),
        Bar("lost by the change of keys", rotation["lost"], 0, "files"),
        Bar("acknowledged and lost", survival["lost"], 0, "versions"),
        Bar("done twice", survival["doubled"], 0, "versions"),
    ]
    report.figures = {"latency": times, "stream": stream, "rotation": rotation, "survival": survival}
    return report.finish(chosen)


if __name__ == "__main__":
    raise SystemExit(main())
