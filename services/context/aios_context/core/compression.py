"""What a summary is to stand for, how the model is asked for it, and in how many calls.

A conversation is longer than the window of the model that summarises it, so it is folded: each call gets the summary
so far and the next part, and answers a new summary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from aios_context.core.record import Message
from aios_context.core.view import Turn
from aios_context.core.window import Sized, begins_with_user, unit_tokens, units_of
from aios_proto.errors import InvalidRequest
from aios_proto.messages.llm import ChatMessage

LEAST_SUMMARY_TOKENS = 32
MOST_SUMMARY_TOKENS = 512
SUMMARY_PREFIX = "Summary of the conversation so far:\n"

_INSTRUCTION = (
    "You summarise conversations. Keep names, numbers, dates, decisions, instructions and open questions. "
    "Write plain text of at most {words} words, and nothing but the summary."
)
_WORDS_A_TOKEN = 0.6
# The instruction, the frame around the parts, and room for a tokeniser that counts the whole differently than parts.
_FRAME_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Compression:
    """What to summarise.

    Attributes:
        before_tokens: of the context's prompt now.
        summarised: the turns the summary will stand for, an earlier summary included; empty where nothing need be.
        summary_of: first and last turn.
        summary_tokens: most tokens of the summary.
        rest_tokens: of the prompt without the turns summarised.
    """

    before_tokens: int
    summarised: tuple[Sized, ...] = ()
    summary_of: tuple[int, int] = (0, 0)
    summary_tokens: int = 0
    rest_tokens: int = 0


def plan(turns: Sequence[Sized], overhead_tokens: int, target_tokens: int) -> Compression:
    """Chooses the oldest turns, as few as make the context fit the target with their summary.

    Args:
        turns: as they stand, in order.
        overhead_tokens: what the chat template adds once.
        target_tokens: of the prompt afterwards, at most.

    Raises:
        InvalidRequest: system and pinned turns with a summary are more than the target.
    """
    before = overhead_tokens + sum(sized.tokens for sized in turns)
    if before <= target_tokens:
        return Compression(before)
    summary_tokens = max(LEAST_SUMMARY_TOKENS, min(MOST_SUMMARY_TOKENS, target_tokens // 4))
    kept = overhead_tokens + sum(sized.tokens for sized in turns if sized.turn.kept)
    if kept + summary_tokens > target_tokens:
        raise InvalidRequest(
            f"the system and pinned turns have {kept} tokens, and a summary takes {summary_tokens} more",
            field="target_tokens",
        )
    earlier = [sized for sized in turns if sized.turn.summary_of is not None and not sized.turn.kept]
    units = units_of(turns)
    room = target_tokens - kept - summary_tokens
    left = sum(unit_tokens(unit) for unit in units)
    cut = 0
    while cut < len(units) and left > room:
        left -= unit_tokens(units[cut])
        cut += 1
    at_user = next((later for later in range(cut, len(units)) if begins_with_user(units[later])), cut)
    left -= sum(unit_tokens(unit) for unit in units[cut:at_user])
    cut = at_user
    chosen = sorted(
        (*earlier, *(sized for unit in units[:cut] for sized in unit)),
        key=lambda sized: sized.turn.number if sized.turn.summary_of is None else sized.turn.summary_of[0],
    )
    first = min(_first(sized.turn) for sized in chosen)
    last = max(_last(sized.turn) for sized in chosen)
    return Compression(before, tuple(chosen), (first, last), summary_tokens, kept + left)


def parts(compression: Compression, window_tokens: int) -> list[str]:
    """The text to summarise, cut where one call's window is full.

    Args:
        compression: what to summarise.
        window_tokens: most tokens of one call, prompt and answer together.

    Raises:
        InvalidRequest: the window leaves no room for any text.
    """
    room = window_tokens - 2 * compression.summary_tokens - _FRAME_TOKENS
    if room < compression.summary_tokens:
        raise InvalidRequest(
            f"a window of {window_tokens} tokens is too small to make a summary in", field="target_tokens"
        )
    made: list[str] = []
    texts: list[str] = []
    used = 0
    for sized in compression.summarised:
        for text, tokens in _pieces(text_of(sized.turn), sized.tokens, room):
            if texts and used + tokens > room:
                made.append("\n".join(texts))
                texts, used = [], 0
            texts.append(text)
            used += tokens
    made.append("\n".join(texts))
    return made


def request(summary: str | None, part: str, summary_tokens: int) -> list[ChatMessage]:
    """What the model is asked, for one part."""
    so_far = "" if summary is None else f"Summary of what came before:\n{summary}\n\n"
    return [
        ChatMessage(role="system", content=_INSTRUCTION.format(words=int(summary_tokens * _WORDS_A_TOKEN))),
        ChatMessage(role="user", content=f"{so_far}Conversation:\n{part}\n\nSummarise all of it."),
    ]


def summary_message(text: str) -> Message:
    """The turn that is recorded."""
    return {"role": "system", "content": SUMMARY_PREFIX + text.strip()}


def text_of(turn: Turn) -> str:
    """A turn as a line of a transcript."""
    message = turn.message
    content = str(message.get("content") or "")
    if turn.summary_of is not None:
        return content
    calls = message.get("tool_calls")
    called = "" if not calls else f" [calls {orjson.dumps(calls).decode()}]"
    return f"{message['role']}: {content}{called}"


def _first(turn: Turn) -> int:
    return turn.number if turn.summary_of is None else turn.summary_of[0]


def _last(turn: Turn) -> int:
    return turn.number if turn.summary_of is None else turn.summary_of[1]


def _pieces(text: str, tokens: int, room: int) -> list[tuple[str, int]]:
    """A text in pieces of at most `room` tokens, taking tokens to be spread evenly over it."""
    count = -(-tokens // room)
    if count <= 1:
        return [(text, tokens)]
    size = -(-len(text) // count)
    return [(text[start : start + size], -(-tokens // count)) for start in range(0, len(text), size)]
