"""What a model's turn means: legal by schema, or read leniently."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from aios._tool_talk import Wish, read_turn
from aios_proto.tool_turn import OfferedTool, turn_schema

TEXT: dict[str, JsonValue] = {"type": "string"}


def tool(name: str, **properties: JsonValue) -> OfferedTool:
    schema: dict[str, JsonValue] = {"type": "object", "properties": properties, "required": list(properties)}
    return OfferedTool(name, f"Does {name}.", schema)


@pytest.mark.parametrize(
    "text",
    [
        '{"calls": [{"tool": "add", "arguments": {"a": 1}}]}',
        'Sure:\n```json\n{"tool": "add", "arguments": {"a": 1}}\n```\nDone.',
        '```\n[{"name": "add", "parameters": {"a": 1}}]\n```',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1}}',
        'I call {"name": "add", "arguments": {"a": 1}} now, with a } in words.',
        '{"function": {"name": "add", "arguments": "{\\"a\\": 1}"}}',
        '{"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}',
        '{"function": {"_name": "add", "arguments": {"a": 1}}}',
    ],
)
def test_a_call_is_understood_however_it_is_wrapped(text: str) -> None:
    assert read_turn(text).calls == (Wish("add", {"a": 1}),)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "42"}', "42"),
        ('```json\n{"answer": {"n": 42}}\n```', {"n": 42}),
        ("It is 42.", "It is 42."),
        ('{"answer": null}', None),
    ],
)
def test_an_answer_is_understood(text: str, answer: JsonValue) -> None:
    turn = read_turn(text)
    assert turn.answered
    assert turn.answer == answer


@pytest.mark.parametrize("text", ['{"calls": [{"tool": "add", "argum', "```json\n{oops}\n```", "{}", "[1, 2]"])
def test_what_cannot_be_read_is_told_to_the_model(text: str) -> None:
    turn = read_turn(text)
    assert turn.fault
    assert not turn.calls
    assert not turn.answered


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    turn = read_turn(text)
    assert turn.answered or turn.calls or turn.fault


def test_the_schema_of_a_turn_takes_legal_calls_only() -> None:
    schema = turn_schema([tool("add", a={"type": "integer"}), tool("say", text=TEXT)], TEXT, calls_at_once=2)
    add: JsonValue = {"tool": "add", "arguments": {"a": 1}}
    for good in ({"calls": [add]}, {"calls": [add, {"tool": "say", "arguments": {"text": "x"}}]}, {"answer": "x"}):
        jsonschema.validate(good, schema)
    bads: tuple[dict[str, JsonValue], ...] = (
        {"calls": []},
        {"calls": [add] * 3},
        {"calls": [{"tool": "fly", "arguments": {}}]},
        {"calls": [{"tool": "add", "arguments": {"a": 1, "b": 2}}]},
        {"calls": [add], "answer": "x"},
        {"answer": 5},
    )
    for bad in bads:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    last = turn_schema([tool("add")], TEXT, calls_at_once=2, allowed="answer")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"calls": [{"tool": "add", "arguments": {}}]}, last)


def test_definitions_of_two_tools_do_not_mix() -> None:
    def with_definition(name: str, kind: str) -> OfferedTool:
        plain = tool(name, p={"$ref": "#/$defs/P"})
        return OfferedTool(name, "", {**plain.parameters, "$defs": {"P": {"type": kind}}})

    first, second = with_definition("first", "integer"), with_definition("second", "string")
    schema = turn_schema([first, second], TEXT, calls_at_once=1)
    jsonschema.validate({"calls": [{"tool": "first", "arguments": {"p": 1}}]}, schema)
    jsonschema.validate({"calls": [{"tool": "second", "arguments": {"p": "x"}}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"calls": [{"tool": "second", "arguments": {"p": 1}}]}, schema)
    assert "$defs" in first.parameters
