"""Tools in chat, on any engine that can hold an answer to a JSON schema.

The model is told of the tools in the conversation's system turn and its answer is held to legal calls of them or a
text, so even a small model asks for nothing that does not exist, and every adapter offers the same. The chat
templates' own ways of telling a model of tools differ from model to model and are not used; turns that hold calls or
what tools said are written as texts for the same reason.
"""

from typing import Final

import orjson
from pydantic import JsonValue

from aios_proto.errors import EngineFailed
from aios_proto.messages.llm import ChatMessage, ChatRequest, FinishReason, FunctionCall, JsonSchemaFormat, ToolCall
from aios_proto.tool_turn import MAX_CALLS, Allowed, OfferedTool, instructions, turn_schema

_TEXT: Final[dict[str, JsonValue]] = {"type": "string", "minLength": 1}
_ALLOWED: Final[dict[str | None, Allowed]] = {"required": "calls", "auto": "both", None: "both"}


def offers_tools(call: ChatRequest) -> bool:
    """Whether the answer may be calls of tools."""
    return bool(call.tools) and call.tool_choice != "none"


def as_constrained(call: ChatRequest) -> ChatRequest:
    """The call without tools that an engine is given: they are in its system turn and in its grammar."""
    messages = [_as_text(message) for message in call.messages]
    if not offers_tools(call):
        return call.model_copy(update={"messages": messages, "tools": None, "tool_choice": None})
    tools = [
        OfferedTool(tool.function.name, tool.function.description or "", tool.function.parameters)
        for tool in call.tools or []
    ]
    told = instructions(tools, calls_at_once=MAX_CALLS)
    if messages[0].role == "system":
        messages[0] = messages[0].model_copy(update={"content": f"{messages[0].content}\n\n{told}"})
    else:
        messages.insert(0, ChatMessage(role="system", content=told))
    schema = turn_schema(tools, _answer(call), calls_at_once=MAX_CALLS, allowed=_ALLOWED[call.tool_choice])
    grammar = JsonSchemaFormat(type="json_schema", json_schema=schema)
    return call.model_copy(
        update={"messages": messages, "tools": None, "tool_choice": None, "response_format": grammar, "stop": []}
    )


def read_turn(text: str, call_id: str) -> tuple[ChatMessage, FinishReason]:
    """What the model's turn means.

    Args:
        text: as the engine's grammar let it through.
        call_id: of the chat call; the tool calls' ids are made from it.

    Raises:
        EngineFailed: it is no such turn, so the engine does not hold answers to a schema.
    """
    try:
        turn = orjson.loads(text)
        if "answer" in turn:
            answer = turn["answer"]
            content = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
            return ChatMessage(role="assistant", content=content), "stop"
        calls = [
            ToolCall(
                id=f"call_{call_id}_{number}",
                function=FunctionCall(name=wish["tool"], arguments=orjson.dumps(wish["arguments"]).decode()),
            )
            for number, wish in enumerate(turn["calls"])
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise EngineFailed("the engine did not hold the answer to the schema of the tools") from error
    return ChatMessage(role="assistant", tool_calls=calls), "tool_calls"


def wanted_tool(message: ChatMessage) -> str:
    """The tool a turn asks for first, so that the scheduler learns how long it takes; empty where it asks for none."""
    return message.tool_calls[0].function.name if message.tool_calls else ""


def _answer(call: ChatRequest) -> dict[str, JsonValue]:
    """The schema of an answer that is no call of a tool."""
    match call.response_format:
        case JsonSchemaFormat() as given:
            return inner_schema(given)
        case None:
            return _TEXT
        case regex:
            return {"type": "string", "pattern": f"^(?:{regex.regex})$"}


def inner_schema(given: JsonSchemaFormat) -> dict[str, JsonValue]:
    """The JSON Schema of a response format. OpenAI wraps it with a name; both forms are taken."""
    schema = given.json_schema
    inner = schema["schema"] if "schema" in schema and "name" in schema else schema
    return dict(inner) if isinstance(inner, dict) else schema


def _as_text(message: ChatMessage) -> ChatMessage:
    """A turn in the words that the instructions use."""
    if message.role == "tool":
        source = message.name or message.tool_call_id or "a tool"
        return ChatMessage(role="user", content=f"The tools say:\n{source} -> {message.content}")
    if message.tool_calls:
        wishes = [
            {"tool": call.function.name, "arguments": _arguments(call.function.arguments)}
            for call in message.tool_calls
        ]
        said = orjson.dumps({"calls": wishes}).decode()
        return ChatMessage(role="assistant", content=f"{message.content}\n{said}" if message.content else said)
    return message


def _arguments(text: str) -> JsonValue:
    try:
        found: JsonValue = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found
