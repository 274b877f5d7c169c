"""The OpenAI-compatible routes on the real model."""

import json
from typing import Any

import aiohttp
import jsonschema
import pytest
from support.engine_client import call, events

pytestmark = pytest.mark.timeout(20, func_only=True)

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hello."}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "temperature": 0, "max_tokens": 12} | fields


async def chunks(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with http.post("/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status == 200
        return [event async for event in events(response)]


def content(found: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in found for choice in chunk["choices"])


async def test_a_turn_is_answered(http: aiohttp.ClientSession) -> None:
    status, answer = await call(http, "/v1/chat/completions", chat())
    assert status == 200
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_streamed_turn_says_the_same_and_its_usage_if_asked(http: aiohttp.ClientSession) -> None:
    _, answer = await call(http, "/v1/chat/completions", chat())
    found = await chunks(http, chat(stream_options={"include_usage": True}))
    assert content(found) == answer["choices"][0]["message"]["content"]
    *spoken, usage = found
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in spoken[:-1]] == [None] * (len(spoken) - 1)
    assert spoken[-1]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"]
    assert all(chunk["usage"] is None for chunk in spoken)


async def test_the_prompt_of_a_conversation_can_be_seen(http: aiohttp.ClientSession) -> None:
    status, answer = await call(http, "/chat_tokenize", {"messages": MESSAGES})
    assert status == 200
    text = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    assert answer["templated_text"] == text
    assert "".join(token["text"] for token in answer["tokenize_response"]) == text


async def test_log_probabilities_come_with_a_turn(http: aiohttp.ClientSession) -> None:
    body = chat(max_tokens=3, logprobs=True, top_logprobs=2)
    _, answer = await call(http, "/v1/chat/completions", body)
    logprobs = answer["choices"][0]["logprobs"]["content"]
    assert [len(one["top_logprobs"]) for one in logprobs] == [2, 2, 2]
    assert [chunk["choices"][0]["logprobs"]["content"][0] for chunk in await chunks(http, body)] == logprobs


async def test_a_log_probability_has_the_bytes_of_its_token_and_needs_no_alternatives(
    http: aiohttp.ClientSession,
) -> None:
    body = chat(messages=[{"role": "user", "content": "Repeat: 🦊🦊🦊🦊🦊🦊"}], max_tokens=24, logprobs=True)
    _, answer = await call(http, "/v1/chat/completions", body)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in entries)
    text = answer["choices"][0]["message"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).startswith(text.rstrip("\ufffd").encode())
    for top in (0, 5):
        status, _ = await call(http, "/v1/chat/completions", chat(max_tokens=1, logprobs=True, top_logprobs=top))
        assert status == 200


async def test_a_demanded_tool_is_called_with_legal_arguments(http: aiohttp.ClientSession) -> None:
    body = chat(tools=[TOOL], tool_choice="required", max_tokens=60)
    _, answer = await call(http, "/v1/chat/completions", body)
    (tool_call,) = answer["choices"][0]["message"]["tool_calls"]
    assert tool_call["type"] == "function"
    assert tool_call["function"]["name"] == "get_weather"
    arguments = json.loads(tool_call["function"]["arguments"])
    jsonschema.validate(arguments, TOOL["function"]["parameters"])
    found = await chunks(http, body)
    pieces = [
        part["function"]
        for chunk in found
        for choice in chunk["choices"]
        for part in choice["delta"].get("tool_calls", [])
    ]
    assert [piece["name"] for piece in pieces] == ["get_weather"] + [None] * (len(pieces) - 1)
    assert json.loads("".join(piece["arguments"] for piece in pieces)) == arguments
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_model_that_wants_no_tool_answers_in_words(http: aiohttp.ClientSession) -> None:
    # The model repeats what it sees itself say.
    declined = {"role": "assistant", "content": '{"function": {"_name": "no_tool"}}'}
    hello = {"role": "user", "content": "Hello"}
    body = chat(messages=[hello, declined, hello, declined, hello], tools=[TOOL], tool_choice="auto", max_tokens=30)
    _, answer = await call(http, "/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message
    found = await chunks(http, body)
    assert content(found) == message["content"]
    assert not any("tool_calls" in choice["delta"] for chunk in found for choice in chunk["choices"])


async def test_a_turn_keeps_to_its_format(http: aiohttp.ClientSession) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    body = chat(max_tokens=40, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    _, answer = await call(http, "/v1/chat/completions", body)
    jsonschema.validate(json.loads(answer["choices"][0]["message"]["content"]), schema)


@pytest.mark.parametrize(
    ("fields", "status", "error_type"),
    [
        ({"tools": [TOOL], "tool_choice": "nope"}, 422, "tool_error"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, 422, "tool_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "template_error"),
        ({"top_p": 3}, 422, "validation"),
        ({"top_logprobs": 2}, 422, "validation"),
        ({"top_logprobs": 6, "logprobs": True}, 422, "validation"),
        ({"messages": "x"}, 422, "validation"),
        ({"tools": [{"function": {}}]}, 422, "validation"),
    ],
)
async def test_a_turn_that_cannot_be_answered_is_refused(
    http: aiohttp.ClientSession, fields: dict[str, Any], status: int, error_type: str
) -> None:
    found, error = await call(http, "/v1/chat/completions", chat(**fields))
    assert (found, error["error_type"]) == (status, error_type)


async def test_an_error_in_a_streamed_turn_is_an_event_and_the_stream_ends(http: aiohttp.ClientSession) -> None:
    assert await chunks(http, chat(top_p=3)) == [
        {"error": {"message": "Input validation error: `top_p` must be > 0.0 and < 1.0", "http_status_code": 422}}
    ]


async def test_texts_are_continued(http: aiohttp.ClientSession) -> None:
    body = {"prompt": ["The capital of France is", "1, 2, 3,"], "max_tokens": 3, "temperature": 0}
    status, answer = await call(http, "/v1/completions", body)
    assert status == 200
    assert [choice["text"] for choice in answer["choices"]] == [" Paris.\n", " 4,"]
    async with http.post("/v1/completions", json=body | {"stream": True}) as response:
        texts = {0: "", 1: ""}
        async for event in events(response):
            (choice,) = event["choices"]
            texts[choice["index"]] += choice["text"]
    assert [texts[0], texts[1]] == [choice["text"] for choice in answer["choices"]]


async def test_log_probabilities_of_a_continued_text_are_parallel_lists(http: aiohttp.ClientSession) -> None:
    body = {"prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0, "logprobs": 2}
    _, answer = await call(http, "/v1/completions", body)
    (choice,) = answer["choices"]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    for token, logprob, likeliest, at in zip(
        told["tokens"], told["token_logprobs"], told["top_logprobs"], told["text_offset"], strict=True
    ):
        assert choice["text"][at:].startswith(token)
        assert likeliest[token] == logprob == max(likeliest.values())
        assert len(likeliest) == 2
    async with http.post("/v1/completions", json=body | {"stream": True}) as response:
        found = [event["choices"][0]["logprobs"] async for event in events(response)]
    assert {name: [one[name][0] for one in found] for name in told} == told


async def test_a_continued_text_tells_its_own_tokens_where_no_others_are_wanted(http: aiohttp.ClientSession) -> None:
    body = {"prompt": "Once", "max_tokens": 3, "temperature": 1, "seed": 4}
    _, answer = await call(http, "/v1/completions", body | {"logprobs": 0})
    told = answer["choices"][0]["logprobs"]
    assert told["top_logprobs"] == [
        {token: logprob} for token, logprob in zip(told["tokens"], told["token_logprobs"], strict=True)
    ]
    _, answer = await call(http, "/v1/completions", body)
    assert answer["choices"][0]["logprobs"] is None


async def test_completions_refuse_what_tgi_refuses(http: aiohttp.ClientSession) -> None:
    status, error = await call(http, "/v1/completions", {"prompt": "x", "suffix": "y"})
    assert status == 422
    assert error["error"].startswith("Suffix is not supported")
    status, error = await call(http, "/v1/completions", {"prompt": ["x"] * 5})
    assert status == 422
    assert "maximum allowed batch size of 4" in error["error"]


async def test_the_model_is_listed(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert model["id"] == "smollm2-135m-instruct"


async def test_info_tells_limits_and_what_goes_beyond_tgi(http: aiohttp.ClientSession) -> None:
    async with http.get("/info") as response:
        info = await response.json()
    assert (info["max_total_tokens"], info["max_input_tokens"]) == (1024, 1023)
    assert info["max_batch_total_tokens"] == 6 * 1024
    assert info["aios"]["prompt_ids"] is True
    assert "<|im_start|>" in info["aios"]["chat_template"]
    assert info["aios"]["eos_token"] == "<|im_end|>"


async def test_metrics_have_tgis_names(http: aiohttp.ClientSession) -> None:
    await call(http, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}})
    async with http.get("/metrics") as response:
        text = await response.text()
    for name in (
        "tgi_queue_size 0.0",
        "tgi_batch_current_size",
        "tgi_batch_current_max_tokens",
        "tgi_batch_max_total_tokens 6144.0",
        "tgi_request_count ",
        "tgi_request_success ",
        "tgi_request_duration_sum",
        "tgi_request_queue_duration_bucket",
        "tgi_request_inference_duration_count",
        "tgi_request_mean_time_per_token_duration_sum",
        "tgi_request_generated_tokens_sum",
        "tgi_request_input_length_sum",
        'tgi_batch_inference_count{method="prefill"}',
        'tgi_batch_inference_duration_sum{method="decode"}',
    ):
        assert name in text
