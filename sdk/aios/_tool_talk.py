"""How a model is told of tools and asks for them: the prompt, the schema that holds its answer, and reading the answer.

Three ways: `schema` constrains the answer to a JSON document that is a legal call or an answer, so even a small model
cannot ask for something that does not exist; `text` only asks for JSON and reads whatever comes leniently; `native`
uses the tool calls of the chat operation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import JsonValue

from aios_proto.messages.llm import ToolCall
from aios_proto.tool_turn import MAX_CALLS

_FENCED: Final = re.compile(r"```[A-Za-z_]*\s*\n?(.*?)```", re.DOTALL)
_TAGGED: Final = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wish:
    """One call a model asks for.

    Attributes:
        id: of the model's own, for `native`.
    """

    name: str
    arguments: dict[str, JsonValue]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model's turn means: calls, or an answer, or neither where it cannot be read.

    Attributes:
        answer: None where it asks for calls, or could not be read.
        fault: why it could not be read, for the model.
    """

    calls: tuple[Wish, ...] = ()
    answer: JsonValue = None
    answered: bool = False
    fault: str = ""


def read_turn(text: str) -> Turn:
    """What a turn in text means, fenced or not, in any of the forms models are trained to write.

    Text without any JSON object that asks for a tool is the answer itself.
    """
    wishes: list[Wish] = []
    for document in _documents(text):
        if isinstance(document, dict) and "answer" in document and not wishes:
            return Turn(answer=document["answer"], answered=True)
        wishes += _wishes(document)
    if wishes:
        return Turn(calls=tuple(wishes[:MAX_CALLS]))
    if text.lstrip().startswith(("{", "[", "```")):
        return Turn(fault='That is not the JSON asked for. Write {"calls": [...]} or {"answer": ...}, and no more.')
    return Turn(answer=text.strip(), answered=True)


def read_native(calls: Sequence[ToolCall]) -> Turn:
    """The calls of a chat reply."""
    wishes: list[Wish] = []
    for call in calls[:MAX_CALLS]:
        arguments = next((found for found in _documents(call.function.arguments) if isinstance(found, dict)), None)
        if arguments is None and call.function.arguments.strip():
            return Turn(fault=f"The arguments of {call.function.name} are no JSON object.")
        wishes.append(Wish(call.function.name, arguments or {}, call.id))
    return Turn(calls=tuple(wishes))


def _wishes(document: JsonValue) -> list[Wish]:
    if isinstance(document, list):
        return [wish for entry in document for wish in _wishes(entry)]
    if not isinstance(document, dict):
        return []
    for key in ("calls", "tool_calls"):
        if isinstance(document.get(key), list):
            return _wishes(document[key])
    inner = document.get("function")
    if isinstance(inner, dict):
        return _wishes(inner)
    name = next((document[key] for key in ("tool", "name", "_name") if isinstance(document.get(key), str)), None)
    if not isinstance(name, str):
        return []
    arguments = next((document[key] for key in ("arguments", "parameters", "args") if key in document), {})
    if isinstance(arguments, str):
        arguments = next(iter(_documents(arguments)), {})
    return [Wish(name, arguments if isinstance(arguments, dict) else {})]


def _documents(text: str) -> list[JsonValue]:
    """The JSON documents in a text: all of it, or what stands in fences or tags, or the first balanced object."""
    for candidates in ([text], _TAGGED.findall(text), _FENCED.findall(text), _balanced(text)):
        found: list[JsonValue] = []
        for candidate in candidates:
            try:
                found.append(orjson.loads(candidate))
            except orjson.JSONDecodeError:
                continue
        found = [document for document in found if isinstance(document, dict | list)]
        if found:
            return found
    return []


def _balanced(text: str) -> list[str]:
    """The outermost `{...}` of a text; braces in strings do not count."""
    found: list[str] = []
    depth, begin, quoted, escaped = 0, 0, False, False
    for at, letter in enumerate(text):
        if quoted:
            quoted, escaped = (letter != '"' or escaped), letter == "\\" and not escaped
        elif letter == '"' and depth:
            quoted = True
        elif letter == "{":
            begin = at if not depth else begin
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
            if not depth:
                found.append(text[begin : at + 1])
    return found
