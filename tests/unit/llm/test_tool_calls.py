"""Tools in chat: what the engine is given, and what its answer means."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from aios_llm.ports import Finish
from aios_llm.requests import generate_request, result
from aios_llm.tool_calls import as_constrained, offers_tools, read_turn
from aios_proto.errors import EngineFailed
from aios_proto.messages.llm import ChatRequest, ChatResult

WEATHER: dict[str, JsonValue] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL: JsonValue = {"calls": [{"tool": "weather", "arguments": {"city": "Rome"}}]}


def chat(*messages: dict[str, JsonValue], **fields: JsonValue) -> ChatRequest:
    turns = list(messages) or [{"role": "user", "content": "Is it warm in Rome?"}]
    return ChatRequest.model_validate({"messages": turns, "tools": [WEATHER], **fields})


def schema_of(call: ChatRequest) -> dict[str, JsonValue]:
    grammar = generate_request("x", as_constrained(call), "k", 1).grammar
    assert grammar is not None
    assert isinstance(grammar.value, dict)
    return grammar.value


def legal(call: ChatRequest, turn: JsonValue) -> bool:
    return jsonschema.Draft202012Validator(schema_of(call)).is_valid(turn)


@pytest.mark.parametrize(
    ("choice", "calls", "answers"), [(None, True, True), ("auto", True, True), ("required", True, False)]
)
def test_the_answer_is_held_to_what_the_choice_of_tools_allows(choice: str | None, calls: bool, answers: bool) -> None:
    call = chat(tool_choice=choice)
    assert legal(call, CALL) == calls
    assert legal(call, {"answer": "It is."}) == answers
    assert not legal(call, {"calls": [{"tool": "fly", "arguments": {}}]})


def test_the_model_is_told_of_the_tools_in_one_system_turn() -> None:
    told = as_constrained(chat({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}))
    assert [turn.role for turn in told.messages] == ["system", "user"]
    assert (told.messages[0].content or "").startswith("Be brief.")
    assert "weather(city: string): Tells the weather." in (told.messages[0].content or "")
    assert [turn.role for turn in as_constrained(chat()).messages] == ["system", "user"]


def test_tools_that_must_not_be_used_change_nothing_but_old_calls_are_still_readable() -> None:
    call = chat(
        {"role": "user", "content": "Is it warm?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "21"},
        tool_choice="none",
    )
    assert not offers_tools(call)
    plain = as_constrained(call)
    assert plain.response_format is None
    assert [(turn.role, turn.content) for turn in plain.messages] == [
        ("user", "Is it warm?"),
        ("assistant", '{"calls":[{"tool":"weather","arguments":{"city":"Rome"}}]}'),
        ("user", "The tools say:\nweather -> 21"),
    ]


def test_an_answer_may_have_a_schema_beside_tools() -> None:
    city: JsonValue = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    call = chat(response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": city}})
    assert legal(call, {"answer": {"warm": True}})
    assert not legal(call, {"answer": "yes"})
    assert legal(call, CALL)
    message, reason = read_turn('{"answer": {"warm": true}}', "c")
    assert (message.content, reason) == ('{"warm":true}', "stop")


def test_calls_become_openais_tool_calls() -> None:
    text = '{"calls": [{"tool": "weather", "arguments": {"city": "Rome"}}, {"tool": "weather", "arguments": {}}]}'
    said = result(chat(), text, Finish("end", 1, 1, 0), "m", "01J")
    assert isinstance(said, ChatResult)
    assert said.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in said.message.tool_calls or []] == [
        ("call_01J_0", "weather", '{"city":"Rome"}'),
        ("call_01J_1", "weather", "{}"),
    ]


def test_a_turn_that_was_cut_off_is_given_as_text() -> None:
    said = result(chat(), '{"calls": [{"to', Finish("length", 1, 1, 0), "m", "01J")
    assert isinstance(said, ChatResult)
    assert (said.finish_reason, said.message.content) == ("length", '{"calls": [{"to')


@given(st.text())
def test_an_engine_that_ignores_the_schema_is_found_out(text: str) -> None:
    with pytest.raises(EngineFailed):
        read_turn(text, "c")
