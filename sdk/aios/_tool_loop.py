"""The agent loop: a model asks for tools, gets what they say, and goes on until it answers."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import orjson
from pydantic import JsonValue, TypeAdapter, ValidationError

from aios._llm import LLM, GenerationOptions
from aios._reply import ChatReply
from aios._request import CallOptions
from aios._tool_talk import Turn, Wish, read_native, read_turn
from aios._tools import Tools
from aios_proto.errors import AiosError, InvalidRequest, ResourceNotFound
from aios_proto.messages.llm import ChatMessage, FunctionDefinition, ToolDefinition
from aios_proto.messages.tool import ToolInfo
from aios_proto.tool_turn import MAX_CALLS, Allowed, OfferedTool, instructions, turn_schema

ToolMode = Literal["schema", "text", "native"]
ToolChoice = Literal["auto", "required", "none"]

DEFAULT_MAX_STEPS: Final = 8
DEFAULT_MAX_TOKENS: Final = 256
_SHOWN_CHARS: Final = 4000
_REPEATED_CHARS: Final = 500
"""A task so long is said again after what the tools say, which small models need; a longer one is not."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool that the model asked for.

    Attributes:
        name: of the tool.
        arguments: as the model gave them.
        content: what the tool answered; None where it failed.
        error: why it failed, as the model was told.
        taint: where untrusted content came from.
    """

    name: str
    arguments: Mapping[str, JsonValue]
    content: JsonValue = None
    error: str | None = None
    taint: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolStep:
    """One turn of the model.

    Attributes:
        text: as the model wrote it.
        uses: the calls of that turn, which ran together.
        fault: why the turn could not be read, as the model was told.
    """

    text: str
    uses: tuple[ToolUse, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ToolTalk:
    """How a conversation with tools ended.

    Attributes:
        answer: the model's answer; of the type that was asked for, else a text. None where there is none.
        steps: all turns.
        messages: the whole conversation, to be gone on with.
        taint: where untrusted content that the model has seen came from.
    """

    answer: object
    steps: tuple[ToolStep, ...]
    messages: tuple[ChatMessage, ...]
    taint: tuple[str, ...]

    @property
    def answered(self) -> bool:
        """Whether the model came to an answer within its steps."""
        return self.answer is not None


class ToolLoop:
    """Runs one conversation.

    Args:
        llm: model calls.
        tools: calls of tools.
        offered: the tools the model may use.
        mode: how the model asks for them.
        tool_choice: whether it must use one before it answers.
        output: type of the answer.
        max_steps: turns of the model; in the last it can only answer.
        calls_at_once: calls one turn may ask for.
        options: of the model calls.
    """

    def __init__(
        self,
        llm: LLM,
        tools: Tools,
        offered: Sequence[ToolInfo],
        *,
        mode: ToolMode,
        tool_choice: ToolChoice,
        output: TypeAdapter[object] | None,
        max_steps: int,
        calls_at_once: int,
        options: GenerationOptions,
    ) -> None:
        self._llm = llm
        self._tools = tools
        self._offered = {tool.name: tool for tool in offered}
        self._mode = mode
        self._tool_choice = tool_choice
        self._output = output
        self._max_steps = max_steps
        self._calls_at_once = calls_at_once
        self._options = options
        self._answer_schema: Mapping[str, JsonValue] = (
            {"type": "string", "minLength": 1} if output is None else output.json_schema()
        )

    async def run(self, messages: Sequence[ChatMessage]) -> ToolTalk:
        """Goes on with a conversation until the model answers.

        Raises:
            AiosError: a model call failed; what tools say never ends the loop.
        """
        talk, steps, taint = list(messages), list[ToolStep](), dict[str, None]()
        answer: object = None
        task, repeats = _task(messages), False
        for number in range(self._max_steps):
            reply = await self._ask(talk, self._allowed(number, steps, repeats=repeats))
            turn = read_native(reply.message.tool_calls) if reply.message.tool_calls else read_turn(reply.text)
            talk.append(reply.message)
            if turn.answered:
                answer, turn = self._checked(turn)
                if answer is not None:
                    steps.append(ToolStep(reply.text))
                    break
            known = _known(steps, turn.calls)
            repeats = bool(known)
            uses = known or await asyncio.gather(*(self._use(wish) for wish in turn.calls))
            steps.append(ToolStep(_text(reply), tuple(uses), turn.fault))
            taint |= dict.fromkeys(source for use in uses for source in use.taint)
            talk += self._told(turn, uses, task, cut=reply.finish_reason == "length")
        return ToolTalk(answer, tuple(steps), tuple(talk), tuple(taint))

    def _allowed(self, number: int, steps: Sequence[ToolStep], *, repeats: bool) -> Allowed:
        if repeats or number == self._max_steps - 1 or self._tool_choice == "none":
            return "answer"
        return "calls" if self._tool_choice == "required" and not _has_used(steps) else "both"

    async def _ask(self, talk: Sequence[ChatMessage], allowed: Allowed) -> ChatReply:
        options = self._options
        if self._mode == "native":
            definitions = [
                ToolDefinition(
                    function=FunctionDefinition(
                        name=tool.name, description=tool.description, parameters=tool.input_schema
                    )
                )
                for tool in self._offered.values()
            ]
            return await self._llm.chat(talk, tools=definitions, tool_choice=_NATIVE_CHOICE[allowed], **options)
        if self._mode == "schema":
            schema = turn_schema(
                _told_of(self._offered.values()),
                self._answer_schema,
                calls_at_once=self._calls_at_once,
                allowed=allowed,
            )
            options = {**options, "response_format": {"type": "json_schema", "json_schema": schema}}
        return await self._llm.chat(talk, **options)

    def _checked(self, turn: Turn) -> tuple[object, Turn]:
        """The answer as the type that was asked for, or what is wrong with it."""
        if self._output is None:
            text = turn.answer if isinstance(turn.answer, str) else orjson.dumps(turn.answer).decode()
            return (text, turn) if text else (None, Turn(fault="The answer is empty."))
        try:
            given = turn.answer
            if isinstance(given, str) and self._mode != "schema":
                with contextlib.suppress(orjson.JSONDecodeError):
                    given = orjson.loads(given)
            return self._output.validate_python(given), turn
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, ("answer", *first["loc"])))
            return None, Turn(fault=f"The answer is not as asked for: {where}: {first['msg']}")

    async def _use(self, wish: Wish) -> ToolUse:
        if wish.name not in self._offered:
            known = ", ".join(self._offered)
            return ToolUse(wish.name, wish.arguments, error=f"there is no tool {wish.name!r}; there are {known}")
        options: CallOptions = {key: value for key, value in self._options.items() if key in _PASSED_ON}  # type: ignore[assignment]
        try:
            result = await self._tools.call(wish.name, wish.arguments, **options)
        except AiosError as error:
            return ToolUse(wish.name, wish.arguments, error=f"{error.code}: {error.message}")
        return ToolUse(wish.name, wish.arguments, content=result.content, taint=tuple(result.taint))

    def _told(self, turn: Turn, uses: Sequence[ToolUse], task: str, *, cut: bool) -> list[ChatMessage]:
        if turn.fault:
            fault = "That was cut off; be shorter." if cut else turn.fault
            return [ChatMessage(role="user", content=fault)]
        if self._mode == "native":
            return [
                ChatMessage(role="tool", content=_shown(use), tool_call_id=wish.id, name=wish.name)
                for wish, use in zip(turn.calls, uses, strict=True)
            ]
        reminder = [f"If that is enough, answer. The task: {task}"] if task else []
        lines = [f"{use.name}({orjson.dumps(use.arguments).decode()}) -> {_shown(use)}" for use in uses]
        return [ChatMessage(role="user", content="\n".join(["The tools say:", *lines, *reminder]))]


_NATIVE_CHOICE: Final[Mapping[Allowed, ToolChoice]] = {"both": "auto", "calls": "required", "answer": "none"}
_PASSED_ON: Final = frozenset({"priority", "deadline_s", "program"})


def _told_of(tools: Iterable[ToolInfo]) -> list[OfferedTool]:
    return [OfferedTool(tool.name, tool.description, tool.input_schema) for tool in tools]


def _task(messages: Sequence[ChatMessage]) -> str:
    """What was asked last, where it is short."""
    said = next((message.content for message in reversed(messages) if message.role == "user"), None)
    return said if isinstance(said, str) and len(said) <= _REPEATED_CHARS else ""


def _known(steps: Sequence[ToolStep], wishes: Sequence[Wish]) -> list[ToolUse]:
    """What the same calls gave in the turn before, if all of a turn's calls succeeded just then.

    They are not made again: a small model that goes round in circles would send the same message twice.
    """
    before = [use for step in steps[-1:] for use in step.uses if use.error is None]
    found = [use for wish in wishes for use in before if (use.name, use.arguments) == (wish.name, wish.arguments)]
    return found if len(found) == len(wishes) else []


def _has_used(steps: Sequence[ToolStep]) -> bool:
    return any(use.error is None for step in steps for use in step.uses)


def _shown(use: ToolUse) -> str:
    """What the model is told of a call."""
    if use.error is not None:
        return orjson.dumps({"error": use.error}).decode()
    text = orjson.dumps(use.content).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + " … (cut)"


def _text(reply: ChatReply) -> str:
    if reply.message.tool_calls:
        return orjson.dumps([call.model_dump() for call in reply.message.tool_calls]).decode()
    return reply.text


async def chat_with_tools(
    llm: LLM,
    tools: Tools,
    task: str | Sequence[ChatMessage],
    names: Sequence[str] | None,
    *,
    mode: ToolMode,
    tool_choice: ToolChoice,
    output: object,
    system: str | None,
    max_steps: int,
    calls_at_once: int,
    options: GenerationOptions,
) -> ToolTalk:
    """See `Agent.chat_with_tools`."""
    if max_steps < 1 or not 1 <= calls_at_once <= MAX_CALLS:
        raise InvalidRequest(f"max_steps must be positive, calls_at_once 1 to {MAX_CALLS}", field="max_steps")
    known = {tool.name: tool for tool in await tools.list()}
    if names is None:
        offered = [tool for tool in known.values() if tool.health == "up"]
    else:
        missing = [name for name in names if name not in known]
        if missing:
            raise ResourceNotFound(f"there is no tool {missing[0]!r}", field="tools")
        offered = [known[name] for name in names]
    messages = [ChatMessage(role="user", content=task)] if isinstance(task, str) else list(task)
    if not any(message.role == "system" for message in messages):
        told = [] if mode == "native" else [instructions(_told_of(offered), calls_at_once=calls_at_once)]
        first = "\n\n".join([*([system] if system else []), *told])
        if first:
            messages.insert(0, ChatMessage(role="system", content=first))
    adapter: TypeAdapter[object] | None = None if output is None else TypeAdapter(cast("type[object]", output))
    chosen: GenerationOptions = {"max_tokens": DEFAULT_MAX_TOKENS, "stream": False, **options}
    loop = ToolLoop(
        llm,
        tools,
        offered,
        mode=mode,
        tool_choice=tool_choice,
        output=adapter,
        max_steps=max_steps,
        calls_at_once=calls_at_once,
        options=chosen,
    )
    return await loop.run(messages)
