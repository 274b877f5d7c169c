"""One answer that is paused and gone on with five times: how much of it the engine has to compute again."""

import asyncio
import time
from typing import Any

from conversation import turn
from report import Bar, Report
from road import Road

from aios import Agent, Call, ChatReply

FORKS = 5
_TURNS = 10
_PAUSED_WORDS = 30
_MORE_TOKENS = 160
_LEAST_SHARE = 0.98


async def measure_forks(road: Road) -> dict[str, Any]:
    """A chat after a conversation of about a thousand tokens, paused and continued by sampling."""
    messages = [*(turn(number) for number in range(_TURNS)), {"role": "user", "content": "Tell a story about a river."}]
    async with Agent(token=road.token, url=road.url) as agent:
        call = agent.llm.chat(messages, max_tokens=800)
        begun = time.perf_counter()
        first_s = None
        async for _ in call:
            first_s = first_s or time.perf_counter() - begun
            if len(call.text.split()) >= _PAUSED_WORDS:
                break
        if not await agent.llm.pause(call):
            raise RuntimeError("the answer ended before it could be paused")
        forks = agent.llm.fork(call, FORKS, temperature=1.0, max_tokens=_MORE_TOKENS)
        continuations = await asyncio.gather(*(_follow(fork, len(call.text)) for fork in forks))
    return {
        "paused_characters": len(call.text),
        "first_token_s": first_s,
        "starting_alike": sum(found["text"].startswith(call.text) for found in continuations),
        "different": len({found["text"] for found in continuations}),
        "continuations": continuations,
    }


async def _follow(call: Call[ChatReply], paused_characters: int) -> dict[str, Any]:
    begun = time.perf_counter()
    next_s = None
    async for _ in call:
        if next_s is None and len(call.text) > paused_characters:
            next_s = time.perf_counter() - begun
    reply = await call
    assert reply.usage is not None
    return {"text": reply.text, "next_token_s": next_s, **reply.usage.model_dump()}


def show_forks(report: Report, forks: dict[str, Any]) -> None:
    """Rows and bars."""
    found = forks["continuations"]
    report.rows.append(("fork: first token of the call that is paused", f"{forks['first_token_s']:.2f} s", ""))
    for number, each in enumerate(found, 1):
        prefix = f"{each['cached_tokens']} of {each['prompt_tokens']} tokens of prompt and beginning were cached"
        report.rows.append(
            (f"fork {number}: {prefix}, {each['completion_tokens']} made", f"{each['next_token_s']:.2f} s", "")
        )
    share = min(each["cached_tokens"] / each["prompt_tokens"] for each in found)
    report.bars += [
        Bar("forks: least share of the prefix that was cached", share, _LEAST_SHARE, "", at_most=False),
        Bar("forks that begin with what was paused", forks["starting_alike"], FORKS, "", at_most=False),
        Bar("forks that differ", forks["different"], FORKS, "", at_most=False),
    ]
