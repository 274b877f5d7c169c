"""What a model call means for an engine, and what the engine's end means for the caller."""

import hashlib

from aios_llm.ports import Finish, GenerateRequest, Grammar, Sampling
from aios_llm.tool_calls import inner_schema, offers_tools, read_turn
from aios_proto.messages.base import Result
from aios_proto.messages.llm import (
    ChatMessage,
    ChatRequest,
    ChatResult,
    CompleteRequest,
    CompleteResult,
    FinishReason,
    Generation,
    JsonSchemaFormat,
    RegexFormat,
)

_FINISH: dict[str, FinishReason] = {"length": "length", "end": "stop", "stop_sequence": "stop"}
_SEED_BITS = 53


def generate_request(
    prompt: str, call: ChatRequest | CompleteRequest, key: str, default_max_tokens: int
) -> GenerateRequest:
    """The engine's request for a call.

    A sampled call without a seed gets one made from its key, so that it is the same when it must be run again.

    Args:
        prompt: with the chat template applied.
        call: the caller's request.
        key: the call's key.
        default_max_tokens: new tokens where the caller names no limit.
    """
    sampled = bool(call.temperature)
    return GenerateRequest(
        prompt=prompt,
        max_new_tokens=call.max_tokens or default_max_tokens,
        sampling=Sampling(
            temperature=call.temperature if sampled else None,
            top_p=call.top_p if sampled and call.top_p != 1 else None,
            top_k=call.top_k if sampled else None,
            repetition_penalty=call.repetition_penalty,
            frequency_penalty=call.frequency_penalty,
            seed=(seed_of(key) if call.seed is None else call.seed) if sampled else None,
        ),
        stop=tuple(call.stop),
        grammar=_grammar(call),
        messages=tuple(call.messages) if isinstance(call, ChatRequest) else (),
        top_logprobs=(call.top_logprobs or 0) if call.logprobs else None,
    )


def seed_of(key: str) -> int:
    """The seed of a call that names none: 53 bits of a hash of its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def result(call: ChatRequest | CompleteRequest, text: str, finish: Finish, model: str, call_id: str) -> Result:
    """The result of a call that ended.

    Raises:
        EngineFailed: it offered tools, and the engine did not hold the answer to their schema.
    """
    reason = _FINISH[finish.reason]
    if isinstance(call, ChatRequest):
        if offers_tools(call) and reason != "length":
            message, reason = read_turn(text, call_id)
            return ChatResult(message=message, finish_reason=reason, model=model)
        return ChatResult(message=ChatMessage(role="assistant", content=text), finish_reason=reason, model=model)
    return CompleteResult(text=text, finish_reason=reason, model=model)


def _grammar(call: Generation) -> Grammar | None:
    match call.response_format:
        case JsonSchemaFormat() as given:
            return Grammar("json", inner_schema(given))
        case RegexFormat(regex=regex):
            return Grammar("regex", regex)
        case _:
            return None
