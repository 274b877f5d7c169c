"""What a call becomes for an engine."""

import pytest
from pydantic import JsonValue

from aios_llm.ports import Finish, Grammar
from aios_llm.requests import generate_request, result, seed_of
from aios_proto.messages.llm import (
    ChatMessage,
    ChatRequest,
    ChatResult,
    CompleteRequest,
    CompleteResult,
    JsonSchemaFormat,
    RegexFormat,
)


def complete(**fields: object) -> CompleteRequest:
    return CompleteRequest.model_validate({"prompt": "x", **fields})


@pytest.mark.parametrize("temperature", [None, 0])
def test_without_temperature_the_choice_is_greedy_and_needs_no_seed(temperature: float | None) -> None:
    request = generate_request("x", complete(temperature=temperature, top_p=0.5, top_k=3, seed=1), "k", 512)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (None, None, None, None)


def test_a_sampled_call_keeps_what_its_caller_chose() -> None:
    call = complete(temperature=0.7, top_p=0.5, top_k=3, seed=9, repetition_penalty=1.1, frequency_penalty=-0.5)
    sampling = generate_request("x", call, "k", 512).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.5, 3, 9)
    assert (sampling.repetition_penalty, sampling.frequency_penalty) == (1.1, -0.5)


def test_a_top_p_of_one_is_no_restriction_and_is_left_out() -> None:
    assert generate_request("x", complete(temperature=1, top_p=1), "k", 512).sampling.top_p is None


def test_a_seed_of_zero_is_a_seed() -> None:
    assert generate_request("x", complete(temperature=1, seed=0), "k", 512).sampling.seed == 0


def test_a_sampled_call_without_a_seed_has_the_same_one_whenever_it_runs() -> None:
    first = generate_request("x", complete(temperature=1), "acme.a.1", 512).sampling.seed
    assert first == generate_request("x", complete(temperature=1), "acme.a.1", 512).sampling.seed
    assert first != generate_request("x", complete(temperature=1), "acme.a.2", 512).sampling.seed


def test_seeds_are_exact_in_json_everywhere() -> None:
    assert all(0 <= seed_of(f"k{n}") < 1 << 53 for n in range(1000))


def test_the_worker_sets_the_length_where_the_caller_does_not() -> None:
    assert generate_request("x", complete(), "k", 77).max_new_tokens == 77
    assert generate_request("x", complete(max_tokens=3), "k", 77).max_new_tokens == 3


def test_stop_sequences_pass_through() -> None:
    assert generate_request("x", complete(stop=["a", "b"]), "k", 1).stop == ("a", "b")


SCHEMA: dict[str, JsonValue] = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("given", [SCHEMA, {"name": "thing", "strict": True, "schema": SCHEMA}])
def test_a_schema_may_come_plain_or_wrapped_as_openai_does(given: dict[str, object]) -> None:
    call = complete(response_format={"type": "json_schema", "json_schema": given})
    assert isinstance(call.response_format, JsonSchemaFormat)
    assert generate_request("x", call, "k", 1).grammar == Grammar("json", SCHEMA)


def test_a_schema_with_a_property_called_schema_is_not_taken_for_a_wrapper() -> None:
    plain: dict[str, JsonValue] = {"type": "object", "schema": {"x": 1}}
    call = complete(response_format={"type": "json_schema", "json_schema": plain})
    assert generate_request("x", call, "k", 1).grammar == Grammar("json", plain)


def test_a_regular_expression_passes_through() -> None:
    call = complete(response_format={"type": "regex", "regex": "[0-9]+"})
    assert isinstance(call.response_format, RegexFormat)
    assert generate_request("x", call, "k", 1).grammar == Grammar("regex", "[0-9]+")


@pytest.mark.parametrize(("engine", "ours"), [("length", "length"), ("end", "stop"), ("stop_sequence", "stop")])
def test_how_it_ended_is_said_in_openais_words(engine: str, ours: str) -> None:
    finish = Finish(engine, 1, 1)  # type: ignore[arg-type]
    said = result(complete(), "text", finish, "m", "c")
    assert isinstance(said, CompleteResult)
    assert (said.text, said.finish_reason, said.model) == ("text", ours, "m")
    chat = result(ChatRequest(messages=[ChatMessage(role="user", content="x")]), "text", finish, "m", "c")
    assert isinstance(chat, ChatResult)
    assert (chat.message.role, chat.message.content) == ("assistant", "text")
