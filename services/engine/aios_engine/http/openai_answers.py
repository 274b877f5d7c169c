"""The answers of the OpenAI-compatible routes, as text-generation-inference forms them."""

import time
from collections.abc import Iterable

from aios_engine import __version__
from aios_engine.backend import GeneratedToken, TokenEvent
from aios_engine.chat import ToolCall
from aios_engine.core.stopping import FinishReason
from aios_engine.inference import Completed, Running
from aios_engine.tool_stream import CallDelta

Json = dict[str, object]


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for an end-of-sequence token is `stop`; TGI leaves the others as they are."""
    return "stop" if reason is FinishReason.EOS_TOKEN else str(reason)


class Answers:
    """Forms the answers to one request."""

    def __init__(self, model: str) -> None:
        self._model = model

    def chat(self, completed: Completed, call: ToolCall | None, *, logprobs: bool) -> Json:
        """A whole chat answer."""
        message: Json = {"role": "assistant"}
        if call is None:
            message["content"] = completed.ending.text
        else:
            message["tool_calls"] = [
                {
                    "id": f"call_{completed.received_ns:x}",
                    "type": "function",
                    "function": {"description": None, "name": call.name, "arguments": call.arguments},
                }
            ]
        choice: Json = {
            "index": 0,
            "message": message,
            "logprobs": {"content": [_logprob(*pair) for pair in _pairs(completed)]} if logprobs else None,
            "finish_reason": finish_reason(completed.ending.reason),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage([completed])}

    def completions(self, completed: list[Completed], *, logprobs: bool) -> Json:
        """A whole completion answer."""
        choices = [
            {
                "index": index,
                "text": one.ending.text,
                "logprobs": _parallel(_pairs(one), 0) if logprobs else None,
                "finish_reason": finish_reason(one.ending.reason),
            }
            for index, one in enumerate(completed)
        ]
        return {**self._head("text_completion"), "choices": choices, "usage": _usage(completed)}

    def text_chunk(self, event: TokenEvent, *, logprobs: bool) -> Json:
        """One token of a chat answer in words; control tokens add no text."""
        return self._chunk(
            {"role": "assistant", "content": "" if event.token.special else event.token.text},
            None if event.ending is None else finish_reason(event.ending.reason),
            {"content": [_logprob(event.token, event.top_tokens)]} if logprobs else None,
        )

    def tool_chunk(self, delta: CallDelta, call_id: str) -> Json:
        """A piece of a call."""
        call = {
            "index": 0,
            "id": call_id,
            "type": "function",
            "function": {"name": delta.name, "arguments": delta.arguments},
        }
        return self._chunk({"role": "assistant", "tool_calls": [call]}, None)

    def end_chunk(self, reason: FinishReason) -> Json:
        """The end of a call."""
        return self._chunk({"role": "assistant", "content": ""}, finish_reason(reason))

    def usage_chunk(self, running: Running) -> Json:
        """The tokens of a stream, after its last chunk."""
        progress = running.generation.progress
        usage = _usage_json(len(running.request.prompt), progress.generated_tokens, progress.cached_tokens)
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    def completion_chunk(self, index: int, event: TokenEvent, running: Running, logprobs_at: int | None) -> Json:
        """One token of a completion; the last tells why it ended, and the tokens.

        Args:
            index: of the prompt.
            event: the token.
            running: its generation.
            logprobs_at: characters before it, where log probabilities are wanted.
        """
        choice: Json = {
            "index": index,
            "text": "" if event.token.special else event.token.text,
            "logprobs": None if logprobs_at is None else _parallel([(event.token, event.top_tokens)], logprobs_at),
            "finish_reason": "" if event.ending is None else str(event.ending.reason),
        }
        answer: Json = {**self._head("text_completion"), "choices": [choice]}
        if event.ending is not None:
            progress = running.generation.progress
            answer["usage"] = _usage_json(
                len(running.request.prompt), progress.generated_tokens, progress.cached_tokens
            )
        return answer

    def _chunk(self, delta: Json, finished: str | None, logprobs: Json | None = None) -> Json:
        choice: Json = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finished}
        return {**self._head("chat.completion.chunk"), "choices": [choice], "usage": None}

    def _head(self, kind: str) -> Json:
        return {
            "object": kind,
            "id": "",
            "created": int(time.time()),
            "model": self._model,
            "system_fingerprint": f"{__version__}-native",
        }


Pair = tuple[GeneratedToken, tuple[GeneratedToken, ...]]
"""A token, and the likeliest at its place."""


def _pairs(completed: Completed) -> Iterable[Pair]:
    return zip(completed.tokens, completed.top_tokens or ((),) * len(completed.tokens), strict=True)


def _logprob(token: GeneratedToken, top_tokens: tuple[GeneratedToken, ...]) -> Json:
    return {**_likelihood(token), "top_logprobs": [_likelihood(other) for other in top_tokens]}


def _likelihood(token: GeneratedToken) -> Json:
    raw = token.text.encode() if token.raw is None else token.raw
    return {"token": token.text, "logprob": token.logprob, "bytes": list(raw)}


def _parallel(pairs: Iterable[Pair], at: int) -> Json:
    """OpenAI's form for completions: parallel lists. The token itself is among the likeliest, if any are told."""
    tokens: list[str] = []
    logprobs: list[float] = []
    likeliest: list[dict[str, float]] = []
    offsets: list[int] = []
    for token, best in pairs:
        tokens.append(token.text)
        logprobs.append(token.logprob)
        likeliest.append({})
        for other in (*best, token):
            likeliest[-1].setdefault(other.text, other.logprob)
        offsets.append(at)
        at += 0 if token.special else len(token.text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": likeliest, "text_offset": offsets}


def _usage(completed: list[Completed]) -> Json:
    return _usage_json(
        sum(len(one.request.prompt) for one in completed),
        sum(one.ending.generated_tokens for one in completed),
        sum(one.progress.cached_tokens for one in completed),
    )


def _usage_json(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
