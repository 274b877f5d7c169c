"""Requests that are wrong, and clients that go away."""

import asyncio
import io
import json
import re
from typing import Any

import aiohttp
import pytest
from support.engine import running_engine
from support.engine_client import call, events, generate, stream

pytestmark = pytest.mark.timeout(20, func_only=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"top_p": 2}, "`top_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 5000}, "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 1 `inputs` tokens"),
        ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ],
)
async def test_bad_parameters_are_refused_with_422_and_in_a_stream_by_an_event(
    http: aiohttp.ClientSession, parameters: dict[str, Any], message: str
) -> None:
    status, error = await call(http, "/generate", {"inputs": "x", "parameters": parameters})
    assert status == 422
    assert error["error_type"] == "validation"
    assert error["error"].startswith(f"Input validation error: {message}")
    (event,) = await stream(http, "x", **parameters)
    assert event["error_type"] == "validation"


async def test_what_a_stream_cannot_tell_is_refused_in_it(http: aiohttp.ClientSession) -> None:
    assert await stream(http, "x", decoder_input_details=True) == [
        {
            "error": "Input validation error: `decoder_input_details` == true is not supported when streaming tokens",
            "error_type": "validation",
        }
    ]
    (event,) = await stream(http, "x", best_of=2, do_sample=True)
    assert event["error"].endswith("`best_of` != 1 is not supported when streaming tokens")


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream", "/tokenize", "/v1/chat/completions"])
async def test_a_body_that_is_no_request_is_refused_the_same_way_everywhere(
    http: aiohttp.ClientSession, path: str
) -> None:
    plain = {"Content-Type": "application/json"}
    for data, headers, status in (
        (b"{", plain, 400),
        (b"", plain, 400),
        (b"\xff\xfe", plain, 400),
        (b"[]", plain, 422),
        (b'{"inputs": 3, "messages": 4}', plain, 422),
        (b'{"inputs": "x", "messages": []}', {"Content-Type": "text/plain"}, 415),
        (b" " * (2 * 1024 * 1024 + 1), plain, 413),
    ):
        async with http.post(path, data=io.BytesIO(data), headers=headers) as response:
            assert response.status == status
            assert set(await response.json()) == {"error", "error_type"}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"top_k": "a"}, "top_k"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": "x"}, "stop"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"grammar": {"type": "lark", "value": "x"}}, "grammar"),
    ],
)
async def test_a_value_of_the_wrong_type_names_its_field(
    http: aiohttp.ClientSession, parameters: dict[str, Any], field: str
) -> None:
    status, error = await call(http, "/generate", {"inputs": "x", "parameters": parameters})
    assert status == 422
    assert f"parameters.{field}" in error["error"]


async def test_unknown_fields_are_ignored(http: aiohttp.ClientSession) -> None:
    status, _ = await call(http, "/generate", {"inputs": "x", "new": 1, "parameters": {"max_new_tokens": 1, "y": 2}})
    assert status == 200


async def test_an_unknown_route_and_method_are_told(http: aiohttp.ClientSession) -> None:
    async with http.post("/nope", json={}) as response:
        assert response.status == 404
    async with http.get("/generate") as response:
        assert response.status == 405


async def test_a_text_of_any_characters_is_a_prompt(http: aiohttp.ClientSession) -> None:
    for text in ("\x00", "\ud800", "🦜" * 50, "\r\n\t", "<|im_start|><|im_end|>"):
        body = json.dumps({"inputs": text, "parameters": {"max_new_tokens": 1}}).encode()
        async with http.post("/generate", data=body, headers={"Content-Type": "application/json"}) as response:
            # A lone surrogate is JSON to some and not to others; it must not break anything.
            assert response.status in ((200, 400) if text == "\ud800" else (200,))


async def test_who_goes_away_frees_its_slot_within_a_step() -> None:
    long = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 900}}
    with running_engine({"AIOS_ENGINE_MAX_SEQUENCES": "2"}) as url:
        async with aiohttp.ClientSession(url) as http:
            async with http.post("/generate_stream", json=long) as response:
                await anext(events(response))
                response.close()
            whole = asyncio.create_task(generate(http, "Once upon a time", max_new_tokens=900))
            async with http.post("/generate_stream", json=long) as response:
                tokens = events(response)
                await anext(tokens)
                waiting = asyncio.create_task(generate(http, "The capital of France is", max_new_tokens=2))
                await anext(tokens)
                whole.cancel()
                response.close()
            assert (await waiting)["generated_text"] == " Paris."
            async with http.get("/metrics") as metrics:
                text = await metrics.text()
            assert "tgi_batch_current_size 0.0" in text
            steps = re.findall(r"tgi_batch_inference_count\{[^}]*\} (\S+)", text)
            assert sum(map(float, steps)) < 300, "none of the long generations went on"


async def test_one_request_too_many_is_refused_at_once() -> None:
    with running_engine({"AIOS_ENGINE_MAX_CONCURRENT_REQUESTS": "1"}) as url:
        async with aiohttp.ClientSession(url) as http:
            body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 900}}
            async with http.post("/generate_stream", json=body) as response:
                await anext(events(response))
                overloaded = {"error": "Model is overloaded", "error_type": "overloaded"}
                assert await call(http, "/generate", {"inputs": "x"}) == (429, overloaded)
                assert await stream(http, "x") == [overloaded]
                chat = {"messages": [{"role": "user", "content": "x"}]}
                assert (await call(http, "/v1/chat/completions", chat))[0] == 429
                response.close()
            async with http.get("/metrics") as response:
                assert 'tgi_request_failure{err="overloaded"} 3.0' in await response.text()


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    with running_engine({"AIOS_ENGINE_API_KEY": "secret"}) as url:
        body = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
        async with aiohttp.ClientSession(url) as http:
            for path in ("/health", "/info", "/metrics", "/"):
                assert (await http.get(path)).status == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                async with http.post("/generate", json=body, headers=headers) as response:
                    assert response.status == 401
            async with http.post("/generate", json=body, headers={"Authorization": "Bearer secret"}) as response:
                assert response.status == 200
