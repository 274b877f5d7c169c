"""Model calls: `agent.llm`."""

from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

from pydantic import JsonValue

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import ChatReply, CompleteReply, chat_reply, complete_reply, result_of
from aios._request import CALL_OPTIONS, CallOptions
from aios_proto.frames import Done
from aios_proto.messages.llm import (
    ChatMessage,
    EmbedResult,
    JsonSchemaFormat,
    ModelInfo,
    ModelsResult,
    RegexFormat,
    ToolDefinition,
)

Messages = str | Sequence[ChatMessage | Mapping[str, JsonValue]]

_models_result = result_of(ModelsResult)
_embed_result = result_of(EmbedResult)


class GenerationOptions(CallOptions, total=False):
    """How text is generated, and what holds for every call (`CallOptions`). Named as in OpenAI's API.

    Keys:
        model: None means the pool's default.
        max_tokens: of the answer; None means the worker's default.
        temperature: None or 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens of this total probability.
        top_k: sample among this many tokens.
        repetition_penalty: above 1 discourages what is there already.
        frequency_penalty: -2 to 2.
        stop: at most four texts that end the answer.
        seed: makes sampling repeatable; by default it is taken from the call's id.
        response_format: a JSON schema or a regular expression the answer must follow.
        stream: False spares the bus the pieces where only the whole is wanted; the reply is the same.
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    stop: Sequence[str]
    seed: int | None
    response_format: JsonSchemaFormat | RegexFormat | Mapping[str, JsonValue] | None
    stream: bool


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
    return arguments, options
