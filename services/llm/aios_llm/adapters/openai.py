"""Servers that speak OpenAI's API under `/v1`: vLLM, SGLang, llama.cpp's server, Ollama.

Chats go to `/v1/chat/completions`, where the server applies its template, or, if the worker was given the template or
the server says what it makes of a conversation, to `/v1/completions` with the finished prompt. Only the latter can be
gone on with after a stop: a chat route answers with a new turn. It also means that an engine is only asked to stop a
call where the worker has the prompt. Going on is by text.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aios_kit.chat_template import ChatTemplate, ChatTemplateError
from aios_llm.adapters import openai_logprobs
from aios_llm.adapters.engine_http import EngineHttp, reason_of
from aios_llm.adapters.openai_dialects import PLAIN, Dialect, dialect_of, total_tokens_of
from aios_llm.generated import Snapshot
from aios_llm.ports import Continuation, EngineInfo, Finish, GenerateRequest, KvPiece, KvWanted, Piece, StopReason
from aios_llm.resume_point import at_word, at_word_as_read, where_read_alike
from aios_proto.errors import EngineFailed, EngineRefused
from aios_proto.messages.llm import ChatMessage

_REASONS: dict[str, StopReason] = {
    "stop": "end",
    "eos_token": "end",
    "length": "length",
    "stop_sequence": "stop_sequence",
}
_GIVEN_UP = ("abort", "error")
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
        # uvicorn closes connections after 5 s, llama.cpp's server at the end of a stream: none is kept.
        self._http = EngineHttp(url.rstrip("/").removesuffix("/v1"), api_key, connect_timeout_s, silence_s)
        self._wanted = model
        self._template = template
        self._total_tokens = total_tokens
        self._model = model or ""
        self._dialect = PLAIN
        self._healthy = False

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        said = await self._http.get("/v1/models")
        try:
            models = {entry["id"]: entry for entry in said["data"]}
            self._model = next(iter(models)) if self._wanted is None else self._wanted
            self._dialect = dialect_of(models[self._model])
            total = total_tokens_of(models[self._model]) or self._total_tokens
        except StopIteration as error:
            raise EngineFailed("the engine serves no model") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineFailed(f"the engine's models cannot be understood: {reason_of(error)}") from error
        return EngineInfo(
            model=self._model,
            version=self._dialect.name,
            max_input_tokens=max(0, total - 1),
            max_total_tokens=total,
            concurrency=await self._concurrency(),
            resumes="text" if self._template is not None or self._dialect.renders else "no",
        )

    async def _concurrency(self) -> int:
        """What llama.cpp's server runs together; the others do not tell."""
        with suppress(EngineRefused, EngineFailed, ValueError, TypeError, KeyError):
            if self._dialect.tells_slots:
                return max(1, int((await self._http.get("/props"))["total_slots"]))
        return _CONCURRENCY

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
        """See `Engine.render`. Empty where the server applies the template and does not say what comes of it."""
        turns = [message.model_dump(exclude_none=True) for message in messages]
        if self._template is None:
            return await self._rendered(turns) if self._dialect.renders else ""
        try:
            return self._template.render(turns)
        except ChatTemplateError as error:
            raise EngineRefused(f"the model's chat template refuses: {error}", field="messages") from error

    async def _rendered(self, turns: list[dict[str, Any]]) -> str:
        said = await self._http.post("/apply-template", {"messages": turns})
        prompt = said.get("prompt") if isinstance(said, dict) else None
        if not isinstance(prompt, str):
            raise EngineFailed("the engine does not say how it renders a conversation")
        return prompt

    async def generate(self, request: GenerateRequest, traceparent: str | None) -> AsyncGenerator[Piece | Finish, None]:
        """See `Engine.generate`."""
        begun = request.begun or Continuation((), "", 0)
        dialect = self._dialect
        constrained = request.grammar is not None and not dialect.constrains_completions
        as_chat = bool(request.messages) and (not request.prompt or constrained)
        if constrained and not as_chat:
            raise EngineRefused("this engine offers structured output in chats only", field="response_format")
        path = "/v1/chat/completions" if as_chat else "/v1/completions"
        body = _body(request, begun, self._model, dialect) | (
            _chat(request) if as_chat else _completion(request, begun)
        )
        top = request.top_logprobs
        if top is not None:
            body |= openai_logprobs.asked(top, chat=as_chat)
        reason: StopReason | None = None
        held: Piece | None = None
        tokens, usage = begun.tokens, dict[str, Any]()
        try:
            async with aclosing(self._http.events(path, body, traceparent)) as events:
                async for event in events:
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        text = (choice["delta"].get("content") if as_chat else choice["text"]) or ""
                        came = _pieces(event, choice, text, tokens - begun.tokens, top)
                        # One behind: which piece is the last is known with the next event only.
                        for piece in came:
                            if held is not None:
                                yield held
                            held = piece
                            tokens += piece.tokens
                        if choice.get("finish_reason"):
                            reason = _reason(choice)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineFailed(f"the engine's stream cannot be understood: {reason_of(error)}") from error
        if reason is None:
            raise EngineFailed("the engine's stream ended without a reason")
        made = usage.get("completion_tokens")
        if held is not None and held.scored is None and made is not None:
            # What the stream did not tell of: tokens without text, such as the one that ends the answer.
            held = replace(held, tokens=held.tokens + max(0, int(made) + begun.tokens - tokens))
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
            async with slots:
                return len(await self._read(text)) if text else 0

        return list(await asyncio.gather(*(count(text) for text in texts)))

    async def _read(self, text: str) -> list[int]:
        # vLLM calls the text `prompt`, llama.cpp `content`; each ignores the other's.
        body = {"model": self._model, "prompt": text, "content": text, "add_special": True}
        said = await self._http.post("/tokenize", body)
        try:
            return [int(token) for token in said["tokens"]]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed("the engine does not say how it reads a text") from error

    async def resume_point(self, prompt: str, made: Snapshot) -> Continuation:
        """See `Engine.resume_point`."""
        try:
            if made.ids:
                return await where_read_alike(prompt, made, self._read)
            return await at_word_as_read(prompt, made, self._read)
        except (EngineRefused, EngineFailed):
            return at_word(made)  # it reads no texts for us

    async def holds(self, key: str) -> bool:
        """Never: such servers keep their KV to themselves."""
        return False

    async def take_kv(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvPiece]:
        """None: see `holds`."""
        return {}

    async def give_kv(self, key: str, pieces: Sequence[KvPiece]) -> bool:
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


def _pieces(event: dict[str, Any], choice: dict[str, Any], text: str, counted: int, top: int | None) -> list[Piece]:
    """What came with an event; nothing where it only opens or closes the stream.

    Args:
        counted: tokens that came before it.
        top: how many of the likeliest tokens were asked for; None where no log probabilities were.
    """
    ids = tuple(int(one) for one in choice.get("token_ids") or ())
    timings = event.get("timings")
    tokens = len(ids)
    if not ids and timings is not None:
        tokens = max(0, int(timings["predicted_n"]) - counted)
    if top is not None:
        return openai_logprobs.pieces(text, choice.get("logprobs"), top, first=counted == 0, ids=ids, tokens=tokens)
    if not ids and timings is None:
        bare = bool(choice.get("finish_reason") or (choice.get("delta") or {}).get("role"))
        tokens = 0 if bare and not text else 1
    return [Piece(text, tokens, ids)] if text or tokens else []


def _reason(choice: dict[str, Any]) -> StopReason:
    said = choice["finish_reason"]
    if said in _GIVEN_UP:
        raise EngineFailed("the engine gave the generation up")
    if said == "stop" and isinstance(choice.get("stop_reason"), str):
        return "stop_sequence"
    return _REASONS.get(said, "end")


def _body(request: GenerateRequest, begun: Continuation, model: str, dialect: Dialect) -> dict[str, Any]:
    sampling = request.sampling
    values: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_new_tokens - begun.tokens,
        "temperature": sampling.temperature or 0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        dialect.repetition_penalty: sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "stop": list(request.stop) or None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    named = {name: value for name, value in values.items() if value is not None}
    form = {} if request.grammar is None else dialect.response_format(request.grammar)
    return {**dialect.always, **dialect.unsampled, **named, **form}


def _completion(request: GenerateRequest, begun: Continuation) -> dict[str, Any]:
    return {"prompt": request.prompt + begun.text}


def _chat(request: GenerateRequest) -> dict[str, Any]:
    return {"messages": [message.model_dump(exclude_none=True) for message in request.messages]}
