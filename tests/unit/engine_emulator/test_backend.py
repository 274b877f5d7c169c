"""The emulator as a backend on the real clock: tokens come, stop when told, and take about the time they should."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from aios_engine.backend import GenerationRequest, GrammarSource
from aios_engine.emulator import tokens
from aios_engine.emulator.backend import EmulatedBackend
from aios_engine.emulator.settings import EmulatorSettings
from aios_engine.errors import IncompleteGenerationError, ValidationError


@pytest.fixture
async def backend() -> AsyncIterator[EmulatedBackend]:
    made = EmulatedBackend(EmulatorSettings(kv_tokens=2000), lambda report: None)
    yield made
    await made.close()


def request(text: str, limit: int = 100) -> GenerationRequest:
    return GenerationRequest(tuple(tokens.tokenize(text)), limit)


async def test_an_answer_has_the_length_its_prompt_asks_for(backend: EmulatedBackend) -> None:
    generation = await backend.start(request("first [[tokens=3]] then [[tokens=7]]"))
    events = [event async for event in generation]
    assert len(events) == 7
    ending = events[-1].ending
    assert ending is not None
    assert (ending.reason, ending.generated_tokens) == ("eos_token", 7)
    assert ending.text == "".join(event.token.text for event in events)


async def test_a_word_it_says_is_certain_and_the_only_one(backend: EmulatedBackend) -> None:
    generation = await backend.start(replace(request("[[tokens=3]]"), top_n_tokens=2))
    assert [(event.token.logprob, event.top_tokens) async for event in generation] == [
        (0.0, (event.token,)) async for event in await backend.start(request("[[tokens=3]]"))
    ]
    generation = await backend.start(request("[[tokens=3]]"))
    assert [event.top_tokens async for event in generation] == [()] * 3


async def test_a_limit_cuts_the_answer_and_says_so(backend: EmulatedBackend) -> None:
    generation = await backend.start(request("[[tokens=50]]", limit=5))
    events = [event async for event in generation]
    ending = events[-1].ending
    assert ending is not None
    assert (len(events), ending.reason) == (5, "length")


async def test_it_takes_no_less_time_than_the_gpu(backend: EmulatedBackend) -> None:
    begun = time.monotonic()
    generation = await backend.start(request("[[tokens=60]]"))
    assert len([event async for event in generation]) == 60
    assert time.monotonic() - begun >= 59 * 6.3e-3
    progress = generation.progress
    assert progress.prefilled_ns is not None
    assert progress.ended_ns is not None
    assert (progress.ended_ns - progress.prefilled_ns) / 1e9 == pytest.approx(59 * 6.31e-3, rel=0.02)


async def test_a_closed_generation_frees_its_place(backend: EmulatedBackend) -> None:
    long = await backend.start(request("[[tokens=900]]", limit=900))
    async for _ in long:
        break
    waiting = await backend.start(request("[[tokens=2]]", limit=1500))
    assert backend.load.waiting == 1
    long.close()
    long.close()
    async with asyncio.timeout(5):
        assert len([event async for event in waiting]) == 2
    assert backend.load.reserved_tokens == 0


async def test_the_same_prompt_again_is_found_in_the_cache(backend: EmulatedBackend) -> None:
    text = "a long conversation " * 40 + "[[tokens=2]]"
    for expected in (0, 192):
        generation = await backend.start(request(text))
        assert [event async for event in generation]
        assert generation.progress.cached_tokens == expected


async def test_a_backend_that_closes_ends_its_generations(backend: EmulatedBackend) -> None:
    generation = await backend.start(request("[[tokens=500]]", limit=500))
    await backend.close()
    with pytest.raises(IncompleteGenerationError):
        _ = [event async for event in generation]
    with pytest.raises(IncompleteGenerationError):
        await backend.start(request("x"))
    assert not backend.healthy


async def test_a_grammar_is_refused_not_ignored(backend: EmulatedBackend) -> None:
    asked = GenerationRequest((1,), 5, grammar=GrammarSource("regex", "a+"))
    with pytest.raises(ValidationError):
        await backend.start(asked)


@pytest.mark.parametrize("text", ["", "a", "abcd", "abcde", "äöü€😀", "\x00\x00"])
def test_text_comes_back_from_its_tokens(text: str) -> None:
    assert b"".join(map(tokens.piece, tokens.tokenize(text))).decode() == text


def test_lengths_nobody_asked_for_are_plausible_and_repeatable() -> None:
    lengths = [tokens.natural_length(tokens.tokenize(f"prompt {number}")) for number in range(500)]
    assert lengths == [tokens.natural_length(tokens.tokenize(f"prompt {number}")) for number in range(500)]
    assert 100 < sorted(lengths)[250] < 160
    assert min(lengths) >= 1
