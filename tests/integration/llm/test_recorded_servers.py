"""The `openai` adapter against servers that are not at hand: what they really answered, recorded and played again.

To record anew, start the server as `tests/fixtures/engine_exchanges/README.md` says, and run this file with
`AIOS_TEST_OPENAI_URL` its URL and `AIOS_TEST_RECORD` the name of the folder to write, such as `vllm-0.32.0`.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.engine_exchanges import CLOSE_TIMEOUT_S, Played, playing, recording

from aios_llm.adapters.openai import OpenAiEngine, template_of
from aios_llm.generated import Generated
from aios_llm.ports import Finish, GenerateRequest, Grammar, Piece, Sampling
from aios_llm.stop_sequences import StopFilter
from aios_proto.errors import EngineRefused
from aios_proto.messages.llm import ChatMessage, TokenLogprob

RECORDINGS = Path(__file__).parents[2] / "fixtures" / "engine_exchanges"
RECORDING = os.environ.get("AIOS_TEST_RECORD")
FOLDERS = [RECORDING] if RECORDING else sorted(path.name for path in RECORDINGS.iterdir() if path.is_dir())

pytestmark = pytest.mark.timeout(120)

GREEDY = GenerateRequest("Once upon a time, in a village by the sea,", 16, Sampling())
TURNS = (ChatMessage(role="user", content="Name a colour."),)
CHAT = replace(GREEDY, prompt="", messages=TURNS)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "n"],
    "additionalProperties": False,
}


@dataclass
class Setup:
    """An adapter on a recording.

    Attributes:
        vllm: whose recording it is; llama.cpp's otherwise.
        played: the recording; None while it is being made.
    """

    engine: OpenAiEngine
    vllm: bool
    played: Played | None


@pytest.fixture(params=FOLDERS)
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    folder = RECORDINGS / request.param
    file = folder / f"{request.function.__name__.removeprefix('test_')}.json"
    template = folder / "chat_template.jinja"

    def engine(url: str) -> OpenAiEngine:
        return OpenAiEngine(url, None, 2, 60, template=template_of(template if template.exists() else None))

    vllm = request.param.startswith("vllm")
    if RECORDING:
        async with recording(os.environ["AIOS_TEST_OPENAI_URL"], file) as url:
            made = engine(url)
            await made.info()
            yield Setup(made, vllm, None)
            await made.close()
        return
    async with playing(file) as played:
        made = engine(played.url)
        await made.info()
        yield Setup(made, vllm, played)
        await made.close()
        assert not played.unknown, "the server was never asked this"
        assert not played.left, "the adapter does not ask this any more"


async def answer(setup: Setup, request: GenerateRequest) -> tuple[str, Finish, list[Piece]]:
    pieces: list[Piece] = []
    async with aclosing(setup.engine.generate(request, None)) as stream:
        async for item in stream:
            if isinstance(item, Piece):
                pieces.append(item)
                continue
            if item.last is not None:
                pieces.append(item.last)
            return "".join(piece.text for piece in pieces), item, pieces
    raise AssertionError("no end")


async def test_models(setup: Setup) -> None:
    info = await setup.engine.info()
    assert (info.model, info.max_total_tokens, info.resumes) == ("smollm2-135m-instruct", 1024, "text")
    assert (info.version, info.concurrency) == (("vllm", 32) if setup.vllm else ("llama.cpp", 4))


async def test_health(setup: Setup) -> None:
    assert await setup.engine.healthy()


async def test_chat(setup: Setup) -> None:
    text, finish, pieces = await answer(setup, CHAT)
    assert text.strip()
    assert (finish.reason, finish.completion_tokens) == ("length", 16)
    assert finish.prompt_tokens > 20, "the server's template came with it"
    assert sum(piece.tokens for piece in pieces) == 16
    assert all(piece.tokens for piece in pieces), "nothing opens the stream before there is a token"


async def test_chat_that_ends(setup: Setup) -> None:
    hello = (ChatMessage(role="user", content="Say hi."),)
    text, finish, pieces = await answer(setup, replace(CHAT, messages=hello, max_new_tokens=64))
    assert finish.reason == "end"
    assert not text.endswith(">"), "the end token is no text"
    assert sum(piece.tokens for piece in pieces) == finish.completion_tokens < 64


async def test_rendered_chat(setup: Setup) -> None:
    prompt = await setup.engine.render(list(TURNS))
    assert prompt.endswith("<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n")
    text, finish, _ = await answer(setup, replace(CHAT, prompt=prompt))
    assert text.strip()
    assert finish.prompt_tokens > 20


async def test_completion(setup: Setup) -> None:
    text, finish, pieces = await answer(setup, GREEDY)
    assert text.strip()
    assert (finish.reason, finish.prompt_tokens, finish.completion_tokens) == ("length", 12, 16)
    assert sum(piece.tokens for piece in pieces) == 16
    assert sum(len(piece.ids) for piece in pieces) == (16 if setup.vllm else 0)


async def test_sampled_completion(setup: Setup) -> None:
    sampling = Sampling(0.9, 0.9, 40, 1.1, 0.2, seed=(1 << 53) - 1)
    text, finish, _ = await answer(setup, replace(GREEDY, sampling=sampling))
    assert text.strip()
    assert finish.completion_tokens == 16


async def test_characters_of_several_tokens(setup: Setup) -> None:
    text, finish, pieces = await answer(setup, replace(GREEDY, prompt="Emoji: 😀😃😄😁 中文字符:", max_new_tokens=12))
    assert any(ord(character) > 0xFFFF for character in text)
    assert "\N{REPLACEMENT CHARACTER}" not in text
    assert sum(piece.tokens for piece in pieces) == finish.completion_tokens == 12


async def test_stop_sequence(setup: Setup) -> None:
    text, finish, pieces = await answer(setup, GenerateRequest("1, 2, 3, 4,", 40, Sampling(), stop=(", 9",)))
    kept = StopFilter((", 9",))
    passed = kept.feed(text)
    assert passed + kept.finish() == " 5, 6, 7, 8"
    assert finish.reason == ("stop_sequence" if setup.vllm else "end")
    assert sum(piece.tokens for piece in pieces) == finish.completion_tokens == 14


async def test_json_schema(setup: Setup) -> None:
    text, finish, _ = await answer(setup, replace(CHAT, grammar=Grammar("json", SCHEMA), max_new_tokens=120))
    assert json.loads(text)["colour"] in ("red", "green")
    assert finish.reason == "end"


async def test_regular_expression(setup: Setup) -> None:
    request = replace(GREEDY, grammar=Grammar("regex", "[a-c]{3}"))
    if not setup.vllm:
        with pytest.raises(EngineRefused) as refused:
            await answer(setup, request)
        assert refused.value.field == "response_format"
        return
    assert re.fullmatch("[a-c]{3}", (await answer(setup, request))[0])


async def test_schema_that_is_none(setup: Setup) -> None:
    with pytest.raises(EngineRefused) as refused:
        await answer(setup, replace(CHAT, grammar=Grammar("json", {"type": "no such type"})))
    assert refused.value.field == "response_format"


async def test_bad_parameter(setup: Setup) -> None:
    request = replace(GREEDY, sampling=Sampling(temperature=-3))
    if not setup.vllm:
        assert (await answer(setup, request))[0], "llama.cpp takes any value"
        return
    with pytest.raises(EngineRefused) as refused:
        await answer(setup, request)
    assert refused.value.field == "temperature"


async def test_too_long_prompt(setup: Setup) -> None:
    with pytest.raises(EngineRefused) as refused:
        await answer(setup, replace(GREEDY, prompt="word " * 1200))
    assert refused.value.field == "messages"


async def test_tokens_counted(setup: Setup) -> None:
    assert await setup.engine.count_tokens(["", "one two three"]) == [0, 3]


async def test_logprobs_of_a_completion(setup: Setup) -> None:
    check_logprobs(*await answer(setup, replace(GREEDY, top_logprobs=2)))


async def test_logprobs_of_a_chat(setup: Setup) -> None:
    check_logprobs(*await answer(setup, replace(CHAT, top_logprobs=2)))


def check_logprobs(text: str, finish: Finish, pieces: list[Piece]) -> None:
    told = [TokenLogprob.model_validate_json(piece.scored.json) for piece in pieces if piece.scored is not None]
    assert len(told) == finish.completion_tokens == 16
    assert "".join(entry.token for entry in told) == text
    for entry in told:
        best, second = entry.top_logprobs
        assert (best.token, best.logprob) == (entry.token, entry.logprob)
        assert second.logprob <= best.logprob


async def test_cancelled(setup: Setup) -> None:
    async with aclosing(setup.engine.generate(replace(GREEDY, max_new_tokens=900), None)) as stream:
        assert isinstance(await anext(stream), Piece)
    if setup.played is not None:
        await asyncio.wait_for(setup.played.gone.wait(), CLOSE_TIMEOUT_S)


async def test_gone_on_with(setup: Setup) -> None:
    whole, finish, _ = await answer(setup, replace(GREEDY, max_new_tokens=24))
    made = Generated()
    async with aclosing(setup.engine.generate(replace(GREEDY, max_new_tokens=300), None)) as stream:
        async for item in stream:
            assert isinstance(item, Piece)
            made.add(item)
            if made.tokens >= 11:
                break
    begun = await setup.engine.resume_point(GREEDY.prompt, made.snapshot())
    assert 0 < begun.tokens <= made.tokens
    rest, end, _ = await answer(setup, replace(GREEDY, max_new_tokens=24, begun=begun))
    assert begun.text + rest == whole
    assert (end.prompt_tokens, end.completion_tokens) == (finish.prompt_tokens, finish.completion_tokens) == (12, 24)
