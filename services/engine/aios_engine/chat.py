"""What a chat request asks of the model: its prompt, and the grammar of its answer where tools or a format need one.

Tools are text-generation-inference's way: the answer is held to a JSON document that names a function and its
arguments (`router/src/infer/tool_grammar.rs`), with a `no_tool` beside them where the model may choose; if it takes
that, the request is run again without tools.
"""

import json
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from aios_engine.chat_wire import (
    ChatRequest,
    CompletionRequest,
    JsonFormat,
    JsonSchemaFormat,
    NamedTool,
    RegexFormat,
    ResponseFormat,
    TextFormat,
    Tool,
    ToolFunction,
)
from aios_engine.errors import TemplateRejectedError, ToolError, ValidationError
from aios_engine.wire import (
    GenerateParameters,
    GenerateRequest,
    Grammar,
    JsonGrammar,
    JsonSchemaGrammar,
    RegexGrammar,
)
from aios_kit.chat_template import DEFAULT_TOOL_PROMPT, ChatTemplate, ChatTemplateError

NO_TOOL: Final = "no_tool"
_NO_TOOL: Final = Tool(
    function=ToolFunction(name=NO_TOOL, description="Open ended response with no specific tool selected")
)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as the model sees it.

    Attributes:
        text: the prompt.
        grammar: what the answer must look like.
        calls_tools: whether the answer is a call of a tool.
    """

    text: str
    grammar: Grammar | None
    calls_tools: bool


def chat_prompt(request: ChatRequest, template: ChatTemplate | None) -> ChatPrompt:
    """The prompt of a chat request.

    Raises:
        TemplateRejectedError: there is no template, or it refuses the conversation.
        ToolError: the chosen tool does not exist, or both tools and a format are asked for.
        ValidationError: the likeliest tokens are asked for, and no log probabilities.
    """
    if template is None:
        raise TemplateRejectedError("the model has no chat template")
    if request.top_logprobs is not None and not request.logprobs:
        raise ValidationError("`top_logprobs` needs `logprobs`: true")
    tools = _usable_tools(request)
    grammar = None if request.response_format is None else _format_grammar(request.response_format)
    if tools and grammar is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    if tools:
        grammar = JsonGrammar(type="json", value=tool_schema(tools))
    try:
        text = template.render(
            [message.model_dump(exclude_none=True) for message in request.messages],
            [tool.described() for tool in tools] or None,
            tool_prompt=request.tool_prompt or DEFAULT_TOOL_PROMPT,
        )
    except ChatTemplateError as error:
        raise TemplateRejectedError(str(error)) from error
    return ChatPrompt(text, grammar, calls_tools=bool(tools))


def without_tools(request: ChatRequest) -> ChatRequest:
    """The same conversation, to be answered in words."""
    return request.model_copy(update={"tools": None, "tool_choice": None})


def chat_generation(request: ChatRequest, prompt: ChatPrompt) -> GenerateRequest:
    """The generation of a chat request."""
    sample, temperature = _temperature(request.temperature)
    penalty = request.presence_penalty
    return GenerateRequest(
        inputs=prompt.text,
        parameters=GenerateParameters(
            temperature=temperature,
            # TGI's quirk: it has no presence penalty, and shifts it into the range of its repetition penalty.
            repetition_penalty=None if penalty is None else penalty + 2.0,
            frequency_penalty=request.frequency_penalty,
            top_p=request.top_p,
            do_sample=sample,
            max_new_tokens=request.max_tokens if request.max_tokens is not None else request.max_completion_tokens,
            stop=request.stop or [],
            details=True,
            seed=request.seed,
            top_n_tokens=request.top_logprobs,
            grammar=prompt.grammar,
        ),
    )


def completion_generations(request: CompletionRequest) -> list[GenerateRequest]:
    """The generations of a completion request, one a prompt."""
    sample, temperature = _temperature(request.temperature)
    parameters = GenerateParameters(
        temperature=temperature,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        top_p=request.top_p,
        do_sample=sample,
        max_new_tokens=100 if request.max_tokens is None else request.max_tokens,
        stop=request.stop or [],
        details=True,
        seed=request.seed,
        top_n_tokens=request.logprobs,
    )
    return [GenerateRequest(inputs=prompt, parameters=parameters) for prompt in request.prompt]


def _temperature(temperature: float | None) -> tuple[bool, float | None]:
    # OpenAI's API means greedy by 0, which is no temperature to TGI; anything else samples.
    return (False, None) if temperature == 0 else (True, temperature)


def _usable_tools(request: ChatRequest) -> list[Tool]:
    tools = request.tools or []
    match request.tool_choice:
        case "none":
            return []
        case NamedTool(function=chosen):
            found = [tool for tool in tools if tool.function.name == chosen.name]
            if not found:
                raise ToolError(f"Tool with name {chosen.name} not found")
            return found
        case "required":
            return tools
        case _:
            return [*tools, _NO_TOOL] if tools else []


def tool_schema(tools: list[Tool]) -> dict[str, JsonValue]:
    """The JSON Schema of a call: `{"function": {"_name": ..., arguments...}}`, the name first."""
    calls: list[JsonValue] = [_call_schema(tool.function) for tool in tools]
    definitions: dict[str, JsonValue] = {}
    for tool in tools:
        for key in ("$defs", "definitions"):
            found = tool.function.parameters.get(key)
            if isinstance(found, dict):
                held = definitions.setdefault(key, {})
                if isinstance(held, dict):
                    held.update(found)
    return {
        "type": "object",
        "properties": {"function": calls[0] if len(calls) == 1 else {"anyOf": calls}},
        "required": ["function"],
        "additionalProperties": False,
        **definitions,
    }


def _call_schema(function: ToolFunction) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {"_name": {"type": "string", "const": function.name}}
    required: list[JsonValue] = ["_name"]
    own_properties = function.parameters.get("properties")
    if isinstance(own_properties, dict):
        properties.update(own_properties)
    own_required = function.parameters.get("required")
    if isinstance(own_required, list):
        required.extend(own_required)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _format_grammar(wanted: ResponseFormat) -> Grammar | None:
    match wanted:
        case TextFormat():
            return None
        case RegexFormat(value=expression):
            return RegexGrammar(type="regex", value=expression)
        case JsonSchemaFormat(json_schema=schema):
            return JsonSchemaGrammar(type="json_schema", value=schema)
        case JsonFormat(value=value):
            return JsonGrammar(type="json", value={"type": "object"} if value is None else value)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model wants to make; the arguments are a JSON object as text."""

    name: str
    arguments: str


def parse_call(text: str) -> ToolCall | None:
    """The call in an answer that was held to `tool_schema`; None for `no_tool`.

    Raises:
        ToolError: the text is no whole call, as when its length ran out.
    """
    try:
        function = json.loads(text)["function"]
        name = function.pop("_name")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"Failed to parse generated text: {error} {text!r}") from error
    return None if name == NO_TOOL else ToolCall(name, json.dumps(function, ensure_ascii=False))
