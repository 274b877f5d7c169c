"""What a call gives back, by operation, made from its `done` frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from aios_proto.errors import InternalError
from aios_proto.frames import Done, Timings, Usage
from aios_proto.messages.base import Result
from aios_proto.messages.llm import ChatMessage, ChatResult, CompleteResult, FinishReason, TokenLogprob

M = TypeVar("M", bound=Result)


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a successful call.

    Attributes:
        id: the call's id.
        trace_id: 32 hex digits, or None where nothing is traced.
        result: the operation's result, as it came.
        usage: tokens, for model calls.
        timings: where the time went, in milliseconds since the kernel received the call, for model calls.
        worker: the worker that ended a model call.
    """

    id: str
    trace_id: str | None
    result: Mapping[str, JsonValue]
    usage: Usage | None
    timings: Timings | None
    worker: str | None


@dataclass(frozen=True, slots=True)
class ChatReply(Reply):
    """The assistant's turn.

    Attributes:
        message: the turn, to be appended to the conversation.
        finish_reason: why it ended: `stop`, `length` or `tool_calls`.
        model: the model that wrote it.
        logprobs: how likely each of its tokens was, in order; None unless asked for.
    """

    message: ChatMessage
    finish_reason: FinishReason
    model: str
    logprobs: list[TokenLogprob] | None = None

    @property
    def text(self) -> str:
        """The turn's text; empty where the model only calls tools."""
        return self.message.content or ""


@dataclass(frozen=True, slots=True)
class CompleteReply(Reply):
    """The text that follows a prompt.

    Attributes:
        text: what follows, without the prompt.
        finish_reason: why it ended: `stop` or `length`.
        model: the model that wrote it.
        logprobs: how likely each of its tokens was, in order; None unless asked for.
    """

    text: str
    finish_reason: FinishReason
    model: str
    logprobs: list[TokenLogprob] | None = None


def reply(done: Done, trace_id: str | None) -> Reply:
    """Any operation's end."""
    return Reply(done.id, trace_id, done.result, done.usage, done.timings, done.worker)


def chat_reply(done: Done, trace_id: str | None) -> ChatReply:
    """The end of `llm.chat`."""
    result = _checked(ChatResult, done)
    return ChatReply(
        done.id,
        trace_id,
        done.result,
        done.usage,
        done.timings,
        done.worker,
        result.message,
        result.finish_reason,
        result.model,
        result.logprobs,
    )


def complete_reply(done: Done, trace_id: str | None) -> CompleteReply:
    """The end of `llm.complete`."""
    result = _checked(CompleteResult, done)
    return CompleteReply(
        done.id,
        trace_id,
        done.result,
        done.usage,
        done.timings,
        done.worker,
        result.text,
        result.finish_reason,
        result.model,
        result.logprobs,
    )


def attached_reply(done: Done, trace_id: str | None) -> Reply:
    """The end of a call of which only the id is known: told by what its result holds."""
    if "finish_reason" not in done.result:
        return reply(done, trace_id)
    return chat_reply(done, trace_id) if "message" in done.result else complete_reply(done, trace_id)


def result_of(model: type[M]) -> Callable[[Done, str | None], M]:
    """For operations of which only the result matters."""
    return lambda done, _: _checked(model, done)


def answer_text(done: Done) -> str | None:
    """The whole text of a model call's answer; None where it has none."""
    text = done.result.get("text")
    if text is None:
        message = done.result.get("message")
        text = message.get("content") if isinstance(message, dict) else None
    return text if isinstance(text, str) else None


def _checked(model: type[M], done: Done) -> M:
    try:
        return model.model_validate(done.result)
    except ValidationError as error:
        raise InternalError(f"the kernel's answer is no {model.__name__}: {error}", syscall_id=done.id) from error
