"""How much of an answer a call's budget pays for, with the prompt counted as the engine reads it."""

from dataclasses import replace

from aios_llm.ports import Engine, GenerateRequest
from aios_proto.errors import EngineFailed, QuotaExhausted

_TURN_TOKENS = 16
"""What a chat template adds to each turn, at the most."""


async def held_to(budget_tokens: int | None, request: GenerateRequest, engine: Engine) -> GenerateRequest:
    """The request with no more new tokens than are left of the budget after the prompt.

    Access has reserved what the call was estimated at; this is where it shows that a prompt is longer than that. An
    engine that does not count tokens leaves it at the estimate.

    Args:
        budget_tokens: what prompt and answer may be together; None where nothing limits them.
        request: for the whole answer.
        engine: counts.

    Raises:
        QuotaExhausted: the prompt leaves nothing for an answer.
        EngineUnavailable: the engine cannot be reached.
    """
    if budget_tokens is None:
        return request
    texts = [request.prompt] if request.prompt else [message.content or "" for message in request.messages]
    overhead = _TURN_TOKENS * len(request.messages)
    # No text has more tokens than bytes, so most calls need not be counted.
    if sum(len(text.encode()) for text in texts) + overhead + request.max_new_tokens <= budget_tokens:
        return request
    try:
        prompt_tokens = sum(await engine.count_tokens(texts))
    except EngineFailed:
        return request
    left = budget_tokens - prompt_tokens
    if left < 1:
        raise QuotaExhausted(f"the prompt has {prompt_tokens} tokens, and {budget_tokens} are left of the quota")
    return replace(request, max_new_tokens=min(request.max_new_tokens, left))
