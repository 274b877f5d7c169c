"""Servers that speak OpenAI's API under `/v1`: vLLM, SGLang, llama.cpp's server, Ollama.

Chats go to `/v1/chat/completions`, where the server applies its template, or, if the worker was given the template, to
`/v1/completions` with the finished prompt. Only the latter can be gone on with after a stop: a chat route answers with
a new turn. It also means that such an engine is only asked to stop a call where the worker has the template. Going on
is by text: these streams do not tell token ids.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aios_kit.chat_template import ChatTemplate, ChatTemplateError
from aios_llm.adapters.engine_http import EngineHttp, reason_of
from aios_llm.generated import Snapshot
from aios_llm.ports import Continuation, EngineInfo, Finish, GenerateRequest, Grammar, Piece, StopReason
from aios_llm.resume_point import at_word
from aios_proto.errors import EngineFailed, EngineRefused
from aios_proto.messages.llm import ChatMessage

_REASONS: dict[str, StopReason] = {
    "stop": "end",
    "eos_token": "end",
    "length": "length",
    "stop_sequence": "stop_sequence",
}
_CONCURRENCY = 32
_READS_AT_ONCE = 8


class OpenAiEngine:
    """The `Engine` port on OpenAI's API.

    Args:
        url: base URL of the server, without `/v1`.
        api_key: bearer key, if it wants one.
        connect_timeout_s: longest wait for a connection.
        silence_s: longest wait for the next bytes of a stream.
        model: which of the server's models to use; None is the first it lists.
        template: the model's chat template; None leaves it to the server.
        total_tokens: prompt and answer together, where the server does not tell; 0 is not known.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        connect_timeout_s: float,
        silence_s: float,
        *,
        model: str | None = None,
        template: ChatTemplate | None = None,
        total_tokens: int = 0,
    ) -> None:
        self._http = EngineHttp(url.rstrip("/").removesuffix("/v1"), api_key, connect_timeout_s, silence_s)
        self._wanted = model
        self._template = template
        self._total_tokens = total_tokens
        self._model = model or ""
        self._healthy = False

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        said = await self._http.get("/v1/models")
        try:
            models = {entry["id"]: entry for entry in said["data"]}
            self._model = next(iter(models)) if self._wanted is None else self._wanted
            total = int(models[self._model].get("max_model_len") or self._total_tokens)
        except StopIteration as error:
            raise EngineFailed("the engine serves no model") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineFailed(f"the engine's models cannot be understood: {reason_of(error)}") from error
        return EngineInfo(
            model=self._model,
            version="openai",
            max_input_tokens=max(0, total - 1),
            max_total_tokens=total,
            concurrency=_CONCURRENCY,
            resumes="text" if self._template is not None else "no",
        )

    async def healthy(self) -> bool:
        """See `Engine.healthy`. Ollama has no `/health`."""
        status = await self._http.status("/health")
        if status == 404:
            status = await self._http.status("/v1/models")
        healthy = status == 200
        if healthy and not self._healthy:
            self._http.forgive()
        self._healthy = healthy
        return healthy

    async def render(self, messages: list[ChatMessage]) -> str:
        """See `Engine.render`. Empty where the server applies the template."""
        if self._template is None:
            return ""
        try:
            return self._template.render([message.model_dump(exclude_none=True) for message in messages])
        except ChatTemplateError as error:
            raise EngineRefused(f"the model's chat template refuses: {error}", field="messages") from error

    async def generate(self, request: GenerateRequest, traceparent: str | None) -> AsyncGenerator[Piece | Finish, None]:
        """See `Engine.generate`."""
        begun = request.begun or Continuation((), "", 0)
        as_chat = bool(request.messages) and (not request.prompt or request.grammar is not None)
        path = "/v1/chat/completions" if as_chat else "/v1/completions"
        body = {**_body(request, begun, self._model), **(_chat(request) if as_chat else _completion(request, begun))}
        reason: StopReason | None = None
        held: Piece | None = None
        tokens, usage = begun.tokens, dict[str, Any]()
        try:
            async with aclosing(self._http.events(path, body, traceparent)) as events:
                async for event in events:
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        # One behind: which piece is the last is known with the next event only.
                        if held is not None:
                            yield held
                        text = (choice["delta"].get("content") if as_chat else choice["text"]) or ""
                        held = Piece(text, 1)
                        tokens += 1
                        if choice.get("finish_reason"):
                            reason = _REASONS.get(choice["finish_reason"], "end")
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineFailed(f"the engine's stream cannot be understood: {reason_of(error)}") from error
        if reason is None:
            raise EngineFailed("the engine's stream ended without a reason")
        made = usage.get("completion_tokens")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        yield Finish(
            reason=reason,
            prompt_tokens=max(0, int(usage.get("prompt_tokens") or 0) - begun.tokens),
            completion_tokens=tokens if made is None else int(made) + begun.tokens,
            cached_tokens=int(cached),
            last=held,
        )

    async def count_tokens(self, texts: list[str]) -> list[int]:
        """See `Engine.count_tokens`. Not part of OpenAI's API; vLLM and llama.cpp have a route of their own for it."""
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def count(text: str) -> int:
            if not text:
                return 0
            async with slots:
                # vLLM calls the text `prompt`, llama.cpp `content`; each ignores the other's.
                said = await self._http.post("/tokenize", {"model": self._model, "prompt": text, "content": text})
            try:
                return len(said["tokens"])
            except (KeyError, TypeError) as error:
                raise EngineFailed("the engine does not say how it reads a text") from error

        return list(await asyncio.gather(*(count(text) for text in texts)))

    async def resume_point(self, prompt: str, made: Snapshot) -> Continuation:
        """See `Engine.resume_point`."""
        return at_word(made)

    async def holds(self, key: str) -> bool:
        """Never: such servers keep their KV to themselves."""
        return False

    async def take_kv(self, key: str) -> bytes | None:
        """None: see `holds`."""
        return None

    async def give_kv(self, key: str, data: bytes) -> bool:
        """Never: see `holds`."""
        return False

    async def release_kv(self, key: str) -> None:
        """Nothing to release: see `holds`."""

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._http.close()


def template_of(path: Path | None) -> ChatTemplate | None:
    """The chat template in a file.

    Raises:
        OSError: it cannot be read.
        ChatTemplateError: it is none.
    """
    return None if path is None else ChatTemplate(path.read_text(), bos_token="", eos_token="")


def _body(request: GenerateRequest, begun: Continuation, model: str) -> dict[str, Any]:
    sampling = request.sampling
    values: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_new_tokens - begun.tokens,
        "temperature": sampling.temperature or 0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "stop": list(request.stop) or None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {name: value for name, value in values.items() if value is not None}


def _completion(request: GenerateRequest, begun: Continuation) -> dict[str, Any]:
    if request.grammar is not None:
        raise EngineRefused("this engine offers structured output in chats only", field="response_format")
    return {"prompt": request.prompt + begun.text}


def _chat(request: GenerateRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [message.model_dump(exclude_none=True) for message in request.messages]}
    if request.grammar is not None:
        body["response_format"] = _response_format(request.grammar)
    return body


def _response_format(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind != "json":
        raise EngineRefused("this engine offers JSON schemas, not regular expressions", field="response_format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": grammar.value}}
