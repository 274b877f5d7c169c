"""How much of a call's KV is stored, when, and what becomes of it."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
import structlog

from aios_llm.adapters.instant import InstantEngine
from aios_llm.kv_trails import Allowance, KvTrails
from aios_llm.ports import KvMark, KvPiece, KvWanted

KEY = "acme.alice.1"
TOKEN_BYTES = 1 << 18


class Engine(InstantEngine):
    """Has so many tokens of each call, of a quarter of a mebibyte each, and keeps what it is given."""

    def __init__(self) -> None:
        self.tokens = 0
        self.requests = 0
        self.asked: list[KvMark | None] = []
        self.given: dict[str, list[KvPiece]] = {}
        self.takes = True
        self.open = asyncio.Event()
        self.open.set()

    async def take_kv(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvPiece]:
        self.requests += 1
        self.asked += [part.after for part in wanted.values()]
        await self.open.wait()
        pieces = {}
        for key, part in wanted.items():
            first = 0 if part.after is None else part.after.tokens
            end = min(self.tokens, first + max(1, part.max_bytes // TOKEN_BYTES))
            if end > first:
                pieces[key] = KvPiece(bytes((end - first) * TOKEN_BYTES), KvMark(end, f"up to {end}"))
        return pieces

    async def give_kv(self, key: str, pieces: Sequence[KvPiece]) -> bool:
        if self.takes:
            self.given[key] = list(pieces)
        return self.takes


class Store:
    """Keeps pieces while there is room."""

    def __init__(self) -> None:
        self.kept: dict[str, list[KvPiece]] = {}
        self.full = False

    async def append(self, key: str, piece: KvPiece) -> bool:
        if not self.full:
            self.kept.setdefault(key, []).append(piece)
        return not self.full

    async def read(self, key: str) -> list[KvPiece]:
        return self.kept.get(key, [])

    async def remove(self, key: str) -> None:
        self.kept.pop(key, None)

    def ends(self, key: str = KEY) -> list[int]:
        return [piece.end.tokens for piece in self.kept.get(key, [])]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def store() -> Store:
    return Store()


def trails_of(engine: Engine, store: Store | None, *, offered: bool = True, per_second: int = 1 << 40) -> KvTrails:
    return KvTrails(engine, lambda: offered, store, Allowance(per_second, Clock()), 0.0, structlog.get_logger())


async def extended(trails: KvTrails, engine: Engine, tokens: int) -> None:
    """A checkpoint of a call of so many tokens is written."""
    engine.tokens = tokens
    trails.extend(KEY, tokens)
    await trails.stop(5)


async def test_each_time_what_is_new_is_stored(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    for tokens in (2, 3, 3, 5):
        await extended(trails, engine, tokens)
    assert store.ends() == [2, 3, 5]
    assert engine.asked == [None, KvMark(2, "up to 2"), KvMark(3, "up to 3")]


async def test_a_long_calls_kv_is_read_again_only_once_it_has_grown_by_a_part(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    store.kept[KEY] = [KvPiece(b"", KvMark(640, "up to 640"))]
    assert await trails.bring(KEY, own=True)
    await extended(trails, engine, 641)  # not known to be stored before
    for tokens in (645, 650, 651, 652):
        await extended(trails, engine, tokens)
    assert store.ends() == [640, 641, 651]


async def test_a_long_prompt_is_stored_piece_by_piece(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    for _ in range(4):
        await extended(trails, engine, 40)
    assert store.ends() == [16, 32, 40]


async def test_a_call_takes_only_so_much_of_the_store(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    for _ in range(40):
        await extended(trails, engine, 400)
    assert store.ends()[-1] == 256


async def test_only_so_much_is_stored_in_a_second(engine: Engine, store: Store) -> None:
    clock = Clock()
    trails = KvTrails(engine, lambda: True, store, Allowance(3 * TOKEN_BYTES, clock), 0.0, structlog.get_logger())
    await extended(trails, engine, 10)
    await extended(trails, engine, 10)
    assert store.ends() == [3]
    clock.now += 1
    await extended(trails, engine, 10)
    assert store.ends() == [3, 6]


async def test_two_checkpoints_at_a_time_store_once(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    engine.open.clear()
    engine.tokens = 2
    trails.extend(KEY, 2)
    await asyncio.sleep(0)
    trails.extend(KEY, 2)
    engine.open.set()
    await trails.stop(5)
    assert store.ends() == [2]


async def test_calls_that_are_due_together_are_read_at_once_and_none_is_left_out(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    engine.tokens = 2
    keys = [f"acme.alice.{number}" for number in range(40)]
    for key in keys:
        trails.extend(key, 2)
    await trails.stop(5)
    assert [store.ends(key) for key in keys] == [[2]] * 40
    assert engine.requests == 3, "sixteen mebibytes of pieces that may have one each"
    engine.tokens = 3
    for key in keys:
        trails.extend(key, 3)
    await trails.stop(5)
    assert [store.ends(key) for key in keys] == [[2, 3]] * 40
    assert engine.requests == 5


async def test_kv_is_read_less_often_than_checkpoints_are_written_and_once_more_at_a_pause(
    engine: Engine, store: Store
) -> None:
    allowance = Allowance(1 << 40, Clock())
    trails = KvTrails(engine, lambda: True, store, allowance, 3600.0, structlog.get_logger())
    for tokens in (2, 3, 4):
        await extended(trails, engine, tokens)
    assert store.ends() == [2]
    trails.complete(KEY, 4)
    await trails.stop(5)
    assert store.ends() == [2, 4]


async def test_where_the_store_takes_nothing_the_engine_is_left_alone_for_a_while(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trails = trails_of(engine, store)
    store.full = True
    await extended(trails, engine, 2)
    store.full = False
    await extended(trails, engine, 3)
    assert engine.requests == 1
    assert store.ends() == []
    monkeypatch.setattr(trails, "_refused_until_s", 0.0)
    await extended(trails, engine, 4)
    assert store.ends() == [4]


@pytest.mark.parametrize("stored", [False, True])
async def test_an_engine_that_gives_no_kv_away_is_not_asked(engine: Engine, store: Store, stored: bool) -> None:
    trails = trails_of(engine, store if stored else None, offered=not stored)
    await extended(trails, engine, 5)
    assert not await trails.bring(KEY, own=True)
    assert engine.asked == []


async def test_a_paused_call_is_completed_only_if_a_part_is_stored(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    engine.tokens = 2
    trails.complete(KEY, 2)
    await trails.stop(5)
    assert store.ends() == []
    await extended(trails, engine, 2)
    engine.tokens = 3
    trails.complete(KEY, 3)
    await trails.stop(5)
    assert store.ends() == [2, 3]


async def test_another_worker_brings_what_was_stored_and_goes_on_behind_it(engine: Engine, store: Store) -> None:
    first, other = Engine(), Engine()
    before = trails_of(first, store)
    await extended(before, first, 2)
    await extended(before, first, 3)
    after = trails_of(other, store)
    assert await after.bring(KEY, own=True)
    assert other.given[KEY] == store.kept[KEY]
    await extended(after, other, 4)
    assert other.asked == [KvMark(3, "up to 3")]
    assert store.ends() == [2, 3, 4]


async def test_a_fork_stores_its_own_kv_from_the_first_token_on(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    await extended(trails, engine, 2)
    other = trails_of(engine, store)
    assert await other.bring(KEY, own=False)
    await extended(other, engine, 3)
    assert engine.asked[-1] is None


async def test_kv_that_the_engine_does_not_take_is_not_brought(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    await extended(trails, engine, 2)
    engine.takes = False
    assert not await trails.bring(KEY, own=True)


@pytest.mark.parametrize("of_another", [False, True])
async def test_what_is_stored_of_an_ended_call_is_removed(engine: Engine, store: Store, of_another: bool) -> None:
    trails = trails_of(engine, store)
    await extended(trails, engine, 2)
    forgetting = trails_of(engine, store) if of_another else trails
    forgetting.forget(KEY, of_another=of_another)
    await forgetting.stop(5)
    assert store.kept == {}


async def test_a_piece_under_way_when_the_call_ends_is_not_left_behind(engine: Engine, store: Store) -> None:
    trails = trails_of(engine, store)
    engine.open.clear()
    engine.tokens = 2
    trails.extend(KEY, 2)
    await asyncio.sleep(0)
    trails.forget(KEY, of_another=False)
    await asyncio.sleep(0)
    engine.open.set()
    await trails.stop(5)
    assert engine.asked == [None]
    assert store.kept == {}
