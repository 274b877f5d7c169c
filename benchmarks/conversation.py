"""A long conversation about nothing in particular, the same in every run, and how long a call took."""

import random
import time
from collections.abc import Awaitable
from typing import TypeVar

from aios import Context

_TOPICS = ("the garden", "a recipe for bread", "the train to Oslo", "an old radio", "the river", "chess", "a new roof")
_WORDS = (
    "we",
    "could",
    "begin",
    "early",
    "and",
    "look",
    "again",
    "because",
    "nobody",
    "asked",
    "how",
    "long",
    "it",
    "takes",
)

T = TypeVar("T")


def turn(number: int, words: int = 70) -> dict[str, str]:
    """One turn of a conversation about nothing in particular, the same in every run."""
    chance = random.Random(number)
    text = " ".join(chance.choice(_WORDS) for _ in range(words))
    return {"role": ("user", "assistant")[number % 2], "content": f"About {chance.choice(_TOPICS)}: {text}."}


async def timed(work: Awaitable[T]) -> tuple[float, T]:
    begun = time.perf_counter()
    result = await work
    return (time.perf_counter() - begun) * 1000, result


async def fill(talk: Context, tokens: int, turns: int = 80) -> int:
    """Appends so many turns at a time until the context has so many tokens; returns how many it has."""
    number = total = 0
    while total < tokens:
        await talk.append([turn(number + n) for n in range(turns)])
        number += turns
        window = await talk.window(deadline_s=300)
        total = window.tokens + window.left_out_tokens
    return total
