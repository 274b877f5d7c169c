"""When what was made is stored, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from aios_llm.checkpoint import Checkpoint, decode, digest
from aios_llm.checkpoints import Checkpoints
from aios_llm.generated import Snapshot
from aios_llm.logprobs import Likelihood, scored
from aios_proto.errors import BusUnavailable


class Store:
    """Keeps what it is given; `hold` keeps writers waiting."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writes = 0
        self.changed = asyncio.Condition()
        self.open = asyncio.Event()
        self.open.set()

    async def put(self, key: str, data: bytes) -> bool:
        await self.open.wait()
        async with self.changed:
            self.kept[key] = data
            self.writes += 1
            self.changed.notify_all()
        return True

    async def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    async def read(self, key: str) -> bytes | None:
        if not self.open.is_set():
            raise BusUnavailable("the store does not answer")
        return self.kept.get(key)

    async def remove(self, key: str) -> None:
        async with self.changed:
            self.kept.pop(key, None)
            self.changed.notify_all()


class Run:
    def __init__(self, key: str = "t.a.1", attempt: int = 1) -> None:
        self.key, self.attempt, self.tokens, self.ending = key, attempt, 0, False

    def checkpoint(self) -> Checkpoint | None:
        if not self.tokens:
            return None
        made = Snapshot((), (), "x" * self.tokens, self.tokens)
        return Checkpoint(made, "model", "", digest("prompt"))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def checkpoints(store: Store) -> AsyncIterator[Checkpoints]:
    writing = Checkpoints(store, every_tokens=4, every_s=0.05, log=structlog.get_logger())
    writing.start()
    yield writing
    await writing.stop(1)


async def until(store: Store, tokens: int | None, key: str = "t.a.1") -> None:
    """Waits until that many tokens are stored; None is until nothing is."""

    def reached() -> bool:
        data = store.kept.get(key)
        found = None if data is None else decode(data)
        return (None if found is None else found.made.tokens) == tokens

    async with asyncio.timeout(5), store.changed:
        await store.changed.wait_for(reached)


async def test_tokens_are_stored_by_number_and_after_a_while(store: Store, checkpoints: Checkpoints) -> None:
    run = Run()
    checkpoints.begin(run)
    for _ in range(4):
        run.tokens += 1
        checkpoints.progressed(run)
    await until(store, 4)
    run.tokens += 1
    checkpoints.progressed(run)
    await until(store, 5)
    assert store.writes == 2


async def test_the_first_one_does_not_wait_so_long(store: Store) -> None:
    patient = Checkpoints(store, every_tokens=1000, every_s=3600, log=structlog.get_logger())
    patient.start()
    run = Run()
    patient.begin(run)
    run.tokens = 1
    patient.progressed(run)
    await until(store, 1)
    await patient.stop(5)


async def test_an_ended_calls_checkpoint_is_removed(store: Store, checkpoints: Checkpoints) -> None:
    run = Run()
    checkpoints.begin(run)
    run.tokens = 9
    checkpoints.progressed(run)
    await until(store, 9)
    checkpoints.forget(run)
    await until(store, None)


async def test_a_write_under_way_when_the_call_ends_leaves_nothing_behind(
    store: Store, checkpoints: Checkpoints
) -> None:
    run = Run()
    store.open.clear()
    checkpoints.begin(run)
    run.tokens = 9
    checkpoints.progressed(run)
    await asyncio.sleep(0)
    checkpoints.forget(run)
    store.open.set()
    await checkpoints.stop(5)
    assert store.kept == {}


async def test_nothing_is_stored_once_the_end_is_being_made(store: Store, checkpoints: Checkpoints) -> None:
    run = Run()
    checkpoints.begin(run)
    run.tokens, run.ending = 9, True
    checkpoints.progressed(run)
    await checkpoints.stop(5)
    assert store.kept == {}


async def test_a_call_that_is_given_back_keeps_its_last_token(store: Store, checkpoints: Checkpoints) -> None:
    run = Run()
    checkpoints.begin(run)
    run.tokens = 3
    assert await checkpoints.write_now(run, 1)
    checkpoints.leave(run)
    found = await checkpoints.load(run.key)
    assert found is not None
    assert found.made.tokens == 3


async def test_a_call_that_was_begun_before_leaves_nothing_behind_when_it_ends(
    store: Store, checkpoints: Checkpoints
) -> None:
    store.kept["t.a.1"] = b"old"
    run = Run(attempt=2)
    checkpoints.begin(run)
    checkpoints.forget(run)
    await until(store, None)
    await checkpoints.stop(5)
    assert store.kept == {}


async def test_a_checkpoint_too_large_for_the_bus_is_not_written(store: Store, checkpoints: Checkpoints) -> None:
    run = Run()
    checkpoints.begin(run)
    run.tokens = 1 << 20
    assert not await checkpoints.write_now(run, 1)
    assert store.kept == {}


async def test_of_another_call_it_is_known_whether_nothing_is_kept_or_nobody_answers(
    store: Store, checkpoints: Checkpoints
) -> None:
    assert await checkpoints.of_other("t.a.2") is None
    store.open.clear()
    with pytest.raises(BusUnavailable):
        await checkpoints.of_other("t.a.2")


@given(st.text(), st.lists(st.integers(0, 1 << 31), max_size=20), st.none() | st.text(), st.integers(0, 99))
def test_a_checkpoint_is_read_as_it_was_written(text: str, ids: list[int], prompt: str | None, inherited: int) -> None:
    text = text.encode(errors="replace").decode()
    prompt = None if prompt is None else prompt.encode(errors="replace").decode()
    made = Snapshot(tuple(ids), tuple(len(text) for _ in ids), text, len(ids) or 3)
    checkpoint = Checkpoint(made, "m", "f", digest("p"), 1, 2, 3, prompt, inherited)
    assert decode(checkpoint.encode()) == checkpoint


@given(st.lists(st.tuples(st.text("aé ", max_size=3), st.floats(-99, 0)), min_size=1, max_size=20), st.integers(0, 9))
def test_log_probabilities_are_read_as_they_were_written(told: list[tuple[str, float]], sent: int) -> None:
    tokens = tuple(scored(Likelihood(*one), [Likelihood("b", -0.1, [255])], 1) for one in told)
    made = Snapshot((), (), "text", len(tokens), tokens)
    checkpoint = Checkpoint(made, "m", "f", digest("p"), sent_scores=sent)
    assert decode(checkpoint.encode()) == checkpoint


def test_a_checkpoint_from_before_there_were_log_probabilities_is_of_use() -> None:
    data = (
        b'{"v":1,"ids":[7],"ends":[2],"text":"Hi","tokens":1,"model":"m","fingerprint":"f","prompt_digest":"d",'
        b'"sent_text":0,"sent_tokens":0,"first_token_us":null,"prompt":null,"inherited":0}'
    )
    assert decode(data) == Checkpoint(Snapshot((7,), (2,), "Hi", 1), "m", "f", "d")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"v":99}', b'{"v":1,"ids":[1],"ends":[]}', b"\xff"])
def test_what_is_no_checkpoint_is_not_used(data: bytes) -> None:
    assert decode(data) is None
