"""Model calls: `agent.llm`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeVar, Unpack

import orjson
from pydantic import JsonValue

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import ChatReply, CompleteReply, chat_reply, complete_reply, result_of
from aios._request import CALL_OPTIONS, CallOptions, HasId
from aios_proto.errors import InvalidRequest, SyscallCancelled
from aios_proto.frames import Done
from aios_proto.headers import CONTEXT
from aios_proto.messages.llm import (
    ChatMessage,
    EmbedResult,
    JsonSchemaFormat,
    ModelInfo,
    ModelsResult,
    RegexFormat,
    ToolDefinition,
)
from aios_proto.messages.syscall import CancelResult

R = TypeVar("R")

Messages = str | Sequence[ChatMessage | Mapping[str, JsonValue]]

_models_result = result_of(ModelsResult)
_embed_result = result_of(EmbedResult)
_cancel_result = result_of(CancelResult)
_PAUSE_S = 10.0
_GENERATING = ("llm.chat", "llm.complete")


class GenerationOptions(CallOptions, total=False):
    """How text is generated, and what holds for every call (`CallOptions`). Named as in OpenAI's API.

    Keys:
        model: None means the pool's default.
        pool: whose workers must run it; None lets any run it that serves the model.
        max_tokens: of the answer; None means the worker's default.
        temperature: None or 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens of this total probability.
        top_k: sample among this many tokens.
        repetition_penalty: above 1 discourages what is there already.
        frequency_penalty: -2 to 2.
        stop: at most four texts that end the answer.
        seed: makes sampling repeatable; by default it is taken from the call's id.
        response_format: a JSON schema or a regular expression the answer must follow.
        logprobs: whether to tell how likely each token was; see `logprobs` and `tokens` of the call, and of its reply.
        top_logprobs: how many of the likeliest tokens to tell with each, at most 20; many engines tell 5 at most.
        stream: False spares the bus the pieces where only the whole is wanted; the reply is the same.
        continue_from: a call, or its id, whose paused answer this one begins with; see `LLM.pause` and `LLM.fork`.
    """

    model: str | None
    pool: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    stop: Sequence[str]
    seed: int | None
    response_format: JsonSchemaFormat | RegexFormat | Mapping[str, JsonValue] | None
    logprobs: bool
    top_logprobs: int | None
    stream: bool
    continue_from: str | HasId | None


class LLM:
    """The model calls of one agent."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[ToolDefinition | Mapping[str, JsonValue]] | None = None,
        tool_choice: Literal["auto", "none", "required"] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Call[ChatReply]:
        """Asks for the assistant's next turn. The call is on its way when this returns.

        Args:
            messages: the conversation; a text is one turn of the user.
            tools: what the model may ask to be called.
            tool_choice: whether it may, must not or must.
            **options: see `GenerationOptions`.

        Raises:
            InvalidRequest: an argument is wrong; `field` names it.
            RequestTooLarge: the conversation has more than 1 MiB.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body, rest = _split({**options})
        body |= {"messages": turns, "tools": tools, "tool_choice": tool_choice}
        return self._exchange.call("llm", "chat", body, chat_reply, rest, check=True)

    def complete(self, prompt: str, **options: Unpack[GenerationOptions]) -> Call[CompleteReply]:
        """Asks for what follows a text, without a chat template. The call is on its way when this returns.

        Args:
            prompt: the text.
            **options: see `GenerationOptions`.

        Raises:
            InvalidRequest: an argument is wrong; `field` names it.
            RequestTooLarge: the prompt has more than 1 MiB.
        """
        body, rest = _split({**options})
        return self._exchange.call("llm", "complete", body | {"prompt": prompt}, complete_reply, rest, check=True)

    async def pause(self, call: Call[R]) -> bool:
        """Ends a call and has the kernel keep what it has made, for an hour, so that others can go on from it.

        Who waits for the call gets `SyscallCancelled`.

        Returns:
            Whether it was stopped; False if its answer was complete before, and is its reply.

        Raises:
            AiosError: the call had failed, or could not be stopped.
        """
        if not call.done:
            options: CallOptions = {"deadline_s": _PAUSE_S}
            body = {"id": call.id, "keep": True}
            await self._exchange.call("syscall", "cancel", body, _cancel_result, options, check=True)
        with suppress(SyscallCancelled):
            await call
            return False
        return True

    def fork(self, call: Call[R], count: int = 1, **options: Unpack[GenerationOptions]) -> list[Call[R]]:
        """Goes on from a paused call, as often as wanted: calls that begin with what it made, and then part.

        Each asks what that call asked, with the options that are given in the place of its own. Without a `seed` each
        takes its own, so sampled answers differ; greedy ones are all the same. With another `model` the text is gone
        on from, and not the tokens. Each has its own priority and deadline, and by default is part of the same context.

        Args:
            call: a call of this process; see `pause`.
            count: how many.
            **options: see `GenerationOptions`; `max_tokens` counts the whole answer.

        Raises:
            InvalidRequest: it is no call of `chat` or `complete`, or an argument is wrong; `field` names it.
        """
        if call.operation not in _GENERATING:
            raise InvalidRequest(f"a call of {call.operation} cannot be gone on from", field="call")
        if count != 1 and options.get("id") is not None:
            raise InvalidRequest("several calls cannot have one id", field="id")
        request = call._request
        body, rest = _split({"continue_from": call.id, **options})
        asked = {**orjson.loads(request.body), **body}
        if "seed" not in body:
            asked.pop("seed", None)
        rest.setdefault("context", request.headers.get(CONTEXT))
        manager, operation = call.operation.split(".")
        return [self._exchange.call(manager, operation, asked, call._decode, rest, check=True) for _ in range(count)]

    def embed(
        self, texts: str | Sequence[str], *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[EmbedResult]:
        """Asks for one vector per text, of length one, so that a dot product is their similarity.

        Args:
            texts: at most 1024; what is longer than the model reads is cut at its end.
            model: by default the one that is served; vectors of different models must not be compared.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: there is no text, or an empty one.
            RequestTooLarge: the texts have more than 1 MiB together.
        """
        body = {"texts": [texts] if isinstance(texts, str) else list(texts), "model": model}
        return self._exchange.call("llm", "embed", body, _embed_result, options, check=True)

    def models(self, **options: Unpack[CallOptions]) -> Call[list[ModelInfo]]:
        """Asks which models can be called now."""
        return self._exchange.call("llm", "models", None, _models, options)


def _models(done: Done, trace_id: str | None) -> list[ModelInfo]:
    return _models_result(done, trace_id).models


def _split(arguments: dict[str, object]) -> tuple[dict[str, object], CallOptions]:
    """What belongs into the body, and what says how the call is made."""
    options: CallOptions = {key: arguments.pop(key) for key in CALL_OPTIONS & arguments.keys()}  # type: ignore[assignment]
    origin = arguments.get("continue_from")
    if origin is not None and not isinstance(origin, str):
        arguments["continue_from"] = getattr(origin, "id", origin)
    return arguments, options
