"""What a worker may expect of any engine adapter: one suite for all, on real engines.

Our own speaks both APIs; llama.cpp's server comes with it. `AIOS_TEST_OPENAI_URL` holds another server to the suite,
such as vLLM, which must serve SmolLM2-135M-Instruct with a context of 1024 tokens, and `AIOS_TEST_OPENAI_TEMPLATE`
names a file with its chat template:

    vllm serve <model folder> --served-model-name smollm2-135m-instruct --max-model-len 1024 \\
        --dtype float32 --structured-outputs-config '{"backend": "guidance", "disable_any_whitespace": true}'

In bfloat16, a token's numbers depend on whether it is computed alone or as part of a prompt, and answers that are gone
on with may differ.
"""

import json
import math
import os
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.engine import running_engine
from support.engine_client import call, generate
from support.llama_server import running_llama_server

from aios_kit.chat_template import ChatTemplate
from aios_llm.adapters.openai import OpenAiEngine, template_of
from aios_llm.adapters.tgi import TgiEngine
from aios_llm.generated import Generated
from aios_llm.ports import Engine, Finish, GenerateRequest, Grammar, Piece, Sampling
from aios_llm.stop_sequences import StopFilter
from aios_proto.errors import EngineFailed, EngineRefused, EngineUnavailable
from aios_proto.messages.llm import ChatMessage, TokenLogprob

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GREEDY = GenerateRequest("Once upon a time, in a village by the sea,", 24, Sampling())
SEEDED = replace(GREEDY, sampling=Sampling(temperature=0.9, top_p=0.9, seed=7))
TURNS = [ChatMessage(role="user", content="Name a colour.")]
ROOM = 200
"""Tokens for a small document: some servers let a model write a lot of white space."""
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


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    with running_llama_server() as url:
        yield url


OURS: dict[str, Callable[[str, ChatTemplate], Engine]] = {
    "tgi with our extensions": lambda url, _: TgiEngine(url, None, 2, 60),
    "tgi alone": lambda url, _: TgiEngine(url, None, 2, 60, extensions=False),
    "openai": lambda url, _: OpenAiEngine(url, None, 2, 60),
    "openai with a template": lambda url, template: OpenAiEngine(f"{url}/v1", None, 2, 60, template=template),
}
LLAMA_CPP, ANOTHER = "openai on llama.cpp", "openai on another server"


@dataclass(frozen=True)
class Server:
    """What an adapter speaks to.

    Attributes:
        ours: it is our own engine.
    """

    url: str
    ours: bool


@pytest.fixture(params=[*OURS, LLAMA_CPP, ANOTHER])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server:
    if kind in OURS:
        return Server(request.getfixturevalue("engine_url"), ours=True)
    if kind == LLAMA_CPP:
        return Server(request.getfixturevalue("llama_url"), ours=False)
    if (url := os.environ.get("AIOS_TEST_OPENAI_URL")) is None:
        pytest.skip("AIOS_TEST_OPENAI_URL names no other server")
    return Server(url, ours=False)


@pytest.fixture
async def engine(kind: str, server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if server.ours:
        made = OURS[kind](server.url, request.getfixturevalue("template"))
    else:
        template = os.environ.get("AIOS_TEST_OPENAI_TEMPLATE") if kind == ANOTHER else None
        made = OpenAiEngine(server.url, None, 2, 60, template=template_of(Path(template) if template else None))
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


async def test_a_greedy_answer_is_the_engines_own(engine: Engine, server: Server) -> None:
    async with aiohttp.ClientSession(server.url) as http:
        if server.ours:
            wanted = (await generate(http, GREEDY.prompt, max_new_tokens=GREEDY.max_new_tokens))["generated_text"]
        else:
            body = {"model": (await engine.info()).model, "prompt": GREEDY.prompt, "max_tokens": 24, "temperature": 0}
            wanted = (await call(http, "/v1/completions", body))[1]["choices"][0]["text"]
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
    text, finish, _ = await chat(engine, grammar=Grammar("json", SCHEMA), max_new_tokens=ROOM)
    assert json.loads(text)["colour"] in ("red", "green")
    assert finish.reason in ("end", "stop_sequence")


async def test_a_schema_the_engine_refuses_is_told_by_its_field(engine: Engine) -> None:
    with pytest.raises(EngineRefused) as refused:
        await chat(engine, grammar=Grammar("json", {"type": "no such type"}))
    assert refused.value.field == "response_format"


async def test_what_is_too_long_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineRefused):
        await answer(engine, replace(GREEDY, prompt="word " * 3000))


async def test_an_answer_goes_on_from_any_token_as_if_it_had_not_stopped(engine: Engine, server: Server) -> None:
    if (await engine.info()).resumes == "no":
        pytest.skip("this endpoint applies its own template: its answers cannot be gone on with")
    # Only our engine draws a token by its place in the answer; others begin with their seed anew.
    for request in (GREEDY, SEEDED) if server.ours else (GREEDY,):
        whole, finish, _ = await answer(engine, request)
        for cut in (1, 7, 16):
            made = Generated()
            async with aclosing(engine.generate(request, None)) as stream:
                async for item in stream:
                    assert not isinstance(item, Finish)
                    made.add(item)
                    if made.tokens >= cut:  # a server may send several at once
                        break
            begun = await engine.resume_point(request.prompt, made.snapshot())
            assert begun.tokens <= made.tokens
            rest, end, _ = await answer(engine, replace(request, begun=begun))
            assert begun.text + rest == whole
            if begun.ids:
                assert (end.prompt_tokens, end.completion_tokens) == (finish.prompt_tokens, finish.completion_tokens)


async def test_a_stream_that_is_closed_frees_the_engine(engine: Engine) -> None:
    for _ in range(9):  # more than it runs at once
        async with aclosing(engine.generate(replace(GREEDY, max_new_tokens=900), None)) as stream:
            await anext(stream)
    assert (await answer(engine, replace(GREEDY, max_new_tokens=2)))[1].completion_tokens == 2


@pytest.mark.parametrize("name", list(OURS))
async def test_an_engine_that_is_not_there_is_unavailable(name: str, template: ChatTemplate) -> None:
    engine = OURS[name]("http://127.0.0.1:9", template)
    try:
        assert not await engine.healthy()
        with pytest.raises(EngineUnavailable):
            await engine.info()
        with pytest.raises(EngineUnavailable):
            await answer(engine, replace(GREEDY, messages=tuple(TURNS)))
    finally:
        await engine.close()


async def test_texts_are_counted_or_that_is_said_to_be_impossible(engine: Engine, server: Server) -> None:
    if isinstance(engine, OpenAiEngine) and server.ours:  # a route of their own: this engine's wants another field
        with pytest.raises((EngineFailed, EngineRefused)):
            await engine.count_tokens(["one two three"])
    else:
        empty, three = await engine.count_tokens(["", "one two three"])
        assert (empty, three >= 3) == (0, True)


async def scored(engine: Engine, request: GenerateRequest) -> tuple[str, Finish, list[Piece]]:
    """Text, end and pieces of an answer."""
    pieces: list[Piece] = []
    async with aclosing(engine.generate(request, None)) as stream:
        async for item in stream:
            if isinstance(item, Piece):
                pieces.append(item)
                continue
            if item.last is not None:
                pieces.append(item.last)
            return "".join(piece.text for piece in pieces), item, pieces
    raise AssertionError("no end")


def entries(pieces: list[Piece], *, every: bool = True) -> list[TokenLogprob]:
    """Those of the pieces, of which there is one for `every` token."""
    assert all(piece.tokens == (piece.scored is not None) for piece in pieces) or not every
    return [TokenLogprob.model_validate_json(piece.scored.json) for piece in pieces if piece.scored is not None]


@pytest.mark.parametrize("as_chat", [False, True])
async def test_a_greedy_token_heads_the_likeliest_of_its_place(engine: Engine, server: Server, as_chat: bool) -> None:
    prompt, turns = (await engine.render(TURNS), tuple(TURNS)) if as_chat else (GREEDY.prompt, ())
    request = replace(GREEDY, prompt=prompt, messages=turns, top_logprobs=3)
    text, finish, pieces = await scored(engine, request)
    told = entries(pieces)
    assert len(told) == finish.completion_tokens > 3
    assert "".join(entry.token for entry in told).startswith(text)  # an end token is told of, and is no text
    for entry in told:
        best = entry.top_logprobs
        assert (best[0].token, best[0].logprob) == (entry.token, entry.logprob)
        assert [other.logprob for other in best] == sorted((other.logprob for other in best), reverse=True)
        assert len(best) == 3
        assert sum(math.exp(other.logprob) for other in best) <= 1.00001
    if not server.ours:
        return
    async with aiohttp.ClientSession(server.url) as http:
        wanted = prompt or await _rendered(http)
        own = (await generate(http, wanted, max_new_tokens=GREEDY.max_new_tokens))["details"]["tokens"]
    assert [entry.logprob for entry in told] == [round(token["logprob"], 6) for token in own]


async def _rendered(http: aiohttp.ClientSession) -> str:
    body = {"messages": [turn.model_dump(exclude_none=True) for turn in TURNS]}
    async with http.post("/chat_tokenize", json=body) as response:
        return str((await response.json())["templated_text"])


async def test_log_probabilities_may_come_without_the_likeliest_and_of_sampled_tokens(engine: Engine) -> None:
    text, _, pieces = await scored(engine, replace(SEEDED, top_logprobs=0))
    told = entries(pieces)
    assert len(told) == 24
    assert "".join(entry.token for entry in told) == text == (await answer(engine, SEEDED))[0]
    assert all(entry.logprob <= 0 and not entry.top_logprobs for entry in told)


async def test_log_probabilities_come_with_a_schema(engine: Engine, server: Server) -> None:
    prompt = await engine.render(TURNS)
    request = replace(GREEDY, prompt=prompt, messages=tuple(TURNS), grammar=Grammar("json", SCHEMA), top_logprobs=2)
    request = replace(request, max_new_tokens=ROOM)
    text, finish, pieces = await scored(engine, request)
    told = entries(pieces, every=server.ours)
    assert json.loads(text)
    if server.ours:
        assert len(told) == finish.completion_tokens
        assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in told)
    else:  # llama.cpp takes a code fence off the document, tells nothing of its tokens, and scores before the schema
        assert 0 < len(told) <= finish.completion_tokens


async def test_nobody_who_does_not_ask_gets_log_probabilities(engine: Engine) -> None:
    assert not any(piece.scored for piece in (await scored(engine, GREEDY))[2])


async def test_more_of_the_likeliest_than_the_engine_tells_is_refused_by_name(engine: Engine, server: Server) -> None:
    if not server.ours:
        pytest.skip("it tells as many as we ask for")
    turn = replace(GREEDY, prompt=await engine.render(TURNS), messages=tuple(TURNS))
    for request in (GREEDY, turn):
        with pytest.raises(EngineRefused) as refused:
            await scored(engine, replace(request, top_logprobs=20))
        assert refused.value.field == "top_logprobs"


async def test_the_log_probabilities_of_an_answer_that_goes_on_are_those_of_one_that_never_stopped(
    engine: Engine, server: Server
) -> None:
    if (await engine.info()).resumes == "no":
        pytest.skip("this endpoint applies its own template: its answers cannot be gone on with")
    greedy, seeded = replace(GREEDY, top_logprobs=2), replace(SEEDED, top_logprobs=0)
    for request in (greedy, seeded) if server.ours else (greedy,):
        whole = entries((await scored(engine, request))[2])
        for cut in (1, 7, 16):
            made, first = Generated(), []
            async with aclosing(engine.generate(request, None)) as stream:
                async for item in stream:
                    assert isinstance(item, Piece)
                    made.add(item)
                    first.append(item)
                    if made.tokens == cut:
                        break
            known = tuple(piece.scored for piece in first if piece.scored is not None)
            begun = await engine.resume_point(request.prompt, replace(made.snapshot(), scored=known))
            rest = (await scored(engine, replace(request, begun=begun)))[2]
            told = entries([*first[: begun.tokens], *rest])
            if server.ours:
                assert told == whole
            else:  # others compute a prompt in other batches than tokens
                assert [entry.token for entry in told] == [entry.token for entry in whole]
                assert [e.logprob for e in told] == pytest.approx([e.logprob for e in whole], abs=0.25)
