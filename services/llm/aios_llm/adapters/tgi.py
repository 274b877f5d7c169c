"""Hugging Face's Text Generation Inference (3.x) and whatever speaks its native API, over HTTP.

What our own engine offers beyond TGI is used where `/info` announces it under `aios`: going on from token ids, and
holding the KV of a generation that is paused.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from aios_kit.chat_template import ChatTemplate, ChatTemplateError
from aios_llm.adapters.engine_http import EngineHttp, reason_of
from aios_llm.generated import Snapshot
from aios_llm.logprobs import Likelihood, Scored, likeliest_not_told, not_told, scored
from aios_llm.ports import (
    Continuation,
    EngineInfo,
    Finish,
    GenerateRequest,
    KvMark,
    KvPiece,
    KvWanted,
    Piece,
    StopReason,
)
from aios_llm.resume_point import at_word, where_read_alike
from aios_proto.errors import EngineFailed, EngineRefused
from aios_proto.messages.llm import ChatMessage

_REASONS: dict[str, StopReason] = {"length": "length", "eos_token": "end", "stop_sequence": "stop_sequence"}
_EXTENSIONS = "aios"
_DEFAULT_CONCURRENCY = 32
_MOST_CONCURRENCY = 128
_MOST_ID_CHARS = 128
_READS_AT_ONCE = 8
_KEEP_S = 30.0


class TgiEngine:
    """The `Engine` port on TGI's native API.

    Args:
        url: base URL of the server.
        api_key: bearer key, if it wants one.
        connect_timeout_s: longest wait for a connection.
        silence_s: longest wait for the next bytes of a stream.
        extensions: whether to use what the server offers beyond TGI.
    """

    def __init__(
        self, url: str, api_key: str | None, connect_timeout_s: float, silence_s: float, *, extensions: bool = True
    ) -> None:
        self._http = EngineHttp(url, api_key, connect_timeout_s, silence_s, _KEEP_S)
        self._extensions = extensions
        self._healthy = False
        self._template: ChatTemplate | None = None
        self._takes_ids = self._holds_kv = False

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        said = await self._http.get("/info")
        try:
            if not self._extensions:
                said.pop(_EXTENSIONS, None)
            extensions = said.get(_EXTENSIONS) or {}
            self._template = _template(extensions)
            self._takes_ids, self._holds_kv = bool(extensions.get("generated_ids")), bool(extensions.get("kv_hold"))
            return _info(said)
        except ChatTemplateError as error:
            raise EngineFailed(f"the engine's chat template is of no use: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineFailed(f"the engine's /info cannot be understood: {reason_of(error)}") from error

    async def healthy(self) -> bool:
        """See `Engine.healthy`."""
        healthy = await self._http.status("/health") == 200
        if healthy and not self._healthy:
            self._http.forgive()  # it has come back: what it did before does not count
        self._healthy = healthy
        return healthy

    async def render(self, messages: list[ChatMessage]) -> str:
        """See `Engine.render`. Locally where the engine gives its template away, else by the engine itself."""
        turns = [message.model_dump(exclude_none=True) for message in messages]
        if self._template is not None:
            try:
                return self._template.render(turns)
            except ChatTemplateError as error:
                raise EngineRefused(f"the model's chat template refuses: {error}", field="messages") from error
        said = await self._http.post("/chat_tokenize", {"messages": turns})
        text = said.get("templated_text") if isinstance(said, dict) else None
        if not isinstance(text, str):
            raise EngineFailed("the engine does not say how it renders a conversation")
        return text

    async def generate(self, request: GenerateRequest, traceparent: str | None) -> AsyncGenerator[Piece | Finish, None]:
        """See `Engine.generate`."""
        body = _body(request, takes_ids=self._takes_ids, holds_kv=self._holds_kv)
        top = request.top_logprobs
        try:
            async with aclosing(self._http.events("/generate_stream", body, traceparent)) as events:
                async for event in events:
                    token = event["token"]
                    text = "" if token["special"] else token["text"]
                    piece = Piece(text, 1, (token["id"],), None if top is None else _scored(event, top))
                    if event.get("details") is not None:
                        # Engines that take ids count what was made before themselves.
                        counted = request.begun is not None and request.begun.ids and self._takes_ids
                        yield _finish(event["details"], piece, None if counted else request.begun)
                        return
                    yield piece
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed(f"the engine's stream cannot be understood: {reason_of(error)}") from error
        raise EngineFailed("the engine's stream ended without its details")

    async def resume_point(self, prompt: str, made: Snapshot) -> Continuation:
        """See `Engine.resume_point`."""
        if self._takes_ids and made.ids:
            return made.whole
        if not made.ids:
            return at_word(made)
        try:
            return await where_read_alike(prompt, made, self._read)
        except (EngineRefused, EngineFailed):
            return at_word(made)  # it reads no texts for us

    async def count_tokens(self, texts: list[str]) -> list[int]:
        """See `Engine.count_tokens`. TGI reads one text a request; some run at the same time."""
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def count(text: str) -> int:
            async with slots:
                return len(await self._read(text)) if text else 0

        return list(await asyncio.gather(*(count(text) for text in texts)))

    async def _read(self, text: str) -> list[int]:
        said = await self._http.post("/tokenize", {"inputs": text})
        try:
            return [int(token["id"]) for token in said]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed("the engine does not say how it reads a text") from error

    async def holds(self, key: str) -> bool:
        """See `Engine.holds`."""
        return self._holds_kv and (await self._http.raw("HEAD", _kv(key))).status == 200

    async def take_kv(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvPiece]:
        """See `Engine.take_kv`."""
        reads: list[dict[str, str | int]] = []
        for key, part in wanted.items():
            reads.append({"key": key, "max_bytes": part.max_bytes})
            if part.after is not None:
                reads[-1] |= {"after": part.after.tokens, "digest": part.after.digest}
        answer = await self._http.raw("POST", "/aios/kv", json={"reads": reads})
        if answer.status != 200:
            return {}
        try:
            return _pieces(answer.data)
        except (KeyError, TypeError, ValueError):
            return {}

    async def give_kv(self, key: str, pieces: Sequence[KvPiece]) -> bool:
        """See `Engine.give_kv`."""

        async def body() -> AsyncGenerator[bytes, None]:
            for piece in pieces:
                yield piece.data

        return (await self._http.raw("PUT", _kv(key), body())).status == 204

    async def release_kv(self, key: str) -> None:
        """See `Engine.release_kv`."""
        if self._holds_kv:
            await self._http.raw("DELETE", _kv(key))

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._http.close()


def _pieces(data: bytes) -> dict[str, KvPiece]:
    """What an answer has of each key: a line of JSON, and the bytes that it says follow it.

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    pieces, at = {}, 0
    while at < len(data):
        begin = data.index(b"\n", at) + 1
        head = orjson.loads(data[at:begin])
        at = begin + int(head["bytes"])
        pieces[head["key"]] = KvPiece(data[begin:at], KvMark(int(head["end"]), str(head["digest"])))
    return pieces


def _kv(key: str) -> str:
    return f"/aios/kv/{key}"


def _template(extensions: dict[str, Any]) -> ChatTemplate | None:
    source = extensions.get("chat_template")
    if not source:
        return None
    return ChatTemplate(
        source, bos_token=extensions.get("bos_token") or "", eos_token=extensions.get("eos_token") or ""
    )


def _info(said: dict[str, Any]) -> EngineInfo:
    extensions = said.get(_EXTENSIONS) or {}
    concurrency = extensions.get("max_sequences") or said.get("max_batch_size") or _DEFAULT_CONCURRENCY
    concurrency = min(concurrency, said.get("max_concurrent_requests") or concurrency, _MOST_CONCURRENCY)
    model = said["model_id"]
    if not isinstance(model, str):
        raise TypeError("model_id is not a text")
    return EngineInfo(
        model=model,
        version=f"tgi {said.get('version', '')}".strip(),
        max_input_tokens=int(said.get("max_input_tokens") or said.get("max_input_length") or 0),
        max_total_tokens=int(said.get("max_total_tokens") or 0),
        concurrency=max(1, int(concurrency)),
        kv_tokens=said.get("max_batch_total_tokens"),
        resumes="ids" if extensions.get("generated_ids") else "text",
        fingerprint=str(extensions.get("fingerprint") or ""),
        holds_kv=bool(extensions.get("kv_hold")),
        kv_pieces=bool(extensions.get("kv_pieces")),
        id=str(extensions.get("id") or "")[:_MOST_ID_CHARS],
    )


def _body(request: GenerateRequest, *, takes_ids: bool, holds_kv: bool) -> dict[str, Any]:
    sampling, begun = request.sampling, request.begun
    inputs, max_new_tokens, extensions = request.prompt, request.max_new_tokens, dict[str, Any]()
    if begun is not None and begun.ids and takes_ids:
        extensions["generated_ids"] = list(begun.ids)
    elif begun is not None:
        inputs, max_new_tokens = inputs + begun.text, max_new_tokens - begun.tokens
    if holds_kv and request.kv_key is not None:
        extensions["kv_key"] = request.kv_key
        if request.kv_from is not None:
            extensions["kv_from"] = request.kv_from
    parameters: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "details": True,
        "do_sample": sampling.temperature is not None,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "stop": list(request.stop),
        "top_n_tokens": request.top_logprobs or None,
        "grammar": None if request.grammar is None else {"type": request.grammar.kind, "value": request.grammar.value},
    }
    return {"inputs": inputs, "parameters": {k: v for k, v in parameters.items() if v is not None}, **extensions}


def _scored(event: dict[str, Any], top: int) -> Scored:
    token, best = event["token"], event.get("top_tokens")
    if token["logprob"] is None:
        raise not_told()
    if top and not best:
        raise likeliest_not_told()
    # JSON has no infinity: what a grammar forbids has null.
    return scored(_likelihood(token), [_likelihood(one) for one in best or () if one["logprob"] is not None], top)


def _likelihood(token: dict[str, Any]) -> Likelihood:
    return Likelihood(token["text"], token["logprob"], token.get("bytes"))


def _finish(details: dict[str, Any], last: Piece, read_again: Continuation | None) -> Finish:
    before = 0 if read_again is None else read_again.tokens
    return Finish(
        reason=_REASONS.get(details["finish_reason"], "end"),
        prompt_tokens=max(0, (details.get("input_length") or 0) - before),
        completion_tokens=details["generated_tokens"] + before,
        cached_tokens=details.get("cached_tokens") or 0,
        last=last,
    )
