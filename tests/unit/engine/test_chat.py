import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_engine.chat import ToolCall, chat_generation, chat_prompt, parse_call, tool_schema, without_tools
from aios_engine.chat_wire import ChatRequest
from aios_engine.errors import TemplateRejectedError, ToolError, ValidationError
from aios_engine.tool_stream import NoToolChosen, ToolStream
from aios_engine.wire import JsonGrammar, JsonSchemaGrammar, RegexGrammar
from aios_kit.chat_template import ChatTemplate

TEMPLATE = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]} | fields)


def test_a_conversation_becomes_one_prompt() -> None:
    prompt = chat_prompt(request(), TEMPLATE)
    assert prompt.text == "[user]hi"
    assert prompt.grammar is None
    assert not prompt.calls_tools


def test_the_likeliest_tokens_are_refused_to_who_wants_no_log_probabilities() -> None:
    with pytest.raises(ValidationError, match="`top_logprobs` needs `logprobs`"):
        chat_prompt(request(top_logprobs=2), TEMPLATE)
    asked = request(logprobs=True, top_logprobs=2)
    assert chat_generation(asked, chat_prompt(asked, TEMPLATE)).parameters.top_n_tokens == 2


def test_a_model_without_a_template_cannot_chat() -> None:
    with pytest.raises(TemplateRejectedError, match="no chat template"):
        chat_prompt(request(), None)


def test_what_the_template_refuses_is_told() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateRejectedError, match="roles must alternate"):
        chat_prompt(request(), template)


@pytest.mark.parametrize("choice", ["auto", None])
def test_a_free_choice_offers_no_tool_beside_the_tools(choice: str | None) -> None:
    prompt = chat_prompt(request(tools=[WEATHER], tool_choice=choice), TEMPLATE)
    assert prompt.calls_tools
    assert isinstance(prompt.grammar, JsonGrammar)
    schema: Any = prompt.grammar.value
    names = [call["properties"]["_name"]["const"] for call in schema["properties"]["function"]["anyOf"]]
    assert names == ["get_weather", "no_tool"]


@pytest.mark.parametrize(
    "choice", ["required", "get_weather", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_demanded_tool_is_the_only_way_to_answer(choice: object) -> None:
    prompt = chat_prompt(request(tools=[WEATHER], tool_choice=choice), TEMPLATE)
    assert isinstance(prompt.grammar, JsonGrammar)
    assert "no_tool" not in json.dumps(prompt.grammar.value)
    assert '"name": "get_weather"' in prompt.text


def test_tools_that_may_not_be_used_change_nothing() -> None:
    assert chat_prompt(request(tools=[WEATHER], tool_choice="none"), TEMPLATE).text == "[user]hi"
    assert chat_prompt(request(tools=[]), TEMPLATE).text == "[user]hi"
    assert chat_prompt(without_tools(request(tools=[WEATHER], tool_choice="auto")), TEMPLATE).text == "[user]hi"


def test_an_unknown_tool_cannot_be_chosen() -> None:
    with pytest.raises(ToolError, match="Tool with name nope not found"):
        chat_prompt(request(tools=[WEATHER], tool_choice="nope"), TEMPLATE)


def test_tools_and_a_format_exclude_each_other() -> None:
    with pytest.raises(ToolError, match="mutually exclusive"):
        chat_prompt(request(tools=[WEATHER], response_format={"type": "json_object"}), TEMPLATE)


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ({"type": "text"}, type(None)),
        ({"type": "json_object"}, JsonGrammar),
        ({"type": "json", "value": {"type": "object"}}, JsonGrammar),
        ({"type": "regex", "value": "a+"}, RegexGrammar),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}, JsonSchemaGrammar),
        ({"type": "json_schema", "value": {"schema": {}}}, JsonSchemaGrammar),
    ],
)
def test_formats_come_as_openai_and_as_tgi_have_them(wanted: dict[str, Any], kind: type) -> None:
    assert isinstance(chat_prompt(request(response_format=wanted), TEMPLATE).grammar, kind)


def test_sampling_follows_tgis_reading_of_openais_parameters() -> None:
    def generation(**fields: Any) -> Any:
        body = request(**fields)
        return chat_generation(body, chat_prompt(body, TEMPLATE)).parameters

    assert (generation(temperature=0).do_sample, generation(temperature=0).temperature) == (False, None)
    assert (generation().do_sample, generation(temperature=0.7).temperature) == (True, 0.7)
    assert generation(presence_penalty=-0.5).repetition_penalty == 1.5
    assert generation(max_completion_tokens=7).max_new_tokens == 7
    assert generation(stop="x").stop == ["x"]


def test_a_calls_schema_names_the_function_first_and_keeps_definitions() -> None:
    tool = {
        "function": {
            "name": "f",
            "parameters": {"properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "integer"}}},
        }
    }
    schema: Any = tool_schema(request(tools=[tool]).tools or [])
    assert list(schema["properties"]["function"]["properties"]) == ["_name", "p"]
    assert schema["$defs"] == {"P": {"type": "integer"}}


def test_a_call_is_read_from_the_answer() -> None:
    assert parse_call('{"function": {"_name": "f", "a": "é"}}') == ToolCall("f", '{"a": "é"}')
    assert parse_call('{"function": {"_name": "no_tool"}}') is None


@pytest.mark.parametrize("text", ['{"function": {"_name": "f", "a', "[]", '{"function": 3}', '{"function": {}}'])
def test_a_call_that_was_cut_off_is_an_error(text: str) -> None:
    with pytest.raises(ToolError, match="Failed to parse generated text"):
        parse_call(text)


def stream(text: str, sizes: list[int]) -> tuple[str | None, str]:
    tools = ToolStream()
    name, arguments = None, ""
    at = 0
    deltas = []
    for size in [*sizes, len(text)]:
        deltas.append(tools.push(text[at : at + size]))
        at += size
    deltas.append(tools.finish(whole=True))
    for index, delta in enumerate(found for found in deltas if found is not None):
        assert (delta.name is not None) == (index == 0), "the name comes first and once"
        name = delta.name or name
        arguments += delta.arguments
    return name, arguments


VALUES = st.text(max_size=8) | st.integers() | st.lists(st.text(alphabet='}{",\\', max_size=4), max_size=2)
ARGUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


@settings(deadline=None)
@given(ARGUMENTS, st.lists(st.integers(1, 6), max_size=30))
def test_a_streamed_call_joins_to_its_arguments_however_it_is_cut(arguments: dict[str, Any], sizes: list[int]) -> None:
    arguments.pop("_name", None)
    text = json.dumps({"function": {"_name": "f", **arguments}})
    name, streamed = stream(text, sizes)
    assert name == "f"
    assert json.loads(streamed) == arguments


def test_a_streamed_no_tool_is_noticed_before_anything_is_told() -> None:
    tools = ToolStream()
    assert tools.push('{"function": {"_name": "no_') is None
    with pytest.raises(NoToolChosen):
        tools.push('tool"}')


def test_a_streamed_call_that_is_cut_off_tells_what_there_is() -> None:
    tools = ToolStream()
    first = tools.push('{"function": {"_name": "f", "a": {"b": 1}')
    assert first is not None
    rest = tools.finish(whole=False)
    assert rest is not None
    assert first.arguments + rest.arguments == '{"a": {"b": 1}'
