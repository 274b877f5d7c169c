"""What cannot be brought about from outside: KV without a known form, and sequences that start in the same step."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aios_engine.backend import GenerationRequest, StepReport
from aios_engine.core.kv_image import KvWanted, decode
from aios_engine.errors import ValidationError
from aios_engine.llama_backend import LlamaBackend, open_model
from aios_engine.model_source import locate
from aios_engine.requantise import requantised
from aios_engine.settings import EngineSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SETTINGS = EngineSettings(n_ctx=256, max_sequences=2)
DEADLINE_S = 60
TALE = "Once upon a time, in a village by the sea, there lived a fisherman who had never learnt to swim."
LIST = "These countries have more than one official language: Belgium, Switzerland, Canada, Finland, South Africa,"


def ignore(_: float) -> None:
    """Progress nobody waits for."""


@pytest.fixture(scope="module")
def model_path(engine_url: str) -> Path:
    """The default model, requantised; by the engine that has started before, if it was not there."""
    assert engine_url
    return requantised(locate(SETTINGS.model, None, ignore), SETTINGS.cache_dir, ignore)


@asynccontextmanager
async def opened(
    path: Path,
    observe: Callable[[StepReport], None] = lambda _: None,
    *,
    form: bool = True,
    settings: EngineSettings = SETTINGS,
) -> AsyncIterator[LlamaBackend]:
    """A backend in this process; without a form, as for a model whose KV is laid out otherwise."""
    model, context = await asyncio.to_thread(open_model, path, settings, ignore)
    assert context.form is not None
    if not form:
        context.form = None
    backend = LlamaBackend(model, context, settings, observe)
    try:
        yield backend
    finally:
        await backend.close()


async def tokens_of(
    backend: LlamaBackend, prompt: list[int], count: int, *, stop_at: int | None = None, **fields: str | None
) -> list[int]:
    """Generates; closes it before its end if told to."""
    request = GenerationRequest(tuple(prompt), count, kv_key=fields.get("kv_key"), kv_from=fields.get("kv_from"))
    generation = await backend.start(request)
    made: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        async for event in generation:
            made.append(event.token.id)
            if len(made) == stop_at:
                break
    generation.close()
    return made


async def test_kv_whose_form_is_not_known_travels_whole(model_path: Path) -> None:
    async with opened(model_path, form=False) as backend:
        assert not backend.facts.kv_pieces
        prompt = backend.tokenize(TALE)
        whole = await tokens_of(backend, prompt, 24)
        begun = await tokens_of(backend, prompt, 200, stop_at=9, kv_key="paused")
        # Whatever part is asked for, the whole is given, and nothing if that is no news.
        given = await backend.give("paused", KvWanted(after=3, max_bytes=1))
        assert given is not None
        assert given.first == 0
        (image,) = decode(given.image, backend.facts.fingerprint)
        assert (image.form, image.first, len(image.tokens)) == ("state", 0, given.end)
        assert await backend.give("paused", KvWanted(after=given.end)) is None
        await backend.release("paused")
        await backend.hold("brought", given.image)
        rest = await tokens_of(backend, prompt + begun, 24 - len(begun), kv_from="brought")
        assert begun + rest == whole
    async with opened(model_path) as backend:
        assert backend.facts.kv_pieces
        with pytest.raises(ValidationError, match="in the form 'state'"):
            await backend.hold("brought", given.image)


async def test_a_key_is_not_held_while_a_generation_runs_on_from_it(model_path: Path) -> None:
    async with opened(model_path) as backend:
        prompt = backend.tokenize(LIST)
        # The prompt is in a slot as well, so nothing is taken from the shelf.
        await backend.hold("list", await given_by(backend, prompt))
        assert await backend.holds("list")
        await tokens_of(backend, prompt, 4, kv_key="list", kv_from="list")
        assert not await backend.holds("list")


async def test_what_is_paused_replaces_what_was_put_under_its_key(model_path: Path) -> None:
    async with opened(model_path) as backend:
        await backend.hold("key", await given_by(backend, backend.tokenize(LIST)))
        prompt = backend.tokenize(TALE)
        begun = await tokens_of(backend, prompt, 200, stop_at=9, kv_key="key")
        given = await backend.give("key", KvWanted())
        assert given is not None
        (image,) = decode(given.image, backend.facts.fingerprint)
        assert image.tokens[: len(prompt) + 8] == (*prompt, *begun[:8])
        await tokens_of(backend, prompt + begun, 4, kv_from="key")
        assert not await backend.holds("key")


class Gate:
    """Holds the engine thread behind a step, so that what is asked for meanwhile is done together."""

    def __init__(self) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        self._open.set()

    def observe(self, _: StepReport) -> None:
        """Waits behind a step while the gate is closed."""
        self._reached.set()
        assert self._open.wait(DEADLINE_S)

    @asynccontextmanager
    async def closed(self, backend: LlamaBackend) -> AsyncIterator[None]:
        """A block in which the engine thread waits behind the only step of a sequence."""
        await backend.holds("any")  # answered behind the last step of what was closed before
        self._reached.clear()
        self._open.clear()
        between = asyncio.create_task(tokens_of(backend, backend.tokenize("Once more"), 1))
        try:
            assert await asyncio.to_thread(self._reached.wait, DEADLINE_S)
            yield
            for _ in range(3):  # what was started in the block has been submitted at its first wait
                await asyncio.sleep(0)
        finally:
            self._open.set()
        await between


async def given_by(backend: LlamaBackend, prompt: list[int]) -> bytes:
    """The KV of a prompt."""
    await tokens_of(backend, prompt, 100, stop_at=2, kv_key="given")
    given = await backend.give("given", KvWanted())
    assert given is not None
    await backend.release("given")
    return given.image


async def test_kv_is_copied_out_of_a_slot_before_other_kv_is_restored_into_it(model_path: Path) -> None:
    gate = Gate()
    async with opened(model_path, gate.observe) as backend:
        tale, countries = backend.tokenize(TALE), backend.tokenize(LIST)
        longer = tale + backend.tokenize(" One day", add_special=False)
        alone = await tokens_of(backend, longer, 12), await tokens_of(backend, countries, 12)
        await backend.hold("list", await given_by(backend, countries))
        # One slot holds the tale. The other sequence of the next step takes that slot and restores the list into it.
        await tokens_of(backend, tale, 100, stop_at=2, kv_key="tale")
        await tokens_of(backend, backend.tokenize("Something else"), 2)
        async with gate.closed(backend):
            started = [
                asyncio.create_task(tokens_of(backend, longer, 12)),
                asyncio.create_task(tokens_of(backend, countries, 12, kv_from="list")),
            ]
        assert await asyncio.gather(*started) == list(alone)


async def test_what_could_not_be_restored_is_not_copied_either(model_path: Path) -> None:
    gate = Gate()
    settings = EngineSettings(n_ctx=256, max_sequences=3, kv_hold_bytes=800_000)
    async with opened(model_path, gate.observe, settings=settings) as backend:
        tale, countries = backend.tokenize(TALE), backend.tokenize(LIST)
        alone = await tokens_of(backend, countries, 12)
        image = await given_by(backend, countries)
        assert settings.kv_hold_bytes // 2 < len(image) < settings.kv_hold_bytes
        for number in range(3):
            await tokens_of(backend, [*tale, number], 100, stop_at=2, kv_key=f"held{number}")
        async with gate.closed(backend):
            # There is room for one on the shelf: the list has to leave it for the KV that leaves the second's slot.
            await backend.hold("list", image)
            started = [
                asyncio.create_task(tokens_of(backend, backend.tokenize("Something else"), 2)),
                asyncio.create_task(tokens_of(backend, countries, 12, kv_from="list")),
                asyncio.create_task(tokens_of(backend, countries, 12)),
            ]
        _, restored, copied = await asyncio.gather(*started)
        assert restored == copied == alone
