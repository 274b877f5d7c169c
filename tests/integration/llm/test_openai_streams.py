"""What the `openai` adapter makes of streams that no recording happens to have: other chunks, counts and ends."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aios_llm.adapters.openai import OpenAiEngine
from aios_llm.ports import Finish, GenerateRequest, Piece, Sampling
from aios_proto.errors import EngineFailed
from aios_proto.messages.llm import ChatMessage

Start = Callable[[str, list[dict[str, Any]]], Awaitable[OpenAiEngine]]

TEXT = GenerateRequest("Once", 8, Sampling())
CHAT = GenerateRequest("", 8, Sampling(), messages=(ChatMessage(role="user", content="Hi"),))


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a server that says who made it and streams these events, and an adapter to it."""
    servers: list[tuple[TestServer, OpenAiEngine]] = []

    async def started(owner: str, events: list[dict[str, Any]]) -> OpenAiEngine:
        async def models(_: web.Request) -> web.Response:
            return web.json_response({"data": [{"id": "m", "owned_by": owner, "max_model_len": 64}]})

        async def stream(_: web.Request) -> web.Response:
            said = [json.dumps(event) for event in events] + ["[DONE]"]
            return web.Response(text="".join(f"data: {one}\n\n" for one in said), content_type="text/event-stream")

        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/completions", stream)
        app.router.add_post("/v1/chat/completions", stream)
        server = TestServer(app)
        await server.start_server()
        engine = OpenAiEngine(str(server.make_url("")), None, 2, 10)
        servers.append((server, engine))
        await engine.info()
        return engine

    yield started
    for server, engine in servers:
        await engine.close()
        await server.close()


async def answer(engine: OpenAiEngine, request: GenerateRequest) -> tuple[list[Piece], Finish]:
    pieces: list[Piece] = []
    async with aclosing(engine.generate(request, None)) as stream:
        async for item in stream:
            if isinstance(item, Piece):
                pieces.append(item)
                continue
            return [*pieces, *([item.last] if item.last else [])], item
    raise AssertionError("no end")


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}


async def test_a_chunk_of_several_tokens_counts_as_many_as_it_has_ids(start: Start) -> None:
    engine = await start(
        "vllm",
        [
            {"choices": [{"text": " a", "token_ids": [5], "finish_reason": None}]},
            {"choices": [{"text": " scene, that", "token_ids": [6, 7, 8], "finish_reason": "length"}]},
            usage(4),
        ],
    )
    pieces, finish = await answer(engine, TEXT)
    assert [(piece.tokens, piece.ids) for piece in pieces] == [(1, (5,)), (3, (6, 7, 8))]
    assert finish.completion_tokens == 4


async def test_a_chunk_of_several_tokens_counts_as_the_server_counts(start: Start) -> None:
    engine = await start(
        "llamacpp",
        [
            {"choices": [{"text": " a", "finish_reason": None}], "timings": {"predicted_n": 1}},
            {"choices": [{"text": "🌟", "finish_reason": None}], "timings": {"predicted_n": 4}},
            {"choices": [{"text": "", "finish_reason": "stop"}], "timings": {"predicted_n": 5}},
            usage(5),
        ],
    )
    pieces, finish = await answer(engine, TEXT)
    assert [piece.tokens for piece in pieces] == [1, 3, 1]
    assert finish.completion_tokens == 5


async def test_what_opens_and_closes_a_stream_is_no_token(start: Start) -> None:
    engine = await start(
        "somebody",
        [
            {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"delta": {"content": "Hello"}, "finish_reason": None}]},
            {"choices": [{"delta": {"content": "!"}, "finish_reason": None}]},
            {"choices": [{"delta": {}, "finish_reason": "length"}]},
            usage(2),
        ],
    )
    pieces, _ = await answer(engine, CHAT)
    assert [(piece.text, piece.tokens) for piece in pieces] == [("Hello", 1), ("!", 1)]


async def test_tokens_the_stream_does_not_tell_of_come_with_its_last_piece(start: Start) -> None:
    engine = await start(
        "somebody",
        [
            {"choices": [{"text": "Hel", "finish_reason": None}]},
            {"choices": [{"text": "lo", "finish_reason": "stop"}]},
            usage(3),
        ],
    )
    pieces, finish = await answer(engine, TEXT)
    assert [piece.tokens for piece in pieces] == [1, 2]
    assert (finish.reason, finish.completion_tokens) == ("end", 3)


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_an_answer_the_server_gave_up_is_no_answer(start: Start, reason: str) -> None:
    engine = await start("vllm", [{"choices": [{"text": "Once", "token_ids": [5], "finish_reason": reason}]}, usage(1)])
    with pytest.raises(EngineFailed):
        await answer(engine, TEXT)


async def test_an_error_in_the_middle_of_a_stream_is_told(start: Start) -> None:
    error = {"message": "EngineCore encountered an issue", "type": "InternalServerError", "param": None, "code": 500}
    engine = await start("vllm", [{"choices": [{"text": "Once", "token_ids": [5]}]}, {"error": error}])
    with pytest.raises(EngineFailed, match="EngineCore"):
        await answer(engine, TEXT)
