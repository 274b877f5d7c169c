"""What a worker may expect of any engine adapter: one suite for all, on the real engine, which speaks both APIs."""

import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from support.engine import running_engine
from support.engine_client import generate

from aios_kit.chat_template import ChatTemplate
from aios_llm.adapters.openai import OpenAiEngine
from aios_llm.adapters.tgi import TgiEngine
from aios_llm.generated import Generated
from aios_llm.ports import Engine, Finish, GenerateRequest, Grammar, Sampling
from aios_llm.stop_sequences import StopFilter
from aios_proto.errors import EngineFailed, EngineRefused, EngineUnavailable
from aios_proto.messages.llm import ChatMessage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GREEDY = GenerateRequest("Once upon a time, in a village by the sea,", 24, Sampling())
SEEDED = replace(GREEDY, sampling=Sampling(temperature=0.9, top_p=0.9, seed=7))
TURNS = [ChatMessage(role="user", content="Name a colour.")]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with running_engine() as url:
        yield url


@pytest.fixture(scope="module")
def template(engine_url: str) -> ChatTemplate:
    with urllib.request.urlopen(f"{engine_url}/info", timeout=10) as answer:
        said = json.load(answer)["aios"]
    return ChatTemplate(said["chat_template"], bos_token=said["bos_token"], eos_token=said["eos_token"])


ADAPTERS: dict[str, Callable[[str, ChatTemplate], Engine]] = {
    "tgi with our extensions": lambda url, _: TgiEngine(url, None, 2, 60),
    "tgi alone": lambda url, _: TgiEngine(url, None, 2, 60, extensions=False),
    "openai": lambda url, _: OpenAiEngine(url, None, 2, 60),
    "openai with a template": lambda url, template: OpenAiEngine(f"{url}/v1", None, 2, 60, template=template),
}


@pytest.fixture(params=list(ADAPTERS))
async def engine(request: pytest.FixtureRequest, engine_url: str, template: ChatTemplate) -> AsyncIterator[Engine]:
    made = ADAPTERS[request.param](engine_url, template)
    assert await made.healthy()
    await made.info()
    yield made
    await made.close()


async def answer(engine: Engine, request: GenerateRequest) -> tuple[str, Finish, Generated]:
    """Text, end, and what was made of a request."""
    made = Generated()
    async with aclosing(engine.generate(request, None)) as stream:
        async for item in stream:
            if not isinstance(item, Finish):
                made.add(item)
                continue
            if item.last is not None:
                made.add(item.last)
            return made.snapshot().text, item, made
    raise AssertionError("no end")


async def chat(engine: Engine, **more: Any) -> tuple[str, Finish, Generated]:
    prompt = await engine.render(TURNS)
    return await answer(engine, replace(GREEDY, prompt=prompt, messages=tuple(TURNS), **more))


async def test_it_says_what_it_serves(engine: Engine) -> None:
    info = await engine.info()
    assert "smollm2" in info.model
    assert info.concurrency >= 1


async def test_a_greedy_answer_is_the_engines_own(engine: Engine, engine_url: str) -> None:
    async with aiohttp.ClientSession(engine_url) as http:
        wanted = (await generate(http, GREEDY.prompt, max_new_tokens=GREEDY.max_new_tokens))["generated_text"]
    text, finish, made = await answer(engine, GREEDY)
    assert text == wanted
    assert (finish.reason, finish.completion_tokens) == ("length", 24)
    assert made.tokens == 24
    assert finish.prompt_tokens > 5
    assert 0 <= finish.cached_tokens <= finish.prompt_tokens


async def test_a_seed_gives_the_same_answer_again(engine: Engine) -> None:
    assert (await answer(engine, SEEDED))[0] == (await answer(engine, SEEDED))[0]


async def test_a_stop_sequence_ends_the_answer(engine: Engine) -> None:
    text, finish, _ = await answer(engine, GenerateRequest("1, 2, 3, 4,", 40, Sampling(), stop=(", 9",)))
    kept = StopFilter((", 9",))
    passed = kept.feed(text)
    assert passed + kept.finish() == " 5, 6, 7, 8"
    assert finish.completion_tokens < 40


async def test_a_chat_is_answered(engine: Engine) -> None:
    text, finish, _ = await chat(engine)
    assert text.strip()
    assert finish.completion_tokens >= 1


async def test_a_chat_keeps_to_its_schema(engine: Engine) -> None:
    text, finish, _ = await chat(engine, grammar=Grammar("json", SCHEMA))
    assert json.loads(text)["colour"] in ("red", "green")
    assert finish.reason in ("end", "stop_sequence")


async def test_a_schema_the_engine_refuses_is_told_by_its_field(engine: Engine) -> None:
    with pytest.raises(EngineRefused) as refused:
        await chat(engine, grammar=Grammar("json", {"type": "no such type"}))
    assert refused.value.field == "response_format"


async def test_what_is_too_long_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineRefused):
        await answer(engine, replace(GREEDY, prompt="word " * 3000))


async def test_an_answer_goes_on_from_any_token_as_if_it_had_not_stopped(engine: Engine) -> None:
    if (await engine.info()).resumes == "no":
        pytest.skip("this endpoint applies its own template: its answers cannot be gone on with")
    for request in (GREEDY, SEEDED):
        whole, finish, _ = await answer(engine, request)
        for cut in (1, 7, 16):
            made = Generated()
            async with aclosing(engine.generate(request, None)) as stream:
                async for item in stream:
                    assert not isinstance(item, Finish)
                    made.add(item)
                    if made.tokens == cut:
                        break
            begun = await engine.resume_point(request.prompt, made.snapshot())
            assert begun.tokens <= cut
            rest, end, _ = await answer(engine, replace(request, begun=begun))
            assert begun.text + rest == whole
            if begun.ids:
                assert (end.prompt_tokens, end.completion_tokens) == (finish.prompt_tokens, finish.completion_tokens)


async def test_a_stream_that_is_closed_frees_the_engine(engine: Engine) -> None:
    for _ in range(8):  # more than it runs at once
        async with aclosing(engine.generate(replace(GREEDY, max_new_tokens=900), None)) as stream:
            await anext(stream)
    assert (await answer(engine, replace(GREEDY, max_new_tokens=2)))[1].completion_tokens == 2


@pytest.mark.parametrize("kind", list(ADAPTERS))
async def test_an_engine_that_is_not_there_is_unavailable(kind: str, template: ChatTemplate) -> None:
    engine = ADAPTERS[kind]("http://127.0.0.1:9", template)
    try:
        assert not await engine.healthy()
        with pytest.raises(EngineUnavailable):
            await engine.info()
        with pytest.raises(EngineUnavailable):
            await answer(engine, replace(GREEDY, messages=tuple(TURNS)))
    finally:
        await engine.close()


async def test_texts_are_counted_or_that_is_said_to_be_impossible(engine: Engine) -> None:
    if isinstance(engine, OpenAiEngine):  # a route of their own: this engine's wants another field
        with pytest.raises((EngineFailed, EngineRefused)):
            await engine.count_tokens(["one two three"])
    else:
        empty, three = await engine.count_tokens(["", "one two three"])
        assert (empty, three >= 3) == (0, True)
