"""A process may die at any of its writes: the call sent again is done once, and no version is ever missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from support.memory_store import MemoryStore

from aios_kit.envelope import Envelope
from aios_kit.key_ring import FileKeyRing
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_proto.errors import BusUnavailable, ResourceConflict
from aios_proto.ids import new_syscall_id
from aios_proto.messages.storage import PART_BYTES, FileInfo
from aios_storage.bodies import Bodies
from aios_storage.commits import Caller
from aios_storage.core.catalogue import Catalogue
from aios_storage.core.paths import Home
from aios_storage.library import Library
from aios_storage.ports import Change, Entry, Seen
from aios_storage.sealed_store import SealedStore
from aios_storage.sweeping import Sweeping

PLACE = Home("alice", "plan")
TENANT = "acme"
# More commits than any of these calls makes.
CUTS = range(8)


class Dying:
    """A store as a process sees it that dies at one of its commits.

    Args:
        store: what outlives it.
        commits: how many it still makes.
        answer_lost: whether the next one is made all the same, and only its answer lost.
    """

    def __init__(self, store: MemoryStore, commits: int, *, answer_lost: bool) -> None:
        self._store = store
        self._left = commits
        self._answer_lost = answer_lost

    async def get(self, key: str) -> Entry:
        return await self._store.get(key)

    async def fetch(self, key: str) -> bytes | None:
        return await self._store.fetch(key)

    async def commit(self, changes: Sequence[Change]) -> int:
        self._left -= 1
        if self._left >= 0:
            return await self._store.commit(changes)
        if self._left == -1 and self._answer_lost:
            await self._store.commit(changes)
        raise BusUnavailable("the process died")

    async def keys(self, pattern: str) -> list[str]:
        return await self._store.keys(pattern)

    async def scan(self, pattern: str) -> AsyncIterator[Seen]:
        async for seen in self._store.scan(pattern):
            yield seen

    async def watch(self, pattern: str, seen: Callable[[Seen | None], Awaitable[None]]) -> None:
        await self._store.watch(pattern, seen)

    async def purge(self, pattern: str) -> None:
        await self._store.purge(pattern)


class Slow(Dying):
    """A store on which versions' own records take their time."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, 1000, answer_lost=False)
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()

    async def commit(self, changes: Sequence[Change]) -> int:
        if changes[0].key.startswith(f"{TENANT}.v."):
            self.waits.set()
            await self.go_on.wait()
        return await super().commit(changes)


class Process:
    """A storage manager's library with a memory of its own."""

    def __init__(self, store: MemoryStore | Dying, ring: Path) -> None:
        self.sealed = SealedStore(store, Envelope(FileKeyRing(ring)))
        self.bodies = Bodies(self.sealed)
        self.library = Library(self.sealed, self.bodies, Catalogue(), lambda *_: None)

    async def write(self, call: str, text: bytes, expect: int | None = None) -> FileInfo:
        content, parts = await self.bodies.small(TENANT, f"alice.{new_syscall_id()}", text)
        return await self.library.write(caller(call), PLACE, content, parts, expect)

    async def versions(self) -> list[bytes | None]:
        """What every version holds, the oldest first."""
        found = (await self.library.versions(caller("look"), PLACE, None)).files
        assert [one.version for one in found] == list(range(len(found), 0, -1))
        return [None if one.deleted else await self.read(one.version) for one in reversed(found)]

    async def read(self, number: int) -> bytes:
        version, _ = await self.library.open(caller("look"), PLACE, number)
        assert version.content is not None
        return await self.bodies.read(TENANT, version.content, 0, 1000)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def process(store: MemoryStore, tmp_path: Path) -> Process:
    return Process(store, tmp_path)


def caller(call: str) -> Caller:
    return Caller(TENANT, "alice", call)


async def dies(work: Awaitable[object]) -> None:
    """Runs what a process does until it dies, with what it does on the side."""
    with contextlib.suppress(BusUnavailable):
        await work
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("cut", CUTS)
async def test_a_write_cut_off_anywhere_is_done_once(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int, answer_lost: bool
) -> None:
    await process.write("first", b"one")
    dying = Process(Dying(store, cut, answer_lost=answer_lost), tmp_path)
    await dies(dying.write("second", b"two", expect=1))
    assert (await process.write("second", b"two", expect=1)).version == 2
    assert (await process.write("second", b"two", expect=1)).version == 2
    after = Process(store, tmp_path)
    assert (await after.write("third", b"three")).version == 3
    assert await after.versions() == [b"one", b"two", b"three"]
    assert (await after.write("second", b"two", expect=1)).version == 2
    assert (await after.write("first", b"one")).version == 1


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("cut", CUTS)
async def test_others_go_on_where_a_process_died(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int, answer_lost: bool
) -> None:
    dying = Process(Dying(store, cut, answer_lost=answer_lost), tmp_path)
    await dies(dying.write("first", b"one"))
    await process.write("other", b"other")
    made = (await process.write("first", b"one")).version
    assert made in (1, 2)
    assert await process.versions() == ([b"one", b"other"] if made == 1 else [b"other", b"one"])


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("cut", CUTS)
async def test_deleting_rolling_back_and_moving_are_done_once(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int, answer_lost: bool
) -> None:
    await process.write("first", b"one")
    target = Home("alice", "elsewhere")

    def works(library: Library) -> list[Callable[[], Awaitable[FileInfo]]]:
        return [
            lambda: library.delete(caller("delete"), PLACE, 1),
            lambda: library.rollback(caller("back"), PLACE, 1),
            lambda: library.move(caller("move"), PLACE, target, overwrite=False),
            lambda: library.move(caller("return"), target, PLACE, overwrite=False),
        ]

    for step, again in enumerate(works(process.library)):
        dying = Process(Dying(store, cut, answer_lost=answer_lost), tmp_path)
        await dies(works(dying.library)[step]())
        first = await again()
        assert await again() == first
    assert await process.versions() == [b"one", None, b"one"]


async def test_two_processes_at_once_do_a_call_once(store: MemoryStore, process: Process, tmp_path: Path) -> None:
    other = Process(store, tmp_path)
    made = await asyncio.gather(*(one.write("same", b"text") for one in (process, other, process, other)))
    assert {one.version for one in made} == {1}
    assert await process.versions() == [b"text"]


@pytest.mark.parametrize("cut", CUTS)
async def test_the_sweep_spares_what_only_a_head_names(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int
) -> None:
    dying = Process(Dying(store, cut, answer_lost=True), tmp_path)
    await dies(dying.write("first", b"one"))
    log = setup_logging("test", ServiceSettings())
    await Sweeping(process.sealed, set, 1, log).sweep(TENANT, 0)
    assert (await process.write("first", b"one")).version == 1
    await Sweeping(process.sealed, set, 1, log).sweep(TENANT, 0)
    assert await process.versions() == [b"one"]


@pytest.mark.parametrize("cut", CUTS)
async def test_a_move_takes_the_whole_history_along(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int
) -> None:
    dying = Process(Dying(store, cut, answer_lost=True), tmp_path)
    await dies(dying.write("first", b"one"))
    await process.write("first", b"one")
    there = Home("alice", "elsewhere")
    await process.library.move(caller("move"), PLACE, there, overwrite=False)
    await process.library.move(caller("return"), there, PLACE, overwrite=False)
    assert (await process.write("second", b"two")).version == 2
    assert await process.versions() == [b"one", b"two"]
    assert (await process.write("first", b"one")).version == 1


async def test_a_late_record_does_not_outlive_a_purge(store: MemoryStore, process: Process, tmp_path: Path) -> None:
    slow = Slow(store)
    late = Process(slow, tmp_path)
    await late.write("first", b"one")
    async with asyncio.timeout(10):
        await slow.waits.wait()
    await process.library.purge(caller("purge"), PLACE, None)
    slow.go_on.set()
    await late.library.close()
    assert await store.keys(f"{TENANT}.v.>") == []
    assert await Sweeping(process.sealed, set, 1, setup_logging("test", ServiceSettings())).sweep(TENANT, 0) == 1
    assert await store.keys(f"{TENANT}.b.>") == []


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("cut", CUTS)
async def test_an_upload_is_taken_once_whoever_dies(
    store: MemoryStore, process: Process, tmp_path: Path, cut: int, answer_lost: bool
) -> None:
    blob = "alice.up"
    await process.bodies.put_part(TENANT, blob, 0, bytes(PART_BYTES), last=False)
    await process.bodies.put_part(TENANT, blob, 1, b"tail", last=True)

    async def take(one: Process, call: str) -> FileInfo:
        content = await one.bodies.uploaded(TENANT, blob, 2, "0" * 64)
        return await one.library.write(caller(call), PLACE, content, one.bodies.claim(TENANT, blob, call), None)

    await dies(take(Process(Dying(store, cut, answer_lost=answer_lost), tmp_path), "first"))
    made = await take(process, "first")
    assert (made.version, made.size_bytes) == (1, PART_BYTES + 4)
    with pytest.raises(ResourceConflict):
        await take(process, "second")
    assert await take(process, "first") == made
    assert len(await process.versions()) == 1
