"""What nobody needs is removed, what somebody needs is not, and old forms of the store become new ones."""

from pathlib import Path

import pytest
from support.memory_store import MemoryStore

from aios_kit.envelope import Envelope
from aios_kit.key_ring import FileKeyRing
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_proto.errors import InternalError, ResourceConflict, ResourceNotFound
from aios_proto.messages.storage import PART_BYTES
from aios_storage.bodies import Bodies
from aios_storage.commits import Caller
from aios_storage.core.catalogue import Catalogue
from aios_storage.core.paths import Home
from aios_storage.library import Library
from aios_storage.ports import Change, Store
from aios_storage.schema import SCHEMA, migrate
from aios_storage.sealed_store import SealedStore
from aios_storage.sweeping import Sweeping

PLACE = Home("alice", "big")


@pytest.fixture
def store(tmp_path: Path) -> SealedStore:
    return SealedStore(MemoryStore(), Envelope(FileKeyRing(tmp_path)))


@pytest.fixture
def bodies(store: SealedStore) -> Bodies:
    return Bodies(store)


@pytest.fixture
def library(store: SealedStore, bodies: Bodies) -> Library:
    return Library(store, bodies, Catalogue(), lambda *_: None)


@pytest.fixture
def sweeping(store: SealedStore) -> Sweeping:
    return Sweeping(store, set, 1, setup_logging("test", ServiceSettings()))


async def test_an_upload_nobody_used_is_swept_once_it_is_old(bodies: Bodies, sweeping: Sweeping) -> None:
    await bodies.put_part("acme", "alice.up", 0, bytes(PART_BYTES), last=False)
    await bodies.put_part("acme", "alice.up", 1, b"tail", last=True)
    assert await sweeping.sweep("acme", 3600) == 0
    assert (await bodies.uploaded("acme", "alice.up", 2, "0" * 64)).size_bytes == PART_BYTES + 4
    assert await sweeping.sweep("acme", 0) == 1
    with pytest.raises(ResourceNotFound):
        await bodies.uploaded("acme", "alice.up", 2, "0" * 64)


async def test_what_a_file_uses_is_not_swept(bodies: Bodies, library: Library, sweeping: Sweeping) -> None:
    await bodies.put_part("acme", "alice.up", 0, b"tail", last=True)
    content = await bodies.uploaded("acme", "alice.up", 1, "0" * 64)
    claim = bodies.claim("acme", "alice.up", "alice.c1")
    await library.write(Caller("acme", "alice", "c1"), PLACE, content, claim, None)
    assert await sweeping.sweep("acme", 0) == 0
    assert await bodies.read("acme", content, 0, 10) == b"tail"


async def test_an_upload_that_is_being_swept_is_no_longer_taken(
    bodies: Bodies, library: Library, sweeping: Sweeping
) -> None:
    await bodies.put_part("acme", "alice.up", 0, b"tail", last=True)
    content = await bodies.uploaded("acme", "alice.up", 1, "0" * 64)
    claim = bodies.claim("acme", "alice.up", "alice.c1")
    assert await sweeping.sweep("acme", 0) == 1
    with pytest.raises(ResourceConflict):
        await library.write(Caller("acme", "alice", "c1"), PLACE, content, claim, None)


async def test_a_commit_that_is_refused_again_and_again_is_tried_again(
    store: SealedStore, bodies: Bodies, library: Library
) -> None:
    assert isinstance(store.store, MemoryStore)
    await store.check("acme")
    content, parts = await bodies.small("acme", "alice.c1", b"x")
    store.store.refusals = 5
    assert (await library.write(Caller("acme", "alice", "c1"), PLACE, content, parts, None)).version == 1


async def test_an_empty_store_is_stamped_with_the_present_form() -> None:
    store = MemoryStore()
    await migrate(store)
    assert (await store.get("_schema")).value == str(SCHEMA).encode()
    await migrate(store)


async def test_an_old_store_becomes_new_step_by_step() -> None:
    store = MemoryStore()
    await migrate(store, {}, 1)
    steps: list[int] = []

    def step(number: int) -> object:
        async def work(_: Store) -> None:
            steps.append(number)

        return work

    await migrate(store, {1: step(1), 2: step(2)}, 3)  # type: ignore[dict-item]
    assert steps == [1, 2]
    assert (await store.get("_schema")).value == b"3"


@pytest.mark.parametrize("at", [b"2", b"0"])
async def test_a_store_of_another_time_is_left_alone(at: bytes) -> None:
    store = MemoryStore()
    await store.commit([Change("_schema", at, 0)])
    with pytest.raises(InternalError):
        await migrate(store, {}, 1)
